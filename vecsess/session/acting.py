"""Rollouts that the workers fill by themselves: one command, one wait, and what came of it.

Nothing is raised here for what happens to a worker, and nothing is recovered: who collects does a
part again, step by step, and then whatever happens is dealt with where it always is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vecsess.errors import (
    PolicyError,
    ProtocolError,
    ServerDied,
    VecsessError,
    WorkerError,
    WorkerTimeout,
)
from vecsess.fleet.reports import failures_of, printable, warn_once
from vecsess.fleet.worker import Worker
from vecsess.session.engine import Engine
from vecsess.wire.messages import Collected, Rollout
from vecsess.wire.rollouts import RolloutLayout, RolloutViews, Shape
from vecsess.wire.slab import map_behind
from vecsess.wire.values import Given

_DTYPES = "efd"  # what fits into a float64


@dataclass(slots=True)
class Outcome:
    """What came of one worker's part.

    Attributes:
        worker: which one.
        views: its memory; it may change at any time.
        steps: how many are complete.
        dtypes: of log-probabilities and values, empty where it did not come so far.
        failures: what its environments raised in the step after those.
        trouble: what went wrong with the policy there.
        loss: why the worker is lost, None where it is not.
    """

    worker: Worker
    views: RolloutViews
    steps: int = 0
    dtypes: tuple[np.dtype[Any], ...] = ()
    failures: list[VecsessError] = field(default_factory=list)
    trouble: PolicyError | None = None
    loss: WorkerError | None = None


class Acting:
    """One session's rollouts at the workers.

    Args:
        engine: of the session.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._horizon = 0
        self._mapped: dict[int, tuple[Given, RolloutViews]] = {}  # by worker, of which form
        self._outcomes: dict[int, Outcome] = {}
        self._warned: set[str] = set()

    @property
    def possible(self) -> bool:
        """Whether there are workers, a log to do a part again by, and only arrays to carry."""
        engine, layout = self._engine, self._engine.lockstep.layout
        supervisor = engine.fleet.supervisor
        piped = any(leaf.piped for leaf in (*layout.observations, *layout.actions))
        logged = engine.terms.reactions.on_crash == "replay"
        usable = supervisor is not None and supervisor.broadcast.usable
        # What was cut off before has yet to be told by a row, which no worker knows of.
        return usable and logged and not piped and not engine.recovery.unmarked

    def begin(self, parts: list[Given], horizon: int, state: list[Shape]) -> list[int]:
        """Sends what decides to all workers, and has them begin.

        Args:
            parts: the pickle of the decider, and its buffers.
            horizon: how many steps.
            state: one row's shape and dtype for each array of the policy's state.

        Returns:
            The sizes of the parts, as they lie in the broadcast.
        """
        engine, supervisor = self._engine, self._engine.fleet.supervisor
        assert supervisor is not None, "asked only where it is possible"
        self._horizon, self._state = horizon, state
        self._outcomes = {}
        sizes = supervisor.broadcast.write(parts)
        plain = [[list(shape), dtype.str] for shape, dtype in state]

        def make(worker: Worker, seq: int) -> Rollout:
            self._outcomes[worker.index] = Outcome(worker, self._map(worker))
            return Rollout(seq, horizon, sizes, plain)

        engine.begin_rollout(make)
        return sizes

    def _map(self, worker: Worker) -> RolloutViews:
        form = (worker.generation, self._horizon, tuple(self._state))
        known = self._mapped.get(worker.index)
        if known is None or known[0] != form:
            slab = self._engine.lockstep.layout
            layout = RolloutLayout(slab, worker.rows, self._horizon, self._state)
            memory = map_behind(worker.slab_fd, slab.stride_bytes, layout.size_bytes)
            known = self._mapped[worker.index] = form, layout.views(memory)
        return known[1]

    def wait(self) -> list[Outcome]:
        """Waits until every worker has answered or is lost; returns what came of each part."""
        engine, flight = self._engine, self._engine.lockstep.flight
        with flight.watched_by(self._note_loss):
            engine.gather(engine.lockstep)
        for index, reply in flight.answers.items():
            outcome = self._outcomes[index]
            if outcome.loss is None:
                self._take(outcome, reply)
        self._compare_dtypes()
        warn_once(flight.answers, flight.active, self._warned)
        return [self._outcomes[index] for index in sorted(self._outcomes)]

    def last_step(self, worker: Worker) -> int:
        """Returns at which step a worker that is lost was, as far as its hint tells."""
        told = int(self._engine.lockstep.views.replayed[worker.index])
        return min(max(told, 0), self._horizon - 1)

    def _note_loss(self, worker: Worker | None, error: WorkerError) -> None:
        for one in self._engine.lockstep.flight.excuse(worker):
            self._outcomes[one.index].loss = error
            if worker is not None and not isinstance(error, ServerDied):
                self._blame_policy(one, error)

    def _blame_policy(self, worker: Worker, error: WorkerError) -> None:
        """Looks whether it was the policy's turn: then it must not have another, in the trainer."""
        lockstep = self._engine.lockstep
        turn = int(lockstep.views.running[worker.index]) >= 2 * lockstep.layout.rows
        late, killed = isinstance(error, WorkerTimeout), "SIGKILL" in error.message
        if turn and (late or not (killed or isinstance(error, ProtocolError))):
            self._outcomes[worker.index].trouble = PolicyError(
                f"the policy was deciding: {error.message}", worker=worker.index
            )

    def _take(self, outcome: Outcome, reply: Given) -> None:
        """Takes what a worker told; what can't be makes it a lost one."""
        worker = outcome.worker
        if not isinstance(reply, Collected) or not _is_sound(reply, self._horizon):
            why = f"expected {self._horizon} steps or a reason"
            outcome.loss = end_worker(self._engine, worker, why)
            return
        outcome.steps = reply.steps
        outcome.dtypes = tuple(np.dtype(char) for char in reply.dtypes)
        outcome.failures = failures_of({worker.index: reply}, self._engine.lockstep.workers)
        if reply.trouble:
            outcome.trouble = self._trouble(worker, reply)

    def _compare_dtypes(self) -> None:
        """Has parts done again whose dtypes are not those of most: one policy decides for all."""
        told = Counter(one.dtypes for one in self._outcomes.values() if one.dtypes)
        if len(told) < 2:
            return
        usual, count = told.most_common(1)[0]
        for outcome in self._outcomes.values():
            if outcome.dtypes and (outcome.dtypes != usual or 2 * count <= told.total()):
                why = f"expected one dtype of log_probs and of values from all, got {list(told)}"
                outcome.loss = end_worker(self._engine, outcome.worker, why)
                outcome.dtypes = ()

    def _trouble(self, worker: Worker, reply: Collected) -> PolicyError:
        name, message, trace, row = reply.trouble
        env = None
        if row.isdecimal() and int(row) < worker.rows:
            env = worker.first_env + int(row)
        error = PolicyError(
            f"the policy failed at step {reply.steps} of the rollout: {printable(name)}: "
            f"{printable(message)}",
            worker=worker.index,
            env=env,
            step=reply.steps,
        )
        error.add_note(f"Traceback in the worker:\n{printable(trace)}")
        return error


def end_worker(engine: Engine, worker: Worker, why: str) -> WorkerError:
    """Ends a worker; returns the error for that, which may be that all have ended."""
    try:
        return engine.lockstep.flight.breach(worker, why)
    except ServerDied as error:
        return error


def _is_sound(reply: Collected, horizon: int) -> bool:
    """Whether a reply says of one part what can be."""
    complete = reply.steps == horizon
    cut = 0 <= reply.steps < horizon and bool(reply.failures or reply.trouble)
    named = len(reply.dtypes) == (2 if reply.steps else 0)
    known = all(type(char) is str and len(char) == 1 and char in _DTYPES for char in reply.dtypes)
    return (complete or cut) and named and known and len(reply.trouble) in (0, 4)
