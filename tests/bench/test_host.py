"""A contender in a process of its own: what it reports, and that nothing outlives it."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.bench.fakes import BROKEN, CARTPOLE, DYING, HANGING, RAISING, CountingAdapter
from tests.processes import all_gone, is_running, processes_below
from vecsess.bench import host as host_module
from vecsess.bench.host import ContenderFailed, Host, Lane, action_table, workers_cpu_s
from vecsess.bench.registry import ASYNC, BARE

pytestmark = pytest.mark.usefixtures("no_process_left")


def test_a_lane_cycles_through_its_table_and_counts_what_it_timed() -> None:
    adapter = CountingAdapter(CARTPOLE, 4)
    lane = Lane(adapter, ["first", "second", "third"])
    done = lane.run(1e-6)
    timed = len(adapter.seen) - 1  # the first step only wakes
    assert adapter.seen[:4] == ["first", "second", "third", "first"][: timed + 1]
    assert done.steps == timed * 4 > 0
    assert done.elapsed_s > 0


def test_a_lane_goes_on_in_the_table_where_it_stopped() -> None:
    adapter = CountingAdapter(CARTPOLE, 1)
    lane = Lane(adapter, list(range(1000)))
    lane.run(1e-6)
    lane.run(1e-6)
    assert adapter.seen == [index % 1000 for index in range(len(adapter.seen))]


def test_the_table_of_actions_is_the_same_each_time() -> None:
    first, second = action_table(CARTPOLE, 3), action_table(CARTPOLE, 3)
    np.testing.assert_array_equal(first, second)
    assert first[0].shape == (3,)


def test_a_host_starts_runs_and_ends() -> None:
    with Host(BARE, CARTPOLE, 2) as host:
        assert host.started.start_s > 0
        assert (host.started.processes, host.started.pss_bytes) == (0, 0)
        done = host.run(0.01)
    assert done.steps > 0
    assert done.steps % 2 == 0
    assert done.cpu_s > 0
    assert done.workers_cpu_s == 0


def test_a_host_sees_its_workers() -> None:
    with Host(ASYNC, CARTPOLE, 2) as host:
        assert host.started.processes == 2
        assert host.started.pss_bytes > 0
        assert host.run(0.05).workers_cpu_s > 0


def test_this_process_has_workers_while_a_host_runs() -> None:
    with Host(BARE, CARTPOLE, 1):
        assert len(workers_cpu_s()) >= 1


def test_what_an_environment_raises_is_the_reason() -> None:
    with pytest.raises(ContenderFailed, match="RuntimeError: can't be built") as failed:
        Host(BARE, BROKEN, 1)
    assert "raise_in_constructor" in failed.value.details


def test_a_contender_that_raises_later_says_so_then() -> None:
    with Host(RAISING, CARTPOLE, 1) as host, pytest.raises(ContenderFailed, match="no more"):
        host.run(0.01)


def test_a_contender_that_dies_leaves_its_exit_code_and_last_words() -> None:
    with (
        Host(DYING, CARTPOLE, 1) as host,
        pytest.raises(ContenderFailed, match="exit code 7") as failed,
    ):
        host.run(0.01)
    assert "the last words" in failed.value.details


def test_what_a_dead_contender_leaves_behind_is_ended() -> None:
    before = processes_below()
    with Host(DYING, CARTPOLE, 1) as host:
        assert host.started.processes == 1
        started = processes_below() - before
        with pytest.raises(ContenderFailed):
            host.run(0.01)
    assert len(started) == 2
    assert all_gone(started, 3.0)


def test_one_that_does_not_start_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "START_TIMEOUT_S", 0.5)
    with pytest.raises(ContenderFailed, match="no answer in time"):
        Host(HANGING, CARTPOLE, 2)


def test_one_that_would_take_all_memory_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "_SPARE_MEMORY", 1.0)
    with pytest.raises(ContenderFailed, match="more memory than there is"):
        Host(HANGING, CARTPOLE, 2)


def test_closing_twice_is_fine_and_never_reaches_a_stranger() -> None:
    host = Host(BARE, CARTPOLE, 1)
    host.close()
    host.close()
    assert is_running(os.getpid())
