"""How long a manager waits for its workers, measured from outside: for the bench and `autotune`.

Nothing here is part of a step: a session that nobody measures does not know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from vecsess.fleet.lockstep import Lockstep
from vecsess.wire.patience import Patience


class WaitClock:
    """Counts the time that a session waits, from now on.

    Waiting is what the manager does in `Patience.spin` and in the supervisor's polls; everything
    else in a step is the manager's own work. Where the environments live in this process, it is
    the time in which they carry out a command. Two looks at the clock a wait, about 0.1 us, count
    as the manager's.

    Args:
        session: an open `VecCheckedSession`; it is measured until it is closed.

    Attributes:
        waited_ns: so far.

    Example:
        >>> from vecsess import VecCheckedSession
        >>> with VecCheckedSession("CartPole-v1", n=2, workers=1) as vec:
        ...     clock = WaitClock(vec)
        ...     observation = vec.start(seed=0)
        >>> clock.waited_ns > 0
        True
    """

    def __init__(self, session: Any) -> None:
        self.waited_ns = 0
        lockstep: Lockstep = session._lockstep
        supervisor: Any = session._supervisor
        if supervisor is None:
            channel: Any = lockstep.workers[0].channel
            channel.send = self._timed(channel.send)  # carries out the command
            return
        supervisor.wait = self._timed(supervisor.wait)
        supervisor.wait_any = self._timed(supervisor.wait_any)
        self._install(lockstep)

    def _install(self, lockstep: Any) -> None:
        lockstep._patience = _TimedPatience(lockstep._patience.spin_ns, self)
        divide = lockstep.part

        def part(*arguments: Any) -> Lockstep:
            made: Lockstep = divide(*arguments)
            self._install(made)
            return made

        lockstep.part = part

    def _timed(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began_ns = perf_counter_ns()
            try:
                return wait(*arguments)
            finally:
                self.waited_ns += perf_counter_ns() - began_ns

        return timed


class _TimedPatience(Patience):
    """Spins as ever, and tells for how long."""

    __slots__ = ("_clock",)

    def __init__(self, spin_ns: int, clock: WaitClock) -> None:
        super().__init__(spin_ns)
        self._clock = clock

    def spin(self, hint: memoryview, seen: int) -> bool:
        began_ns = perf_counter_ns()
        came = super().spin(hint, seen)
        self._clock.waited_ns += perf_counter_ns() - began_ns
        return came
