"""Workers run where they are told to; the trainer stays where it is."""

from __future__ import annotations

import os

import pytest

from vecsess import VecCheckedSession
from vecsess.fleet.plan import cores


def test_each_worker_is_tied_to_one_core_in_turn() -> None:
    before = os.sched_getaffinity(0)
    allowed = sorted(before)
    with VecCheckedSession("CartPole-v1", n=3, affinity="spread") as vec:
        vec.reset(seed=0)
        places = [os.sched_getaffinity(pid) for pid in vec.pids]
        assert places == [{allowed[index % len(allowed)]} for index in range(3)]
    assert os.sched_getaffinity(0) == before


def test_core_numbers_are_taken_in_turn() -> None:
    core = max(os.sched_getaffinity(0))
    with VecCheckedSession("CartPole-v1", n=2, affinity=[core]) as vec:
        assert [os.sched_getaffinity(pid) for pid in vec.pids] == [{core}, {core}]


def test_without_affinity_workers_may_run_where_the_trainer_may() -> None:
    with VecCheckedSession("CartPole-v1", n=1) as vec:
        assert os.sched_getaffinity(vec.pids[0]) == os.sched_getaffinity(0)


def test_workers_are_nicer_than_the_trainer() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with VecCheckedSession("CartPole-v1", n=2, workers=1, niceness=3) as vec:
        assert os.getpriority(os.PRIO_PROCESS, vec.pids[0]) == min(own + 3, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_core_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="affinity: expected"):
        VecCheckedSession("CartPole-v1", n=1, affinity=[100_000])


@pytest.mark.parametrize("niceness", [-1, 20, 1.5])
def test_a_niceness_out_of_range_is_refused(niceness: float) -> None:
    with pytest.raises(ValueError, match="niceness: expected"):
        VecCheckedSession("CartPole-v1", n=1, niceness=niceness)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, cores() + 1])
def test_workers_do_not_interrupt_who_wakes_them(workers: int) -> None:
    with VecCheckedSession("CartPole-v1", n=cores() + 1, workers=workers) as vec:
        pids = [worker.pid for worker in vec.health()]
        assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
