"""How a wait is spent: spinning while that pays, asleep where it does not."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from vecsess.wire import channel as module
from vecsess.wire.channel import Patience

LONG_NS = 20_000_000_000  # never reached here


@pytest.fixture
def hint() -> memoryview:
    return np.zeros(1, np.uint64).data


def test_what_has_come_already_is_seen_whatever_the_budget(hint: memoryview) -> None:
    hint[0] = 5
    assert Patience(0).spin(hint, 4)
    assert Patience(LONG_NS).spin(hint, 4)


def test_nobody_spins_without_a_budget(hint: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_yield", pytest.fail)
    assert not Patience(0).spin(hint, 0)


def test_it_sees_what_another_writes_while_it_spins(hint: memoryview) -> None:
    patience = Patience(LONG_NS)
    writer = threading.Timer(0.02, hint.__setitem__, (0, 1))
    writer.start()
    # The other thread takes the lock of the interpreter, and so the core: a long yield is no sign.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_CROWDED_NS", LONG_NS)
        assert patience.spin(hint, 0)
    writer.join()


def test_after_a_long_wait_it_sleeps_at_once_until_one_is_short(
    hint: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0]
    monkeypatch.setattr(module, "perf_counter_ns", lambda: now[0])
    patience = Patience(1000)
    patience.spin(hint, 1)
    now[0] = 5000
    assert patience.over() == 5000
    monkeypatch.setattr(os, "sched_yield", pytest.fail)
    assert not patience.spin(hint, 0), "the last wait was not worth spinning for"
    now[0] = 5500
    patience.over()
    monkeypatch.setattr(os, "sched_yield", lambda: hint.__setitem__(0, 1))
    assert patience.spin(hint, 0), "this one is again"


def test_it_sleeps_where_its_core_is_taken_while_it_yields(
    hint: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, yields = [0], []

    def yielded() -> None:
        yields.append(now[0])
        now[0] += 2_000_000 if len(yields) == 3 else 1000

    monkeypatch.setattr(module, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(os, "sched_yield", yielded)
    assert not Patience(LONG_NS).spin(hint, 0)
    assert len(yields) == 3


def test_the_budget_ends_a_spin(hint: memoryview) -> None:
    began = time.monotonic()
    assert not Patience(1_000_000).spin(hint, 0)
    assert time.monotonic() - began < 10
