"""How long a command may take, and which worker takes too long."""

from __future__ import annotations

import time

from vecsess.fleet.worker import Timeouts, Worker
from vecsess.wire.messages import (
    Attach,
    Close,
    Command,
    Replay,
    Reset,
    Rollout,
    Step,
    StepSome,
    StepWith,
)
from vecsess.wire.slab import Views

SLICE_S = 0.05  # how often a blocked manager looks whether the workers move on
_ARGUMENTS = {Attach: "start_s", Close: "close_s", Reset: "reset_s"}  # of others: step_s


def missed_by(
    limit_s: float | None, command: Command | None, what: str = "", name: str = ""
) -> str:
    """Returns the message of a missed deadline, and the argument that raises it.

    Args:
        limit_s: how many seconds were allowed.
        command: what was to be answered.
        what: the part of it that took too long.
        name: which of the `Timeouts` that is; "" for that of the command.

    Example:
        >>> missed_by(0.5, Reset(1, [0], [None], b"", 0))
        'expected an answer to Reset within 0.5 s; the worker was killed. \
Raise it with Timeouts(reset_s=...), or None to wait for ever'
    """
    name = name or _ARGUMENTS.get(type(command), "step_s")
    how = f"Timeouts({name}=...){', or None to wait for ever' if name != 'close_s' else ''}"
    if isinstance(command, Replay):
        how = "RestartPolicy(replay_budget_s=...)"
    return (
        f"expected an answer to {what or type(command).__name__} within {limit_s} s; the worker "
        f"was killed. Raise it with {how}"
    )


class Deadlines:
    """The deadlines of one command at a time.

    Which call a worker is at its own memory tells. It may be wrong, so it can shorten a wait, but
    what was sent and received alone says how long the whole command may take.

    Args:
        timeouts: how long each call of an environment may take.
        views: the fields, `[workers, rows, ...]`.
        rows: how many environments there is room for in each worker.

    Attributes:
        call_s: how long one call of an environment may take in this command; None for any time.
        sent_s: when it had been sent, on the monotonic clock.
    """

    def __init__(self, timeouts: Timeouts, views: Views, rows: int) -> None:
        self._timeouts, self._rows = timeouts, rows
        self._running, self._replayed = views.running, views.replayed
        self.call_s: float | None = None
        self.sent_s = 0.0
        self._resent_s: dict[int, float] = {}  # by worker: when a successor got the command
        # By worker: where it was seen, and since when. What it does is looked at in waits alone.
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}

    def begin(self, call_s: float | None) -> None:
        """Begins with another command, about to be sent."""
        self.call_s = call_s
        if self._resent_s:
            self._resent_s = {}

    def watch(self) -> None:
        """A wait begins: what was seen of workers before it counts no more."""
        self._seen = {}

    def resent(self, worker: Worker) -> None:
        """A worker's successor has got the command."""
        self._seen.pop(worker.index, None)
        self._resent_s[worker.index] = time.monotonic()

    def missed(self, worker: Worker, command: Command | None, now: float) -> str:
        """Returns what a worker was given too long for, as an error's message; "" for nothing.

        Args:
            worker: one that owes a reply; to be asked at least every `SLICE_S`.
            command: as it was sent to this worker.
            now: on the monotonic clock.
        """
        # How far a rollout or a replay is: an environment that is called again has moved on.
        place = int(self._running[worker.index]), int(self._replayed[worker.index])
        before, since = self._seen.get(worker.index, (place, now - SLICE_S))
        since = since if place == before else now
        self._seen[worker.index] = (place, since)
        what, name, limit_s = self._limit(place[0])
        most_s = self._most_s(worker, command)
        sent_s = self._resent_s.get(worker.index, self.sent_s)
        late = limit_s is not None and now - since > limit_s
        if not late and (most_s is None or now - sent_s <= most_s):
            return ""
        return missed_by(limit_s if late else most_s, command, what, name)

    def _limit(self, place: int) -> tuple[str, str, float | None]:
        """Returns what a worker is at by its hint, which deadline that has, and how long it is."""
        if place > 2 * self._rows:
            return "the policy's arrival there", "start_s", self._timeouts.start_s
        if place == 2 * self._rows:
            return "the policy's decision", "policy_s", self._timeouts.policy_s
        if place >= self._rows:
            return "reset", "reset_s", self._timeouts.reset_s
        return "its call", "", self.call_s

    def _most_s(self, worker: Worker, command: Command | None) -> float | None:
        """Returns how long a command may take: a call for each row, and a reset after a step."""
        call_s, reset_s = self.call_s, self._timeouts.reset_s
        if isinstance(command, Rollout):
            policy_s, start_s = self._timeouts.policy_s, self._timeouts.start_s
            if call_s is None or reset_s is None or policy_s is None or start_s is None:
                return None
            return start_s + command.horizon * (worker.rows * (call_s + reset_s) + policy_s)
        if not isinstance(command, Step | StepSome | StepWith):
            reset_s = 0.0
        return None if call_s is None or reset_s is None else worker.rows * (call_s + reset_s)
