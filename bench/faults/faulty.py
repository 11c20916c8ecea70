"""Environments that break on cue: in their constructor, in reset, in a step, or in close.

What lives here is imported by workers: nothing but gymnasium and numpy.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vecsess.bench.faults.hanging import HANGS

Step = tuple[Any, Any, Any, Any, Any]

PLACES = ("constructor", "reset", "step", "close")
CUE = 9  # the action at which a step breaks
CUE_OPTIONS = {"break": True}


def _raise(error: BaseException) -> None:
    raise error


def _recurse() -> None:
    _recurse()


def _segfault() -> None:
    ctypes.string_at(0)


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _print() -> None:
    print("printed by an environment", flush=True)
    libc = ctypes.CDLL(None)
    libc.puts(b"put by an environment")
    libc.fflush(None)


def _flood_stderr() -> None:
    sys.stderr.write("x" * (1 << 20) + "\n")


def _leave(*, session: bool) -> None:
    subprocess.Popen(["sleep", "1000"], start_new_session=session)  # noqa: S607  # from PATH


def _leave_daemon() -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "1000"])  # noqa: S606, S607  # as an environment would
        os._exit(0)
    os.waitpid(pid, 0)


def _first(leave: Callable[[], None], then: Callable[[], None]) -> None:
    leave()
    then()


RAISES: dict[str, Callable[[], None]] = {
    "raises ValueError": partial(_raise, ValueError("bad")),
    "raises MemoryError": partial(_raise, MemoryError()),
    "recurses for ever": _recurse,
}
DIES: dict[str, Callable[[], None]] = {
    "sys.exit()": sys.exit,
    "os._exit(0)": partial(os._exit, 0),
    "segfault": _segfault,
    "abort": os.abort,
    "SIGKILL": _kill_self,
    "child left, SIGKILL": partial(_first, partial(_leave, session=False), _kill_self),
    "session left, SIGKILL": partial(_first, partial(_leave, session=True), _kill_self),
    "daemon left, SIGKILL": partial(_first, _leave_daemon, _kill_self),
}
HANGING: dict[str, Callable[[], None]] = {
    **HANGS,
    "daemon left, sleep": partial(_first, _leave_daemon, HANGS["sleep"]),
}
HARMLESS: dict[str, Callable[[], None]] = {
    "prints, C puts": _print,
    "1 MB to stderr": _flood_stderr,
}
BREAKS = {**RAISES, **DIES, **HANGING, **HARMLESS}


def _part(index: int, make: Callable[[Any], Any]) -> Callable[[Step], Any]:
    def lie(result: Step) -> Any:
        return (*result[:index], make(result[index]), *result[index + 1 :])

    return lie


LIES: dict[str, Callable[[Step], Any]] = {
    "NaN": _part(0, lambda obs: np.full_like(obs, np.nan)),
    "another shape": _part(0, lambda obs: obs[:2].copy()),
    "a broadcastable scalar": _part(0, lambda _: np.float32(1)),
    "integers": _part(0, lambda obs: obs.astype(np.int64)),
    "no array": _part(0, lambda obs: obs.tolist()),
    "info None": _part(4, lambda _: None),
    "reward None": _part(1, lambda _: None),
    "reward of 1 element": _part(1, lambda _: np.ones(1)),
    "reward inf": _part(1, lambda _: float("inf")),
    "terminated 1": _part(2, lambda _: 1),
    "three parts": lambda result: result[:3],
}
_ONLY_IN_STEPS = ("reward", "terminated", "three")


class BreakingEnv(gymnasium.Env[Any, Any]):
    """Breaks in one place when it is cued; in its constructor and in close it always does.

    Args:
        fault: a name in `BREAKS` or `LIES`; None for none.
        place: one of `PLACES`.
    """

    def __init__(self, fault: str | None = None, place: str = "step") -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Discrete(CUE + 1)
        self._fault, self._place = fault, place
        self._count = 0
        self._break_in("constructor")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets; cued by `CUE_OPTIONS`."""
        super().reset(seed=seed)
        self._count = 0
        result: Any = (self._observe(), 0.0, False, False, {})
        if options == CUE_OPTIONS:
            self._break_in("reset")
            if self._place == "reset" and self._fault in LIES:
                result = LIES[self._fault](result)
        return result[0], result[4]

    def step(self, action: Any) -> Any:
        """Steps; cued by the action `CUE`. Episodes do not end."""
        self._count += 1
        result: Any = (self._observe(), 1.0, False, False, {})
        if action == CUE:
            self._break_in("step")
            if self._place == "step" and self._fault in LIES:
                return LIES[self._fault](result)
        return result

    def close(self) -> None:
        """Closes."""
        self._break_in("close")

    def _observe(self) -> Any:
        return np.array([self._count, self.np_random.random(), 0, 0], np.float32)

    def _break_in(self, place: str) -> None:
        if self._place == place and self._fault in BREAKS:
            BREAKS[self._fault]()


def cells() -> list[tuple[str, str]]:
    """Returns all `(fault, place)` that there can be."""
    found = [(fault, place) for fault in BREAKS for place in PLACES]
    for lie in LIES:
        places = ("step",) if lie.startswith(_ONLY_IN_STEPS) else ("reset", "step")
        found += [(lie, place) for place in places]
    return found
