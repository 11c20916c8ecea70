"""Environments whose faults last: in each step, in each reset, in each life of their worker.

What lives here is imported by workers: nothing but gymnasium and numpy.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

FAULTS = (
    "raises",
    "violates",
    "NaN",
    "dies",
    "hangs",
    "floods stderr",
    "constructor fails",
    "close raises",
    "reset too slow",
    "reply too large",
)
SPANS = ("once", "steps", "resets", "replays")
LENGTH = 6  # of an episode
AT = 3  # the step of an episode at which it breaks
_LARGE = (1 << 26) + 1  # bytes: more than one value may have


class LastingEnv(gymnasium.Env[Any, Any]):
    """Counts steps and adds up actions, so that a wrong row is seen; breaks where it is told.

    Args:
        index: the first number of its observations.
        folder: where a fault notes that it was there; None for an environment without faults.
        fault: one of `FAULTS`.
        span: "once", in all "steps" from `AT` on, in all "resets" from the first such step on, or
            in that step whenever it is taken, in "replays" too.
    """

    def __init__(
        self, index: int, folder: Path | None = None, fault: str = "", span: str = "once"
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = spaces.Discrete(8)
        self._index, self._folder, self._fault, self._span = index, folder, fault, span
        self._count = self._sum = 0
        if fault == "constructor fails" and self._armed() and self._due():
            raise ValueError("no constructor")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets; an episode begins."""
        super().reset(seed=seed)
        self._count = self._sum = 0
        result: Any = (self._observe(), 0.0, False, False, {})
        if self._span == "resets" and self._armed():
            result = _BREAKS[self._fault](result)
        elif self._fault == "reset too slow" and self._armed() and self._due():
            time.sleep(1000)
        return result[0], result[4]

    def step(self, action: Any) -> Any:
        """Steps; `LENGTH` steps are an episode."""
        self._count += 1
        self._sum += int(action)
        result: Any = (self._observe(), 1.0, self._count == LENGTH, False, {})
        if self._folder is None:
            return result
        first = not self._armed()
        if self._count < AT and (first or self._span != "steps"):
            return result
        (self._folder / "armed").touch()
        if self._fault in ("constructor fails", "close raises"):
            if first:  # what fails then is a successor's
                os._exit(1)
        elif self._fault != "reset too slow" and self._breaks(first=first):
            result = _BREAKS[self._fault](result)
        return result

    def _breaks(self, *, first: bool) -> bool:
        """Whether this step does."""
        return {
            "once": first,
            "steps": True,
            "resets": False,
            "replays": self._count == AT,
        }[self._span]

    def close(self) -> None:
        """Closes."""
        if self._fault == "close raises":
            raise ValueError("no close")

    def _observe(self) -> Any:
        return np.array([self._index, self._count, self._sum], np.float64)

    def _armed(self) -> bool:
        return self._folder is not None and (self._folder / "armed").exists()

    def _due(self) -> bool:
        """Whether it breaks: for ever, or this is the first time."""
        if self._span != "once" or self._folder is None:
            return True
        first = not (self._folder / "done").exists()
        (self._folder / "done").touch()
        return first


def _raise(result: Any) -> Any:
    raise ValueError("lasting")


def _flood(result: Any) -> Any:
    """Writes to stderr from now on, faster than anybody reads, while it steps as ever."""

    def write() -> None:
        while True:
            sys.stderr.write("x" * 4096 + "\n")

    threading.Thread(target=write, daemon=True).start()
    return result


_BREAKS: dict[str, Callable[[Any], Any]] = {
    "raises": _raise,
    "violates": lambda result: (result[0][:2], *result[1:]),
    "NaN": lambda result: (result[0] * np.nan, *result[1:]),
    "dies": lambda _: os._exit(1),
    "hangs": lambda _: time.sleep(1000),
    "floods stderr": _flood,
    "reset too slow": lambda _: time.sleep(1000),
    "reply too large": lambda result: (*result[:4], {"frame": bytes(_LARGE)}),
}
