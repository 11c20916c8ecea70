"""The lockstep: one command to all workers, their replies, and the copy into the caller's arrays.

The hot path of everything. A lockstep costs one strided copy a field, one frame packed for all
workers, one write and one read a worker, and no Python loop over environments.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vecsess.blocks import Blocks
from vecsess.errors import ProtocolError, ServerDied, WorkerDied, WorkerError, WorkerTimeout
from vecsess.piped_values import PipedValues
from vecsess.reports import breach_type, printable
from vecsess.rollout import StepRows
from vecsess.supervisor import Supervisor
from vecsess.tree import leaves
from vecsess.wire.channel import CONTROL_BYTES, VALUE_BYTES, DeadlineError, EndOfStreamError, frame
from vecsess.wire.messages import (
    REPLIES,
    STACK_MARK,
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
from vecsess.wire.patience import Patience
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import FrameError
from vecsess.worker import Timeouts, Worker, describe_exit

Array = npt.NDArray[Any]

SLICE_S = 0.05  # how often a blocked manager looks whether the workers move on
REAP_S = 10.0  # how long a killed process may take to be gone
STACK_MS = 100  # how long a hung worker may take to write its stack
_SIDE = 1 << 62  # numbers of commands to one worker alone begin here


class Lockstep:
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
        self.workers, self.views, self.layout, self.own = workers, views, layout, own
        self.active = workers[own]  # without those that are quarantined
        first, last = self.active[0], self.active[-1]
        self.envs = slice(first.first_env, last.first_env + last.rows)
        self.steps = 0
        self.last: list[Array] = []
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._fields = views.of_workers(own)
        self._supervisor, self._timeouts = supervisor, timeouts
        self._seq = 0
        self.unread = False  # the last command's results are still to come
        self.on_pause: Callable[[], None] | None = None  # called after each sleep
        self._acknowledgement = b""
        self._reply_cap = CONTROL_BYTES
        self._pending: list[Worker] = []
        self._message: Callable[[Worker, int], Command | None] = _nothing
        self._on_lost: Callable[[Worker | None, WorkerError], None] = _raise
        self._side_seq = _SIDE
        self._answers: dict[int, Done] = {}
        self._moved: dict[int, tuple[int, float]] = {}
        self._limit_s: float | None = None
        self._patience = Patience(spin_ns)
        self._hints = [views.reply[i : i + 1].data for i in range(len(workers))]
        self._running = views.running
        self._piped = PipedValues(layout.observation_space, views)
        self._sends_actions = any(leaf.piped for leaf in layout.actions)
        self._step_cap = VALUE_BYTES if self._piped else CONTROL_BYTES
        self._blocks = Blocks([worker.rows for worker in self.active], layout.rows)
        self.worker_of = np.repeat(np.arange(len(workers)), [w.rows for w in workers])
        self.row_of = np.concatenate([np.arange(worker.rows) for worker in workers])
        self._done = np.zeros(self.envs.stop - self.envs.start, np.bool_)

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
        self._message = lambda worker, seq: Step(seq, infos)
        self._pending = self.active.copy()
        for worker in self._pending:
            self._send(worker, data)
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
        return self._answers

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
        self._seq = next(self._numbers)
        self.unread = True
        if self.active and self.active[-1].flight is not self:
            for worker in self.active:
                worker.flight = self
        self._acknowledgement = acknowledgement(self._seq)
        self._reply_cap = reply_cap
        self._limit_s = limit_s
        self._answers = {}
        return self._seq

    def _send(self, worker: Worker, data: bytes) -> None:
        try:
            if not worker.channel.send_at_once(data):
                # Half a command would be taken for a whole one with the next: a busy worker may
                # take as long to come to it as its calls that are still under way.
                limit_s = self._limit_s
                until = None if limit_s is None else time.monotonic() + limit_s * worker.rows
                worker.channel.send(data, until)
        except (EndOfStreamError, DeadlineError):
            pass  # a dead or stopped worker: `gather` finds that out, and says why

    # --- replies ---------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether a command was sent whose replies have not all come."""
        return bool(self._pending)

    @property
    def answered(self) -> bool:
        """Whether all replies seem to have come, as far as the hints tell; never waits."""
        return all(self._hints[worker.index][0] == self._seq for worker in self._pending)

    def woken(self, workers: list[Worker], timeout_s: float) -> set[int]:
        """Returns those of `workers` that have something to say, after at most this long."""
        assert self._supervisor is not None, "an environment in this process has answered already"
        return self._supervisor.wait_any(workers, timeout_s)

    @property
    def answers(self) -> dict[int, Done]:
        """What came back beside the slab for the last command, by worker; usually nothing."""
        return self._answers

    def gather(self, timeout_s: float | None = None) -> None:
        """Waits for the replies of all workers that were sent the last command.

        Raises:
            TimeoutError: `timeout_s` passed; the command stays pending, nothing is lost.
            WorkerError: a worker died, missed the deadline of a call, or breached the protocol.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self._moved = {}
        while self._pending:
            # The last first: by the time that it has answered the others have too, and none of
            # them has woken this process for itself.
            worker = self._pending[-1]
            try:
                if self._has_answered(worker) or self._block(worker, until):
                    self._pending.remove(worker)
            except ServerDied as error:
                self._on_lost(None, error)
            except WorkerError as error:
                self._on_lost(worker if error.worker is None else self.workers[error.worker], error)
        self.unread = False

    def _has_answered(self, worker: Worker) -> bool:
        """Takes a worker's reply, if it comes while it pays to spin for it."""
        hint = self._hints[worker.index]
        seen = hint[0]
        if seen != self._seq:
            self._patience.spin(hint, seen)
        return self._take_reply(worker)

    def _take_reply(self, worker: Worker) -> bool:
        """Takes a worker's reply if it has come; the usual one costs a read and a comparison."""
        try:
            if worker.channel.take_exactly(self._acknowledgement):
                return True
            payload = worker.channel.receive_ready(self._reply_cap)
            while payload is not None:
                if self._accept(worker, decode(payload, REPLIES)):
                    return True
                payload = worker.channel.receive_ready(self._reply_cap)
        except FrameError as error:
            raise self._end(worker, breach_type(error), str(error)) from error
        except EndOfStreamError as error:
            raise self._lost(worker) from error
        return False

    def _accept(self, worker: Worker, reply: Reply) -> bool:
        """Whether this is the awaited reply; a late one, to a command given up, is dropped."""
        if reply.seq > self._seq:
            what = f"expected the reply to command {self._seq}, got one to {reply.seq}"
            raise self._end(worker, ProtocolError, what)
        if reply.seq < self._seq:
            return False
        if not isinstance(reply, Done):
            raise self._end(worker, ProtocolError, f"expected Done, got {type(reply).__name__}")
        if self._piped:
            self._piped.take(worker, reply)
        self._answers[worker.index] = reply
        return True

    # --- one worker alone ------------------------------------------------------------------------

    def watch(self, on_lost: Callable[[Worker | None, WorkerError], None]) -> None:
        """Calls `on_lost(worker, error)` instead of raising when a worker is lost, None for all.

        It brings the worker back and calls `resend`, or raises.
        """
        self._on_lost = on_lost

    def unwatch(self) -> None:
        """Raises again when a worker is lost."""
        self._on_lost = _raise

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

    # --- waiting and losing ----------------------------------------------------------------------

    def _block(self, worker: Worker, until: float | None) -> bool:
        """Sleeps until a worker answers or ends, or for a slice of time; whether it answered."""
        supervisor = self._supervisor
        assert supervisor is not None, "an environment in this process has answered already"
        now = time.monotonic()
        if until is not None and now >= until:
            raise TimeoutError("expected all replies in time; the call is still pending")
        slice_s = SLICE_S if until is None else min(SLICE_S, until - now)
        ready = supervisor.wait(worker, slice_s)
        worker.waited_s += time.monotonic() - now
        if self.on_pause is not None:
            self.on_pause()
        if ready:
            self._patience.over()
            return self._answered_or_lost(worker)
        for other in self._pending[:-1]:
            if supervisor.wait(other, 0.0) and self._answered_or_lost(other):
                self._pending.remove(other)
                return False  # the list has changed under the loop: look again
        self._check_deadlines(time.monotonic())
        return False

    def _answered_or_lost(self, worker: Worker) -> bool:
        """Takes the reply of a worker that has something to say, or raises that it has ended."""
        assert self._supervisor is not None, "only processes can be lost"
        if self._take_reply(worker):
            return True
        if self._supervisor.has_ended(worker):  # only now: it may have answered before that
            raise self._lost(worker)
        return False

    def check_deadlines(self) -> None:
        """Does what is due about workers that take too long, without waiting for any."""
        try:
            self._check_deadlines(time.monotonic())
        except WorkerError as error:
            self._on_lost(self.workers[error.worker or 0], error)

    def _check_deadlines(self, now: float) -> None:
        """Ends a worker whose environment has been in one call for too long."""
        for worker in self._pending:
            place = int(self._running[worker.index])
            before, since = self._moved.get(worker.index, (None, now - SLICE_S))
            if place != before:
                self._moved[worker.index] = (place, since if before is None else now)
                continue
            in_reset = place >= self.layout.rows
            limit_s = self._timeouts.reset_s if in_reset else self._limit_s
            if limit_s is not None and now - since > limit_s:
                what = (
                    f"expected an answer to {'reset' if in_reset else 'its call'} within "
                    f"{limit_s} s; the worker was killed. Raise it with Timeouts(...), or None "
                    "to wait for ever"
                )
                raise self._end(worker, WorkerTimeout, what)

    def _end(self, worker: Worker, kind: type[WorkerError], message: str) -> WorkerError:
        """Kills a worker that can't be trusted any more; returns the error that says why."""
        env = self._guilty(worker)
        if self._supervisor is not None:
            ask_ms = STACK_MS if kind is WorkerTimeout else 0
            self._supervisor.kill(worker, ask_ms)
            ended = self._supervisor.reap(worker, time.monotonic() + REAP_S)
            message += _last_words(ended.stderr, asked=bool(ask_ms))
        return kind(message, worker=worker.index, env=env)

    def _lost(self, worker: Worker) -> WorkerError:
        """Returns the error for a worker that has ended, or has closed its pipe."""
        assert self._supervisor is not None, "only processes can be lost"
        env = self._guilty(worker)
        self._supervisor.kill(worker)  # it may live on without its pipe
        ended = self._supervisor.reap(worker, time.monotonic() + REAP_S)
        how = describe_exit(os.waitstatus_to_exitcode(ended.status))
        message = f"the worker (pid {ended.pid}) ended with {how}{_last_words(ended.stderr)}"
        return WorkerDied(message, worker=worker.index, env=env)

    def _guilty(self, worker: Worker) -> int | None:
        """Returns the environment that the worker was calling, as far as its hint tells."""
        place = int(self._running[worker.index])
        row = place - self.layout.rows if place >= self.layout.rows else place
        return worker.first_env + row if 0 <= row < worker.rows else None

    # --- the batch -------------------------------------------------------------------------------

    def read_step(self, rows: StepRows) -> Array | None:
        """Copies a finished step into the caller's arrays.

        Returns:
            The environments whose episode ended, `[K]` ascending; None where none did.
        """
        views, blocks = self._fields, self._blocks
        for field, out in zip(views.observations, leaves(rows.next_observations), strict=True):
            blocks.gather(field, out)
        blocks.gather(views.rewards, rows.rewards)
        blocks.gather(views.terminated, rows.terminated)
        blocks.gather(views.truncated, rows.truncated)
        rows.valid.fill(True)
        done = np.logical_or(rows.terminated, rows.truncated, out=self._done)
        return np.flatnonzero(done) + self.envs.start if np.count_nonzero(done) else None

    def read_observations(self, out: list[Array]) -> None:
        """Copies the observations to act on next; `out` holds `[N, *leaf]` per leaf."""
        for field, array in zip(self._fields.observations, out, strict=True):
            self._blocks.gather(field, array)

    def read_finals(self, envs: Array) -> list[Array]:
        """Returns copies of the final observations of these environments, `[K, *leaf]` per leaf."""
        workers, rows = self.worker_of[envs], self.row_of[envs]
        return [field[workers, rows] for field in self.views.finals]


def _last_words(stderr: str, *, asked: bool = False) -> str:
    """Returns what a worker wrote last, as the end of an error's message."""
    words = printable(stderr)
    if asked and words.endswith(STACK_MARK):
        words = words.removesuffix(STACK_MARK) + (
            "(it gave no stack: it was stopped, or has replaced the handler of SIGUSR2)"
        )
    lines = words.splitlines()
    # Below the call of the environment there is only vecsess itself.
    own = [index for index, line in enumerate(lines) if "/workers/env_host.py" in line]
    words = "\n".join(lines[: own[-1]] if asked and own else lines)
    return f"; its last output:\n{words}" if words else ""


def _raise(worker: Worker | None, error: WorkerError) -> None:
    del worker
    raise error


def _nothing(worker: Worker, seq: int) -> Command | None:
    del worker, seq
    return None
