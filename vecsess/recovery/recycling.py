"""Which workers are replaced before anything goes wrong: for their memory, or for their age."""

from __future__ import annotations

import warnings

import numpy as np

from vecsess.fleet.health import unique_bytes
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.worker import Worker
from vecsess.wire.values import Array


def check_limits(*, processes: bool, **limits: int | None) -> bool:
    """Returns whether there is a limit at all.

    Args:
        processes: whether there are any to replace.
        limits: by the names that the user gave them by.

    Raises:
        ValueError: a limit that is not positive, or no processes to replace.

    Example:
        >>> check_limits(processes=True, max_episodes=None)
        False
    """
    for name, limit in limits.items():
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ValueError(f"{name}: expected a positive whole number or None, got {limit!r}")
        if limit is not None and not processes:
            raise ValueError(f"{name}: with workers=0 there is no process to replace")
    return any(limit is not None for limit in limits.values())


class Recycling:
    """Says at an episode's end which workers are due.

    Args:
        lockstep: of all workers.
        memory_limit_bytes: of a worker's unique memory; None for any.
        max_episodes: how many episodes a worker may finish, of all its environments together;
            None for any.
    """

    def __init__(
        self, lockstep: Lockstep, memory_limit_bytes: int | None, max_episodes: int | None
    ) -> None:
        self._lockstep = lockstep
        self._limit_bytes, self._max_episodes = memory_limit_bytes, max_episodes
        self._episodes = np.zeros(len(lockstep.workers), np.int64)
        self._large: dict[int, int] = {}  # by worker: a generation that was born too large
        self._due: dict[int, str] = {}

    def note(self, ended: Array) -> None:
        """Looks at the workers in which an episode has ended; `ended [K]` are environments."""
        workers, counts = np.unique(self._lockstep.rows.worker_of[ended], return_counts=True)
        self._episodes[workers] += counts
        for index in workers.tolist():
            worker = self._lockstep.workers[index]
            why = self._why(worker) if worker in self._lockstep.flight.active else ""
            if why:
                self._due[index] = why

    def take_due(self, own: slice = slice(None)) -> dict[int, str]:
        """Returns and forgets which of the workers in `own` are due, and why."""
        if not self._due:
            return {}
        chosen = range(len(self._episodes))[own]
        due = {index: self._due.pop(index) for index in chosen if index in self._due}
        for index in due:
            self._episodes[index] = 0
        return due

    def renewed(self, worker: Worker) -> None:
        """Looks at a successor: one that is too large when it is born must not be due again."""
        if self._limit_bytes is None or (unique_bytes(worker.pid) or 0) <= self._limit_bytes:
            return
        if not self._large:
            warnings.warn(
                f"memory_limit_bytes: worker {worker.index} needs more than "
                f"{self._limit_bytes} bytes from the start, so it is not replaced for that; "
                "raise the limit",
                UserWarning,
                stacklevel=2,
            )
        self._large[worker.index] = worker.generation

    def _why(self, worker: Worker) -> str:
        episodes = int(self._episodes[worker.index])
        if self._max_episodes is not None and episodes >= self._max_episodes:
            return f"recycled after {episodes} episodes"
        if self._limit_bytes is None or worker.index in self._large:
            return ""
        used = unique_bytes(worker.pid)
        if used is not None and used > self._limit_bytes:
            return f"recycled at {used} bytes of unique memory"
        return ""
