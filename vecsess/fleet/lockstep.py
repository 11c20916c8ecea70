"""The lockstep: one command to all workers, their replies, and the copy into the caller's arrays.

The hot path of everything. A lockstep costs one strided copy a field, one frame packed for all
workers, one write and one read a worker, and no Python loop over environments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from vecsess.fleet.flight import Flight
from vecsess.fleet.rows import Rows
from vecsess.fleet.supervisor import Supervisor
from vecsess.fleet.worker import Timeouts, Worker
from vecsess.wire.messages import StepWith
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import Array


class Lockstep:
    """The steps of some workers: a flight, and the rows that it fills.

    Args:
        workers: all of the session, in the order of their environments.
        supervisor: watches and ends them; None where the environments live in this process.
        layout: of a worker's range.
        views: the fields, `[workers, rows, ...]`.
        timeouts: how long an environment's call may take.
        spin_ns: how long a wait may spin.
        own: the workers that this lockstep steps, where it is a part of a larger one.
        numbers: gives each command its number.

    Attributes:
        flight: what is said to the workers.
        rows: what they fill.
        last: the observations given out last, by reference: `[n, *leaf]` per leaf.
    """

    def __init__(
        self,
        workers: list[Worker],
        supervisor: Supervisor | None,
        layout: Layout,
        views: Views,
        timeouts: Timeouts,
        spin_ns: int,
        own: slice = slice(None),
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.workers, self.own = workers, own
        self.layout, self.views = layout, views
        self._numbers = _Growing() if numbers is None else numbers
        given = (supervisor, layout, views, timeouts, spin_ns, self._numbers)
        self.flight = Flight(workers, own, *given)
        self.rows = Rows(workers, own, layout, views)
        self.last: list[Array] = []
        if numbers is None:
            for worker in workers:
                worker.flight = self.flight
        self._supervisor = supervisor
        self._piped = [index for index, leaf in enumerate(layout.actions) if leaf.piped]

    def part(self, own: slice) -> Lockstep:
        """Returns a lockstep that steps only the workers in `own`, from where this one stands."""
        flight = self.flight
        part = Lockstep(
            self.workers,
            self._supervisor,
            self.layout,
            self.views,
            flight.timeouts,
            flight.patience.spin_ns,
            own,
            self._numbers,
        )
        part.flight.follow(flight)
        part.last = [leaf[part.rows.envs] for leaf in self.last]
        return part

    def holder(self, env: int) -> Worker:
        """Returns the worker in which an environment lives."""
        return self.workers[int(self.rows.worker_of[env])]

    def begin_step(self, actions: list[Array], infos: int) -> None:
        """Sends every worker its actions: checked, `[N, *leaf]` per leaf."""
        self.rows.scatter(actions)
        if not self._piped:
            self.flight.step(infos)
            return
        self.flight.begin(
            lambda worker, seq: self._step_with(worker, seq, infos), self.flight.timeouts.step_s
        )

    def _step_with(self, worker: Worker, seq: int, infos: int) -> StepWith:
        """Returns the step of a worker, with what of its actions goes by pipe."""
        rows = list(range(worker.rows))
        fields = [self.views.actions[index] for index in self._piped]
        return StepWith(seq, infos, rows, [field[worker.index, rows].tolist() for field in fields])


class _Growing:
    """Numbers that grow by what nobody can guess: no reply can be written ahead.

    No generator, which an exception would end: a Ctrl-C may come anywhere.
    """

    def __init__(self) -> None:
        self._number = 0
        self._leaps: list[int] = []

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if not self._leaps:
            self._leaps = memoryview(os.urandom(4 << 10)).cast("I").tolist()
        self._number += 1 + (self._leaps.pop() >> 8)
        return self._number
