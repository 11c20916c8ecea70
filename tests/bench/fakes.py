"""Contenders and cases that do what a test wants; a module, so that a host can import them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import gymnasium as gym

from vecsess.bench.bare import BareAdapter
from vecsess.bench.cases import Case, find_case
from vecsess.bench.contenders import Adapter, Contender
from vecsess.bench.host import Slice


class CountingAdapter(Adapter):
    """Notes what it is stepped with."""

    def __init__(self, case: Case, n: int) -> None:
        del case
        self.steps_per_call = n
        self.seen: list[Any] = []
        self.closed = False

    def reset(self) -> None:
        self.seen.clear()

    def step(self, actions: Any) -> None:
        self.seen.append(actions)

    def close(self) -> None:
        self.closed = True


class RaisingAdapter(CountingAdapter):
    """Starts well, then raises."""

    def step(self, actions: Any) -> None:
        raise RuntimeError("no more of this")


class HangingAdapter(CountingAdapter):
    """Never gets to its first observation."""

    def reset(self) -> None:
        threading.Event().wait()


class DyingAdapter(CountingAdapter):
    """Starts well, then takes its process with it, and leaves a worker behind."""

    def __init__(self, case: Case, n: int) -> None:
        super().__init__(case, n)
        subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])

    def step(self, actions: Any) -> None:
        os.write(2, b"the last words\n")
        os._exit(7)


def raise_in_constructor() -> gym.Env[Any, Any]:
    raise RuntimeError("can't be built")


CARTPOLE = find_case("cartpole")
BROKEN = Case(name="broken", about="raises when it is built", build=raise_in_constructor)

BARE = Contender(key="bare", label="bare", open=BareAdapter)
COUNTING = Contender(key="counting", label="counting", open=CountingAdapter)
RAISING = Contender(key="raising", label="raising", open=RaisingAdapter)
HANGING = Contender(key="hanging", label="hanging", open=HangingAdapter)
DYING = Contender(key="dying", label="dying", open=DyingAdapter)
ABSENT = Contender(
    key="absent", label="absent", open=CountingAdapter, package="vecsess_no_such_package"
)


def ran(
    steps: int, *, elapsed_s: float = 1.0, manager_cpu_s: float = 0.0, workers_cpu_s: float = 0.0
) -> Slice:
    """A slice as if it had been measured."""
    return Slice(
        steps=steps,
        elapsed_s=elapsed_s,
        manager_cpu_s=manager_cpu_s,
        workers_cpu_s=workers_cpu_s,
    )
