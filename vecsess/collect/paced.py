"""Collecting where not all environments wait for each other: the same batch, sooner.

`"pipelined"`: one half of the environments steps while the policy works on the other half.
`"free"`: each worker goes on as soon as its own actions are known, so that a batch takes as long as
the slowest worker's steps together, and not as long as each step's slowest worker.

Every environment sees the actions, and the policy the observations and the noise, that they would
in lockstep. So the batch is the same, bit for bit on one kind of CPU, for a policy that computes
each row by itself; a matrix product may round differently with another number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from vecsess.contract import Finals, StepRows
from vecsess.errors import ActionError
from vecsess.fleet.deadlines import SLICE_S
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.plan import cores
from vecsess.session.actions import ActionCheck
from vecsess.tree import Tree
from vecsess.wire.values import Array, Given

Pace = Literal["lockstep", "pipelined", "free"]
PACES: tuple[Pace, ...] = get_args(Pace)


def groups_for(pace: Pace, workers: int) -> list[slice]:
    """Returns the workers that step together: two halves, or each for itself."""
    if pace == "free":
        return [slice(worker, worker + 1) for worker in range(workers)]
    middle = (workers + 1) // 2
    halves = [slice(0, middle), slice(middle, workers)]
    return [half for half in halves if half.stop > half.start]


class Paced:
    """The parts of a vector session as `Pieces`, stepped each at its own pace.

    Args:
        session: a started `VecCheckedSession`.
        pace: "pipelined" or "free".
        workers: only these, at the pace "free"; None for all.

    Attributes:
        parts: of the session's lockstep, one a piece.
        slices: whose environments each of them holds.
        by_turns: see `Pieces`.
    """

    def __init__(self, session: Given, pace: Pace, workers: list[int] | None = None) -> None:
        self._engine = engine = session.engine
        self._lockstep: Lockstep = engine.lockstep
        groups = groups_for(pace, len(self._lockstep.workers))
        if workers is not None:
            groups = [slice(index, index + 1) for index in workers]
        self.parts = [self._lockstep.part(own) for own in groups]
        self._in_turn = pace == "pipelined"
        # On cores that both halves need, one that begins early only keeps the other from its end.
        self.by_turns = self._in_turn and len(self._lockstep.workers) > cores()
        self.slices = [part.rows.envs for part in self.parts]
        space, contract = session.single_action_space, session.contract
        self._checks = [ActionCheck(space, own.stop - own.start, contract) for own in self.slices]
        self._checked: list[list[Array]] = [[] for _ in self.parts]

    def prepare(self, index: int, actions: Tree) -> None:
        """Checks one part's actions, `[n, *action]`, and keeps them as they can be sent."""
        try:
            self._checked[index] = self._checks[index](actions)
        except ActionError as error:
            first = self.slices[index].start
            error.env = None if error.env is None else error.env + first
            raise

    def begin(self, index: int) -> None:
        """Sends one part its actions."""
        self._engine.begin_part(self.parts[index], self._checked[index])

    def take(self, index: int, rows: StepRows) -> Finals | None:
        """Waits for one part's step and copies it into `rows [n, ...]`."""
        finals: Finals | None = self._engine.take_step(self.parts[index], rows)
        return finals

    def ready(self, flying: list[int]) -> list[int]:
        """Waits until a part has answered; returns those that have, or the next in turn."""
        if self._in_turn:
            return flying[:1]
        hints, parts = self._lockstep.flight.hints, self.parts
        while True:  # a part is one worker here
            at = [hints[parts[i].own.start][0] for i in flying]
            pairs = zip(flying, at, strict=True)
            found = [i for i, hint in pairs if parts[i].flight.awaited in (None, hint)]
            if found or (found := self._block(flying)):
                return found

    def _block(self, flying: list[int]) -> list[int]:
        """Sleeps until a worker has something to say, at most for a slice of time."""
        workers = {index: self.parts[index].own.start for index in flying}
        crew = [self._lockstep.workers[worker] for worker in workers.values()]
        woken = self._lockstep.flight.woken(crew, SLICE_S)
        if not woken:
            for index in flying:
                self.parts[index].flight.check_deadlines()
        return [index for index in flying if workers[index] in woken]

    def end(self) -> None:
        """Makes one lockstep of the parts again; all have taken equally many steps."""
        self._engine.unite(self.parts)


@contextmanager
def in_parts(session: Given, pace: Pace) -> Iterator[Paced]:
    """Yields the parts of a started session for one rollout, and unites them after it."""
    with session.engine.gate.during("collect"):
        paced = Paced(session, pace)
        yield paced
        paced.end()
