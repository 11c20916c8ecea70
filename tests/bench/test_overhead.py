"""What the manager and the worker add: measured where it should be, and of the right things."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from vecsess.bench.cases import find_case
from vecsess.bench.overhead import ManagerAdapter, WorkerAdapter
from vecsess.bench.readings import BARE_NS, HOST_NS, MANAGER_US, WAITING_US, added_ns

pytestmark = pytest.mark.usefixtures("no_process_left")


def test_the_managers_time_is_that_of_its_step_without_the_waiting() -> None:
    case = find_case("steady", step_us=2000.0)
    with closing(ManagerAdapter(case, 2)) as adapter:
        adapter.reset()
        adapter.take_figures()
        for _ in range(5):
            adapter.step(np.zeros(2, np.int64))
        figures = adapter.take_figures()
        assert adapter.take_figures() == {}
    assert figures["locksteps"] == 5
    assert figures["manager_ns"] > 0
    assert 0 < figures["median_ns"] <= figures["manager_ns"]
    # It waits for steps of 2 ms each, of which it can miss only what it does meanwhile.
    assert figures["waiting_ns"] + figures["manager_ns"] >= 5 * 2e6


@pytest.mark.parametrize("name", ["null", "cartpole", "HalfCheetah-v5"])
def test_both_step_as_many_environments_with_auto_reset(name: str) -> None:
    with closing(WorkerAdapter(find_case(name), 4)) as adapter:
        adapter.reset()
        space = adapter._host.envs[0].action_space
        space.seed(0)
        batches = adapter.prepare([np.stack([space.sample() for _ in range(4)])] * 8)
        assert adapter.steps_per_call == 2
        for _ in range(32):
            for batch in batches:
                adapter.step(batch)
        figures = adapter.take_figures()
    assert figures["host_steps"] == figures["bare_steps"] == 128 * 2
    assert figures["host_ns"] > 0
    assert figures["bare_ns"] > 0


def test_figures_of_one_kind_alone_say_nothing_of_the_difference() -> None:
    with closing(WorkerAdapter(find_case("null"), 2)) as adapter:
        adapter.reset()
        (batch,) = adapter.prepare([np.zeros(2, np.int64)])
        adapter.step(batch)
        figures = adapter.take_figures()
    assert figures["host_steps"] == 1
    assert BARE_NS({"figures": figures}) is None
    assert added_ns({"figures": figures}) is None


def test_what_the_figures_say() -> None:
    figures = {"locksteps": 4.0, "manager_ns": 80e3, "waiting_ns": 400e3}
    assert MANAGER_US({"figures": figures}) == 20
    assert WAITING_US({"figures": figures}) == 100
    figures = {"host_ns": 900.0, "host_steps": 3.0, "bare_ns": 400.0, "bare_steps": 2.0}
    assert HOST_NS({"figures": figures}) == 300
    assert added_ns({"figures": figures}) == 100
