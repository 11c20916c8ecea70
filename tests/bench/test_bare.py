"""Bare loops on all cores: they step together, and are at rest when nobody measures them."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import psutil
import pytest

from tests.processes import is_asleep, processes_below, wait_until
from vecsess.bench import bare
from vecsess.bench.bare import BareLoopsAdapter
from vecsess.bench.cases import find_case

pytestmark = pytest.mark.usefixtures("no_process_left")


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_the_other_cores_step_as_long_as_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "cores_available", lambda: 3)
    before = processes_below()
    with closing(BareLoopsAdapter(find_case("cartpole"), 7)) as adapter:
        assert adapter.steps_per_call == 9
        adapter.reset()
        (batch,) = adapter.prepare([np.zeros(7, np.int64)])
        assert len(batch) == 3
        others = processes_below() - before
        assert len(others) == 2

        def all_work() -> bool:
            adapter.step(batch)
            return all(cpu_s(pid) - began[pid] > 0.1 for pid in others)

        began = {pid: cpu_s(pid) for pid in others}
        assert wait_until(all_work, 30.0)
        assert wait_until(lambda: all(is_asleep(pid) for pid in others), 10.0)


def test_one_environment_is_one_loop() -> None:
    with closing(BareLoopsAdapter(find_case("cartpole"), 1)) as adapter:
        adapter.reset()
        assert adapter.steps_per_call == 1
        assert not adapter._others
