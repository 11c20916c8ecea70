"""What kills did to one workload, and to the manager's own process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_WARM_RESTARTS = 3  # before the manager's descriptors are counted for the first time


@dataclass(kw_only=True)
class Tally:
    """What the kills of one workload did.

    Attributes:
        kills: how many there were.
        locksteps: how many were completed and compared; rollouts, where workers fill these.
        wrong: rows by what is wrong with them; none of these was marked invalid.
        marked: rows that were marked invalid, as they must be where no replay reproduces.
        different: batches that are not those of the undisturbed run, bit for bit.
        latencies_s: from each kill to the end of the lockstep, or rollout, that recovered from it.
        undisturbed_s: what each rollout takes step by step where nobody is killed.
        growth: of the manager's descriptors, threads and zombies, over `restarts` restarts.
        stopped: why the run ended early; "" where it did not.
    """

    label: str
    kills: int = 0
    locksteps: int = 0
    restarts: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    marked: int = 0
    different: int = 0
    latencies_s: list[float] = field(default_factory=list)
    undisturbed_s: list[float] = field(default_factory=list)
    growth: dict[str, int] = field(default_factory=dict)
    stopped: str = ""
    _before: dict[str, int] = field(default_factory=dict)

    def watch(self, restarts: int) -> None:
        """Notes how many restarts there were, and what has grown since the first of them."""
        self.restarts = restarts
        if restarts >= _WARM_RESTARTS:
            now = resources()
            self._before = self._before or now
            self.growth = {name: now[name] - self._before[name] for name in now}

    def as_data(self) -> dict[str, Any]:
        """Returns it as plain data."""
        told = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return {**told, "wrong": dict(self.wrong)}

    @property
    def sound(self) -> bool:
        """Whether nothing at all went wrong."""
        return not (
            self.wrong.total() or self.marked or self.different or self.stopped
        ) and not any(self.growth.values())


def resources() -> dict[str, int]:
    """Returns how many descriptors, threads and zombies this process has."""
    zombies = 0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            zombies += child.status() == psutil.STATUS_ZOMBIE
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # counts, and no more
        "threads": max(threading.active_count(), len(list(Path("/proc/self/task").iterdir()))),
        "zombies": zombies,
    }
