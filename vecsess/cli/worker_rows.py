"""What is known of each worker while a command runs: process figures and step times."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from vecsess.vector import VecCheckedSession


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker; None for what can't be known, as where its process is gone."""

    worker: int
    pid: int
    state: str
    restarts: int
    rss_bytes: int | None
    cpu_percent: float | None
    steps_per_s: float
    step_p50_s: float | None
    step_p99_s: float | None


class WorkerWatch:
    """Reads the workers of a session; rates are since it was made.

    Args:
        vec: an open session.
    """

    def __init__(self, vec: VecCheckedSession) -> None:
        self._lockstep = vec._lockstep
        self._began_s = time.monotonic()
        self._cpu_s = {worker.pid: _cpu_s(worker.pid) for worker in self._lockstep.workers}

    def states(self) -> dict[str, int]:
        """Returns how many workers are in each state."""
        counts: dict[str, int] = {}
        for worker in self._lockstep.workers:
            state = _state(worker)
            counts[state] = counts.get(state, 0) + 1
        return counts

    def rows(self, locksteps: int) -> list[WorkerRow]:
        """Returns a row per worker, after this many locksteps."""
        elapsed_s = max(time.monotonic() - self._began_s, 1e-9)
        histogram = self._lockstep.views.histogram
        return [
            self._row(worker, locksteps, elapsed_s, histogram[index])
            for index, worker in enumerate(self._lockstep.workers)
        ]

    def _row(
        self, worker: Any, locksteps: int, elapsed_s: float, counts: npt.NDArray[np.uint64]
    ) -> WorkerRow:
        cpu_s, before_s = _cpu_s(worker.pid), self._cpu_s.get(worker.pid)
        known = cpu_s is not None and before_s is not None
        return WorkerRow(
            worker=worker.index,
            pid=worker.pid,
            state=_state(worker),
            restarts=worker.generation,
            rss_bytes=_rss_bytes(worker.pid),
            cpu_percent=100 * (cpu_s - before_s) / elapsed_s if known else None,  # type: ignore[operator]  # known
            steps_per_s=worker.rows * locksteps / elapsed_s,
            step_p50_s=quantile_s(counts, 0.5),
            step_p99_s=quantile_s(counts, 0.99),
        )


def quantile_s(counts: npt.NDArray[np.uint64], share: float) -> float | None:
    """Returns a quantile of step times from counts by bit length of their nanoseconds.

    Args:
        counts: `[64]`; entry `b` counts times from `2**(b-1)` up to `2**b` ns.
        share: such as 0.99.

    Example:
        >>> counts = np.zeros(64, np.uint64)
        >>> counts[[11, 21]] = 98, 2  # most at 1 to 2 us, a few at 1 to 2 ms
        >>> f"{quantile_s(counts, 0.5):.1e} {quantile_s(counts, 0.99):.1e}"
        '1.5e-06 1.5e-03'
    """
    cumulated = np.cumsum(counts)
    if not cumulated[-1]:
        return None
    bits = int(np.searchsorted(cumulated, share * float(cumulated[-1])))
    return 2.0**bits * 0.75e-9


def _state(worker: Any) -> str:
    if worker.dead or not psutil.pid_exists(worker.pid):
        return "dead"
    return "ready"


def _cpu_s(pid: int) -> float | None:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def _rss_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
