"""The lockstep: one command to all workers, their replies, and the copy into the caller's arrays.

The hot path of everything. A lockstep costs one strided copy a field, one frame packed for all
workers, one write and one read a worker, and no Python loop over environments.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vecsess.contract import StepRows
from vecsess.errors import ProtocolError, WorkerTimeout
from vecsess.fleet.flight import Replies
from vecsess.fleet.reports import breach_type
from vecsess.fleet.rows import Blocks
from vecsess.fleet.supervisor import Supervisor
from vecsess.fleet.worker import Timeouts, Worker
from vecsess.wire.channel import CONTROL_BYTES, VALUE_BYTES, DeadlineError, EndOfStreamError, frame
from vecsess.wire.messages import (
    REPLIES,
    Command,
    Done,
    Reply,
    Step,
    StepSome,
    StepWith,
    acknowledgement,
    decode,
    encode,
    step_command,
)
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import FrameError

Array = npt.NDArray[Any]

_FAILURE_BYTES = 1024  # what a row may add to a reply: a failure, in brief
_SIDE = 1 << 62  # numbers of commands to one worker alone begin here


class Lockstep(Replies):
    """Commands to workers and their replies, over one slab.

    Args:
        workers: the workers, in the order of their environments.
        supervisor: watches and ends them; None where the environments live in this process.
        layout: of a worker's range.
        views: the fields, `[workers, rows, ...]`.
        timeouts: how long an environment's call may take.
        spin_ns: how long a wait may spin.
        own: the workers that this lockstep steps, where it is a part of a larger one.
        numbers: gives each command its number; parts share it, so that numbers only grow.

    Attributes:
        envs: the environments of `own`.
        steps: how many steps were completed.
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
        super().__init__(workers, supervisor, layout, views, timeouts, spin_ns)
        self.own = own
        self.active = workers[own]  # without those that are quarantined
        first, last = self.active[0], self.active[-1]
        self.envs = slice(first.first_env, last.first_env + last.rows)
        self.steps = 0
        self.last: list[Array] = []
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._fields = views.of_workers(own)
        self._message: Callable[[Worker, int], Command | None] = _nothing
        self._side_seq = _SIDE
        self._sends_actions = any(leaf.piped for leaf in layout.actions)
        told_bytes = CONTROL_BYTES + layout.rows * _FAILURE_BYTES
        self._step_cap = VALUE_BYTES if self._piped else told_bytes
        self._blocks = Blocks([worker.rows for worker in self.active], layout.rows)
        self.worker_of = np.repeat(np.arange(len(workers)), [w.rows for w in workers])
        self.row_of = np.concatenate([np.arange(worker.rows) for worker in workers])
        self._places = list(zip(self.worker_of.tolist(), self.row_of.tolist(), strict=True))
        self._flags = np.zeros(self.envs.stop - self.envs.start, np.uint16)
        self._no_flags = self._flags.tobytes()

    def part(self, own: slice) -> Lockstep:
        """Returns a lockstep that steps only the workers in `own`, from where this one stands."""
        part = Lockstep(
            self.workers,
            self._supervisor,
            self.layout,
            self.views,
            self._timeouts,
            self._patience.spin_ns,
            own,
            self._numbers,
        )
        part.active = [worker for worker in part.active if worker in self.active]
        part.steps = self.steps
        part.last = [leaf[part.envs] for leaf in self.last]
        part.watch(self._on_lost)
        return part

    # --- commands --------------------------------------------------------------------------------

    def begin_step(self, actions: list[Array], infos: int) -> None:
        """Sends every worker its actions: checked, `[N, *leaf]` per leaf."""
        for field, batch in zip(self._fields.actions, actions, strict=True):
            self._blocks.scatter(batch, field)
        if self._sends_actions:
            self.begin(
                lambda worker, seq: self._step_with(worker, seq, infos), self._timeouts.step_s
            )
            return
        seq = self._next_seq(VALUE_BYTES if infos else self._step_cap, self._timeouts.step_s)
        data = step_command(seq, infos)
        self._message = _STEPS[infos]
        self._pending = self.active.copy()
        for worker in self._pending:
            try:
                if not worker.channel.send_at_once(data):
                    self._send(worker, data)
            except EndOfStreamError:
                pass  # a dead worker: `gather` finds that out, and says why
        self._fields.command[:] = seq  # after the pipes: who sees the hint finds the command

    def _step_with(
        self, worker: Worker, seq: int, infos: int, rows: list[int] | None = None
    ) -> StepWith:
        """Returns the step of a worker, with what of its actions goes by pipe."""
        rows = list(range(worker.rows)) if rows is None else rows
        pairs = zip(self.layout.actions, self.views.actions, strict=True)
        parts = [field[worker.index, rows].tolist() for leaf, field in pairs if leaf.piped]
        return StepWith(seq, infos, rows, parts)

    def command(
        self, make: Callable[[Worker, int], Command | None], limit_s: float | None
    ) -> dict[int, Done]:
        """Sends each worker the message that `make(worker, seq)` returns, and waits for all.

        Args:
            make: returns None for a worker that gets nothing.
            limit_s: how long one call of an environment may take.

        Returns:
            The replies, by worker.
        """
        self.begin(make, limit_s)
        self.gather()
        return self.answers

    def begin(self, make: Callable[[Worker, int], Command | None], limit_s: float | None) -> None:
        """Sends what `command` sends, without waiting."""
        seq = self._next_seq(VALUE_BYTES, limit_s)
        self._message = make
        messages = [(worker, make(worker, seq)) for worker in self.active]
        self._pending = [worker for worker, message in messages if message is not None]
        for worker, message in messages:
            if message is not None:
                self._send(worker, frame(encode(message)))
        self._fields.command[:] = seq

    def _next_seq(self, reply_cap: int, limit_s: float | None) -> int:
        """Returns the number of a new command, and prepares for the replies to it.

        Args:
            reply_cap: bytes that a reply may have.
            limit_s: how long one call of an environment may take.
        """
        seq = self._seq = next(self._numbers)
        self._acknowledgement = acknowledgement(seq)
        self._reply_cap, self._limit_s = reply_cap, limit_s
        self.answers = {}
        self.unread = True
        if self.active and self.active[-1].flight is not self:
            for worker in self.active:
                worker.flight = self
        return seq

    def _send(self, worker: Worker, data: bytes) -> None:
        # Half a command would be taken for a whole one with the next: a busy worker may take as
        # long to come to it as its calls that are still under way.
        limit_s = self._limit_s
        until = None if limit_s is None else time.monotonic() + limit_s * worker.rows
        # Where it is dead or stopped `gather` finds that out, and says why.
        with contextlib.suppress(EndOfStreamError, DeadlineError):
            worker.channel.send(data, until)

    # --- one worker alone ------------------------------------------------------------------------

    def exchange(
        self, worker: Worker, make: Callable[[int], Command], limit_s: float | None
    ) -> Reply:
        """Sends one worker a message while the others keep their place; returns its reply.

        Args:
            worker: not one that still owes a reply.
            make: makes the message from its sequence number, which is not of the locksteps':
                the other workers go on answering theirs.
            limit_s: how long the reply may take altogether.

        Raises:
            WorkerError: it died, was too slow, or answered what it should not.
        """
        self._side_seq += 1
        seq, until = self._side_seq, None if limit_s is None else time.monotonic() + limit_s
        try:
            worker.channel.send(frame(encode(make(seq))), until)
            self.views.command[worker.index] = seq
            while (payload := worker.channel.receive_ready(VALUE_BYTES)) is None:
                if self._supervisor is not None:
                    self._supervisor.wait_for(worker, until)
            reply = decode(payload, REPLIES)
            if self._piped and isinstance(reply, Done):
                self._piped.take(worker, reply)
        except FrameError as error:
            raise self._end(worker, breach_type(error), str(error)) from error
        except EndOfStreamError as error:
            raise self._lost(worker) from error
        except DeadlineError as error:
            what = f"expected an answer within {limit_s} s; the worker was killed"
            raise self._end(worker, WorkerTimeout, what) from error
        if reply.seq != seq:
            raise self._end(worker, ProtocolError, f"expected the reply to command {seq}")
        return reply

    def resend(self, worker: Worker, without: set[int]) -> None:
        """Sends a successor the command that its predecessor was lost in.

        Args:
            worker: the successor, its environments brought back.
            without: rows that have had their part already.
        """
        if not self.unread:
            return  # all that it was told has been done, and read
        message = self.message(worker)
        if isinstance(message, Step) and without:
            rows = [row for row in range(worker.rows) if row not in without]
            message = StepSome(self._seq, message.infos, rows)
        elif isinstance(message, StepWith) and without:
            rows = [row for row in message.rows if row not in without]
            message = self._step_with(worker, self._seq, message.infos, rows)
        if message is None:
            if worker in self._pending:
                self._pending.remove(worker)
            return
        self._moved.pop(worker.index, None)
        self._send(worker, frame(encode(message)))
        self.views.command[worker.index] = self._seq
        if worker not in self._pending:
            self._pending.append(worker)

    def message(self, worker: Worker) -> Command | None:
        """Returns the last command as this worker got it, None where it got none."""
        return self._message(worker, self._seq)

    def retire(self, worker: Worker) -> None:
        """Goes on without a worker for good."""
        self.active.remove(worker)
        if worker in self._pending:
            self._pending.remove(worker)

    @property
    def reset_s(self) -> float | None:
        """How long one reset may take, in seconds; None for any time."""
        return self._timeouts.reset_s

    def replay_s(self, budget_s: float) -> float | None:
        """Returns how long to wait for a replay that stops itself after `budget_s`."""
        step_s = self._timeouts.step_s
        return None if step_s is None else budget_s + step_s

    # --- the batch -------------------------------------------------------------------------------

    def read_step(self, rows: StepRows, observations: list[Array]) -> Array | None:
        """Copies a finished step into the caller's arrays.

        Args:
            rows: where to.
            observations: the leaves of `rows.next_observations`.

        Returns:
            The environments whose episode ended, `[K]` ascending; None where none did.
        """
        views, gather, flags = self._fields, self._blocks.gather, self._flags
        for field, out in zip(views.observations, observations, strict=True):
            gather(field, out)
        gather(views.rewards, rows.rewards)
        gather(views.flags, flags)
        rows.valid.fill(True)
        rows.terminated.fill(False)
        rows.truncated.fill(False)
        raw = flags.tobytes()
        if raw == self._no_flags:
            return None
        ended = flags.nonzero()[0]
        for index in ended.tolist():  # a byte that is not 0 is True
            rows.terminated[index], rows.truncated[index] = raw[2 * index], raw[2 * index + 1]
        return ended + self.envs.start

    def read_observations(self, out: list[Array]) -> None:
        """Copies the observations to act on next; `out` holds `[N, *leaf]` per leaf."""
        for field, array in zip(self._fields.observations, out, strict=True):
            self._blocks.gather(field, array)

    def read_finals(self, envs: Array) -> list[Array]:
        """Returns copies of the final observations of these environments, `[K, *leaf]` per leaf."""
        places = [self._places[env] for env in envs.tolist()]
        finals = []
        for field in self.views.finals:
            copies = np.empty((len(places), *field.shape[2:]), field.dtype)
            for index, place in enumerate(places):
                copies[index] = field[place]
            finals.append(copies)
        return finals


# By what of infos is asked for: what `message` says of a step.
_STEPS = [lambda worker, seq, infos=infos: Step(seq, infos) for infos in range(3)]


def _nothing(worker: Worker, seq: int) -> Command | None:
    del worker, seq
    return None
