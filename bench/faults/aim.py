"""Chooses which workers are killed, and when."""

from __future__ import annotations

import time

import numpy as np

from vecsess.bench.faults.killer import Killer
from vecsess.fleet.worker import Worker
from vecsess.session.vector import VecCheckedSession


class Aim:
    """Chooses whom to kill and when, one order at a time or two at once.

    Args:
        vec: whose workers; each lives through a whole lockstep between two deaths.
        hired: who does it.
        random: chooses.
        lockstep_s: how long it takes about, at first; a rollout where workers fill these.
    """

    def __init__(
        self,
        vec: VecCheckedSession,
        hired: Killer,
        random: np.random.Generator,
        lockstep_s: float = 1e-3,
    ) -> None:
        self._workers: list[Worker] = vec.engine.lockstep.workers  # who else knows pids
        self._hired, self._random = hired, random
        self._targets: dict[int, Worker] = {}  # by pid: ordered, not yet recovered from
        self._killed_s: dict[int, float] = {}
        self._lockstep_s, self._last_s, self._pause = lockstep_s, 0.0, 2
        self.killed = 0

    @property
    def outstanding(self) -> int:
        """How many have been ordered and not recovered from."""
        return len(self._targets)

    def fire(self, left: int) -> None:
        """Before a lockstep: orders a kill somewhere in it, unless the last one still shows."""
        self._last_s = time.monotonic()
        self._pause -= 1
        if self._targets or self._pause > 0 or left <= 0:
            return
        count = min(left, len(self._workers), 1 + int(self._random.random() < 0.1))
        delays = np.sort(self._random.uniform(0, 1.5 * self._lockstep_s, count))
        for index, delay_s in zip(
            self._random.choice(len(self._workers), count, replace=False), delays, strict=True
        ):
            worker = self._workers[index]
            self._targets[worker.pid] = worker
            self._hired.order(worker.pid, float(delay_s))

    def hits(self, now_s: float) -> list[float]:
        """After a lockstep: returns the latency of each kill that it has recovered from."""
        struck = [pid for pid, worker in self._targets.items() if worker.pid != pid]
        if not self._targets:
            self._lockstep_s += 0.1 * (min(now_s - self._last_s, 0.1) - self._lockstep_s)
        latencies = []
        for pid in struck:
            while pid not in self._killed_s:
                killed, at_s = self._hired.report()
                self._killed_s[killed] = at_s
            del self._targets[pid]
            latencies.append(now_s - self._killed_s.pop(pid))
            self.killed += 1
        if struck and not self._targets:
            self._pause = 2 + int(self._random.integers(3))
        return latencies
