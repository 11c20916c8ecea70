"""How to wait for a hint in shared memory: spin as long as recent waits say that it pays."""

from __future__ import annotations

import os
from time import perf_counter_ns

SPIN_NS = 1_000_000  # a worker's budget: what it waits for is the trainer, on another core
MANAGER_SPIN_NS = 350_000  # less, since it spins where a worker may want to run
_CROWDED_NS = 100_000  # a yield that takes so long: somebody else makes good use of this core


class Patience:
    """Decides, for one kind of wait, between spinning and blocking.

    A wait that ends within the budget costs less by spinning with `sched_yield` than by sleeping
    in the kernel and being woken. One that takes longer only burns the core, so after a long wait
    the next is not spun for, until waits are short again. Where another process takes the core as
    soon as it is offered, this one sleeps too: a spinner would get it back in the midst of work.

    Args:
        spin_ns: the budget; 0 never spins, as is right with more processes than cores.
    """

    __slots__ = ("_began", "_budget", "spin_ns")

    def __init__(self, spin_ns: int) -> None:
        self.spin_ns = spin_ns
        self._budget = spin_ns
        self._began = 0

    def spin(self, hint: memoryview, seen: int) -> bool:
        """Returns True as soon as `hint[0]` is not `seen`, False when it is better to sleep."""
        self._began = perf_counter_ns()
        if hint[0] != seen:
            return True
        if not self._budget:
            return False
        now = self._began
        until = now + self._budget
        sched_yield = os.sched_yield
        while hint[0] == seen:
            before = now
            sched_yield()
            now = perf_counter_ns()
            if now > until or now - before > _CROWDED_NS:
                return False
        return True

    def over(self) -> int:
        """Learns how long the wait took that `spin` began; returns the time, in ns."""
        now = perf_counter_ns()
        self._budget = self.spin_ns if now - self._began < self.spin_ns else 0
        return now
