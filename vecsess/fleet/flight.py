"""One command in the air: sent to some workers, awaited, answered; who does not answer is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial

from vecsess.errors import ProtocolError, ServerDied, VecsessError, WorkerError, WorkerTimeout
from vecsess.fleet.deadlines import SLICE_S, Deadlines, missed_by
from vecsess.fleet.held import Held
from vecsess.fleet.infos import InfoReader
from vecsess.fleet.postmortem import Postmortem
from vecsess.fleet.reports import SCHEMA, R, Reports, breach_type
from vecsess.fleet.supervisor import Supervisor
from vecsess.fleet.worker import OutOfTimeError, Timeouts, Worker
from vecsess.wire.channel import (
    CONTROL_BYTES,
    VALUE_BYTES,
    DeadlineError,
    EndOfStreamError,
    Patience,
    frame,
)
from vecsess.wire.messages import (
    REPLIES,
    Command,
    Done,
    Reply,
    Reset,
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

Make = Callable[[Worker, int], Command | None]
OnLost = Callable[[Worker | None, WorkerError], None]
# Worker, generation and place; the command's number, its deadline, and what is still to be sent.
Aside = tuple[tuple[int, int, tuple[int, str] | None], int, float | None, bytes]

_FAILURE_BYTES = 1024  # what a row may add to a reply: a failure, in brief
_SIDE = 1 << 62  # numbers of commands to one worker alone begin here


class Waits:
    """A sum of time."""

    __slots__ = ("ns",)

    def __init__(self) -> None:
        self.ns = 0


class Flight:
    """One command at a time to some workers, and what they answer, as long as they move on.

    Args:
        workers: all of the session, in the order of their environments.
        own: those that are sent commands; the flights of a session share no worker.
        supervisor: watches and ends them; None where the environments live in this process.
        layout: of a worker's range.
        views: the fields, `[workers, rows, ...]`.
        timeouts: how long an environment's call may take.
        spin_ns: how long a wait may spin.
        numbers: gives each command its number; flights share it, so that numbers only grow.

    Attributes:
        active: the workers that are sent commands, without those that were given up.
        answers: what came back beside the slab for the last command, by worker; usually nothing.
        unread: whether the last command's results are still to come.
        until: when a wait is to be broken off, on the monotonic clock; None for never.
        resumable: whether a wait that is broken off now can be taken up again: while nothing is
            done but waiting, for what was just read would be forgotten.
        on_pause: called after each sleep.
        waits: how long replies were waited for so far; flights of a session share it. In this
            process that is the time in which commands are carried out.
    """

    def __init__(
        self,
        workers: list[Worker],
        own: slice,
        supervisor: Supervisor | None,
        layout: Layout,
        views: Views,
        timeouts: Timeouts,
        spin_ns: int,
        numbers: Iterator[int],
    ) -> None:
        self._workers, self.active = workers, workers[own]
        self._supervisor, self.timeouts = supervisor, timeouts
        self._views = views
        self._numbers = numbers
        self.seq = 0
        self._make: Make = _nothing
        self._acknowledgement = b""
        self._reply_cap = CONTROL_BYTES
        self._pending: list[Worker] = []
        self.answers: dict[int, Done] = {}
        self.unread = self.resumable = False
        self.until: float | None = None  # when the caller's own time is up
        self._unfinished: tuple[Worker | None, WorkerError] | None = None
        self._aside: Aside | None = None  # what one worker alone has yet to answer
        self._deadlines = Deadlines(timeouts, views, layout.rows)
        self._postmortem = Postmortem(supervisor, views.running, layout.rows)
        self._on_lost: OnLost = _raise
        self.on_pause: Callable[[], None] | None = None
        self.patience, self.waits = Patience(spin_ns), Waits()
        self._commands = views.of_workers(own).command
        self.hints = [views.reply[i : i + 1].data for i in range(len(workers))]
        self._held = Held()
        self._reports = Reports(layout.observation_space, views, self._held)
        self.infos = InfoReader(workers, layout, views)
        self._asks_infos = False  # whether the last command asks for infos
        told_bytes = CONTROL_BYTES + layout.rows * _FAILURE_BYTES
        # What one environment may send, each may: whatever the grouping. Its values are two infos,
        # and what of two observations goes by pipe.
        values = 2 + 2 * len(self._reports.parts)
        self._value_cap = (VALUE_BYTES + CONTROL_BYTES) * values * layout.rows
        self._step_cap = self._value_cap if self._reports.parts else told_bytes

    def follow(self, whole: Flight) -> None:
        """Goes on without the workers that a larger flight has given up, and loses as it does."""
        self.active = [worker for worker in self.active if worker in whole.active]
        self._on_lost = whole._on_lost  # another of this class
        self.waits = whole.waits

    def watch(self, on_lost: OnLost) -> None:
        """Calls `on_lost(worker, error)` instead of raising when a worker is lost, None for all.

        It brings the worker back and calls `resend`, or raises.
        """
        self._on_lost = on_lost

    def unwatch(self) -> None:
        """Raises again when a worker is lost."""
        self._on_lost = _raise

    # --- commands --------------------------------------------------------------------------------

    def step(self, infos: int) -> None:
        """Sends every worker the one frame that has it step all of its rows."""
        cap = self._value_cap if infos else self._step_cap
        seq = self._next_seq(cap, self.timeouts.step_s)
        self._asks_infos = infos > 0
        self._make = _STEPS[infos]
        self._pending = self.active.copy()
        if self._supervisor is None:
            self._step_here(seq, infos)
            return
        data = step_command(seq, infos)
        for worker in self._pending:
            try:
                if not worker.channel.send_at_once(data):
                    self._send(worker, data)
            except EndOfStreamError:
                pass  # a dead worker: `gather` finds that out, and says why
        self._commands[:] = seq  # after the pipes: who sees the hint finds the command
        self._deadlines.sent_s = time.monotonic()

    def _step_here(self, seq: int, infos: int) -> None:
        """Carries a step out; what there is to say of it beside the slab is still to be taken."""
        began_ns = time.perf_counter_ns()
        for worker in self.active:
            assert worker.step_here is not None, "without a supervisor there are no processes"
            if worker.step_here(seq, infos):
                self._pending.remove(worker)
        self.waits.ns += time.perf_counter_ns() - began_ns

    def command(self, make: Make, limit_s: float | None) -> dict[int, Done]:
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

    def begin(self, make: Make, limit_s: float | None) -> None:
        """Sends what `command` sends, without waiting."""
        self._adopt()
        seq = self._next_seq(self._value_cap, limit_s)
        self._make = make
        messages = [(worker, make(worker, seq)) for worker in self.active]
        self._asks_infos = any(getattr(message, "infos", 0) for _, message in messages)
        self._pending = [worker for worker, message in messages if message is not None]
        began_s = time.monotonic() if self._supervisor is None else None
        for worker, message in messages:
            if message is not None:
                self._send(worker, frame(encode(message)))
        self._commands[:] = seq
        self._deadlines.sent_s = time.monotonic()
        if began_s is not None:  # carried out, not only sent
            self.waits.ns += int((self._deadlines.sent_s - began_s) * 1e9)

    def _next_seq(self, reply_cap: int, limit_s: float | None) -> int:
        """Returns the number of a new command, and prepares for the replies to it.

        Args:
            reply_cap: bytes that a reply may have.
            limit_s: how long one call of an environment may take.
        """
        for worker in self._pending:
            _give_up(worker, self.seq)
        seq = self.seq = next(self._numbers)
        self._unfinished = None
        self._acknowledgement = acknowledgement(seq)
        self._reply_cap = reply_cap
        self._deadlines.begin(limit_s)
        self.answers = {}
        self._held.forget()
        self.unread = True
        if self.active and self.active[-1].flight is not self:
            self._adopt()
        return seq

    def _adopt(self) -> None:
        """Takes workers over from other flights, which may have been broken off anywhere."""
        for worker in self.active:
            if worker.flight is not self:
                _give_up(worker, worker.flight.owed_by(worker))
                worker.flight = self

    def owed_by(self, worker: Worker) -> int | None:
        """Returns the number of the last command if a worker has yet to answer it."""
        return self.seq if worker in self._pending else None

    def _send(self, worker: Worker, data: bytes) -> None:
        # Half a command would be taken for a whole one with the next: a busy worker may take as
        # long to come to it as its calls that are still under way.
        call_s = self._deadlines.call_s
        until = None if call_s is None else time.monotonic() + call_s * worker.rows
        # Where it is dead or stopped `gather` finds that out, and says why.
        with contextlib.suppress(EndOfStreamError, DeadlineError):
            worker.channel.send(data, until)

    # --- one worker alone ------------------------------------------------------------------------

    def exchange(
        self,
        worker: Worker,
        make: Callable[[int], Command],
        limit_s: float | None,
        kind: type[R],
        place: tuple[int, str] | None = None,
    ) -> R:
        """Sends one worker a message while the others keep their place; returns its reply.

        Args:
            worker: not one that still owes a reply.
            make: makes the message from its sequence number, which is not of the locksteps':
                the other workers go on answering theirs.
            limit_s: how long the reply may take altogether.
            kind: of reply.
            place: what it is, where the wait ends with the caller's time; the next call for the
                same goes on waiting, and sends nothing.

        Raises:
            OutOfTimeError: the caller's time is up.
            WorkerError: it died, was too slow, or answered what it should not.
            FrameError: the message is longer than any can be; nothing was sent.
        """
        began, self._aside = self._aside, None
        mine = (worker.index, worker.generation, place)
        if began is not None and began[0] == mine:
            _, seq, until, data = began
        else:
            seq = _SIDE + next(self._numbers)
            until = None if limit_s is None else time.monotonic() + limit_s
            data = frame(encode(make(seq)))
        try:
            if data:
                worker.channel.send(data, until)
                self._views.command[worker.index] = seq
            while (payload := worker.channel.receive_ready(self._value_cap)) is None:
                if self._supervisor is not None:
                    self._wait_aside(worker, (mine, seq, until, b""))
            reply = self._reports.read(worker, decode(payload, REPLIES), kind)
        except FrameError as error:
            raise self._postmortem.end(worker, breach_type(error), str(error)) from error
        except EndOfStreamError as error:
            raise self._postmortem.lost(worker) from error
        except DeadlineError as error:
            what = missed_by(limit_s, make(seq))
            raise self._postmortem.end(worker, WorkerTimeout, what) from error
        except OutOfTimeError:
            raise
        except BaseException:
            self._leave(worker)
            raise
        if reply.seq != seq:
            raise self._postmortem.end(
                worker, ProtocolError, f"expected the reply to command {seq}"
            )
        return reply

    def _wait_aside(self, worker: Worker, aside: Aside) -> None:
        """Waits for one worker's reply; the caller's time ends that where it can be taken up."""
        assert self._supervisor is not None, "an environment in this process has answered already"
        (_, _, place), until = aside[0], aside[2]
        mine = None if place is None else self.until
        if mine is None or (until is not None and until <= mine):
            self._supervisor.wait_for(worker, until)
            return
        try:
            self._supervisor.wait_for(worker, mine)
        except DeadlineError as error:
            self._aside = aside
            raise OutOfTimeError(f"worker {worker.index} is being brought back") from error

    def resend(self, worker: Worker, without: set[int]) -> None:
        """Sends a successor the command that its predecessor was lost in.

        Args:
            worker: the successor, its environments brought back.
            without: rows that have had their part already.
        """
        if not self.unread:
            return  # all that it was told has been done, and read
        self.answers.pop(worker.index, None)
        self._held.forget(worker.index)
        message = self.message(worker)
        if isinstance(message, Step) and without:
            rows = [row for row in range(worker.rows) if row not in without]
            message = StepSome(self.seq, message.infos, rows)
        elif isinstance(message, StepWith) and without:
            kept = [index for index, row in enumerate(message.rows) if row not in without]
            rows = [message.rows[index] for index in kept]
            parts = [[part[index] for index in kept] for part in message.actions]
            message = StepWith(self.seq, message.infos, rows, parts)
        if message is None:
            if worker in self._pending:
                self._pending.remove(worker)
            return
        self._send(worker, frame(encode(message)))
        self._views.command[worker.index] = self.seq
        self._deadlines.resent(worker)
        if worker not in self._pending:
            self._pending.append(worker)

    def message(self, worker: Worker) -> Command | None:
        """Returns the last command as this worker got it, None where it got none."""
        return self._make(worker, self.seq)

    def retire(self, worker: Worker) -> None:
        """Goes on without a worker for good."""
        self.active.remove(worker)
        if worker in self._pending:
            self._pending.remove(worker)

    @property
    def pending(self) -> bool:
        """Whether a command was sent whose replies have not all come."""
        return bool(self._pending)

    @property
    def awaited(self) -> int | None:
        """The number of the command whose replies have not all come, None where they have."""
        return self.seq if self._pending else None

    def woken(self, workers: list[Worker], timeout_s: float) -> set[int]:
        """Returns those of `workers` that have something to say, after at most this long."""
        assert self._supervisor is not None, "an environment in this process has answered already"
        began_ns = time.perf_counter_ns()
        found = self._supervisor.wait_any(workers, timeout_s)
        self.waits.ns += time.perf_counter_ns() - began_ns
        return found

    def gather(self, timeout_s: float | None = None) -> None:
        """Waits for the replies of all workers that were sent the last command.

        Raises:
            TimeoutError: `timeout_s` passed; the command stays pending, nothing is lost.
            WorkerError: a worker died, missed the deadline of a call, or breached the protocol.
        """
        self.until = None if timeout_s is None else time.monotonic() + timeout_s
        self.resumable = False
        try:
            self._gather()
        finally:
            self.until = None

    def _gather(self) -> None:
        self._deadlines.watch()
        if self._unfinished is not None:
            self._lose(*self._unfinished)
        self._answer_all()
        self.infos.parts = []
        while (liar := self._liar()) is not None:
            self._lose(liar[0], self.breach(*liar))
            self._answer_all()
        self.unread = False

    def _liar(self) -> tuple[Worker, str] | None:
        """Returns a worker that has answered without having done its part, and which that is."""
        for worker in self.active if self._reports.parts else ():
            unseen = self._reports.unobserved(worker)
            if unseen and _observes(self.message(worker), unseen):
                return worker, "expected an observation of each of its environments"
        if self._asks_infos and (index := self.infos.take(self.seq)) is not None:
            return self._workers[index], "expected infos as it has described them"
        return None

    def _answer_all(self) -> None:
        """Waits until no worker owes a reply."""
        while self._pending:
            # The last first: by the time that it has answered the others have too, and none of
            # them has woken this process for itself.
            worker = self._pending[-1]
            hint = self.hints[worker.index]
            seen = hint[0]
            if seen != self.seq:
                self.resumable = True
                self.patience.spin(hint, seen)
                self.resumable = False
                self.waits.ns += self.patience.spun_ns
            self._take_acknowledgements()
            if worker not in self._pending[-1:]:
                continue
            try:
                if self._take_reply(worker) or self._block(worker):
                    self._pending.remove(worker)
            except ServerDied as error:
                self._lose(None, error)
            except WorkerError as error:
                self._lose(worker if error.worker is None else self._workers[error.worker], error)

    def _lose(self, worker: Worker | None, error: WorkerError) -> None:
        """Has a worker brought back, None for all; what breaks that off can't be waited for."""
        self._unfinished = None
        try:
            self._on_lost(worker, error)
        except OutOfTimeError:  # the next wait goes on with it
            self._unfinished = worker, error
            raise

    def _take_acknowledgements(self) -> None:
        """Takes the plain replies that have come, from the last worker on, until one has not."""
        pending, expected = self._pending, self._acknowledgement
        try:
            while pending and pending[-1].channel.take_exactly(expected):
                pending.pop()
        except EndOfStreamError:
            pass  # `_take_reply` meets it again, and says whose end it is

    def _take_reply(self, worker: Worker) -> bool:
        """Takes a worker's reply, whatever it says, if it has come."""
        receive = worker.channel.receive_ready
        announce = partial(self._expect, worker)
        try:
            while (payload := receive(self._reply_cap, announce)) is not None:
                if self._accept(worker, decode(payload, REPLIES)):
                    return True
        except FrameError as error:
            raise self._postmortem.end(worker, breach_type(error), str(error)) from error
        except EndOfStreamError as error:
            raise self._postmortem.lost(worker) from error
        except VecsessError:
            raise
        except BaseException:
            self._leave(worker)
            raise
        return False

    def _leave(self, worker: Worker) -> None:
        """Has a worker replaced before the next reset: a Ctrl-C has cut off what it said."""
        worker.dead = self._supervisor is not None

    def _expect(self, worker: Worker, length: int) -> None:
        """Ends the worker that has sent most where all replies together are too much."""
        largest = self._held.expect(worker.index, length)
        if largest is not None:
            what = self._held.told()
            self._held.forget(largest)
            raise self.breach(self._workers[largest], what)

    def _accept(self, worker: Worker, reply: Reply) -> bool:
        """Whether this is the awaited reply; a late one, to a command given up, is dropped."""
        if reply.seq > self.seq:
            what = f"expected the reply to command {self.seq}, got one to {reply.seq}"
            raise self.breach(worker, what)
        if reply.seq < self.seq:
            owed = (worker.generation, reply.seq)
            if owed not in worker.owed:
                what = f"expected one reply to each command, got another to {reply.seq}"
                raise self.breach(worker, what)
            worker.owed.remove(owed)
            self._learn_late(worker, reply)
            return False
        done = self._reports.read(worker, reply, Done)
        if self._asks_infos:
            self.infos.learn(worker, done)
        self.answers[worker.index] = done
        return True

    def _learn_late(self, worker: Worker, reply: Reply) -> None:
        """Keeps of a reply to a command given up how infos are written: it is said only once."""
        if isinstance(reply, Done):
            schemas = [each for each in reply.values if type(each) is list and SCHEMA in each]
            if schemas:
                told = Done(reply.seq, schemas, [])
                self.infos.learn(worker, self._reports.read(worker, told, Done))

    # --- waiting and losing ----------------------------------------------------------------------

    def _block(self, worker: Worker) -> bool:
        """Sleeps until a worker answers or ends, or for a slice of time; whether it answered."""
        supervisor = self._supervisor
        assert supervisor is not None, "an environment in this process has answered already"
        now, until = time.monotonic(), self.until
        if until is not None and now >= until:
            owing = sorted(one.index for one in self._pending)
            raise OutOfTimeError(f"workers {owing} have yet to answer")
        slice_s = SLICE_S if until is None else min(SLICE_S, until - now)
        self.resumable = True
        ready = supervisor.wait(worker, slice_s)
        self.resumable = False
        waited_s = time.monotonic() - now
        worker.waited_s += waited_s
        self.waits.ns += int(waited_s * 1e9)
        if self.on_pause is not None:
            self.on_pause()
        if ready:
            self.patience.over()
            self._take_acknowledgements()
            if worker not in self._pending:
                return False
            if self._answered_or_lost(worker):
                return True
        for other in self._pending[:-1]:
            if supervisor.wait(other, 0.0) and self._answered_or_lost(other):
                self._pending.remove(other)
                return False  # the list has changed under the loop: look again
        self._check_deadlines()
        return False

    def _answered_or_lost(self, worker: Worker) -> bool:
        """Takes the reply of a worker that has something to say, or raises that it has ended."""
        assert self._supervisor is not None, "only processes can be lost"
        if self._take_reply(worker):
            return True
        if self._supervisor.has_ended(worker):  # only now: it may have answered before that
            raise self._postmortem.lost(worker)
        return False

    def check_deadlines(self) -> None:
        """Does what is due about workers that take too long, without waiting for any."""
        try:
            self._check_deadlines()
        except WorkerError as error:
            self._lose(self._workers[error.worker or 0], error)

    def _check_deadlines(self) -> None:
        """Ends a worker that is past its deadline."""
        now = time.monotonic()
        for worker in self._pending:
            missed = self._deadlines.missed(worker, self.message(worker), now)
            if missed:
                raise self._postmortem.end(worker, WorkerTimeout, missed)

    def breach(self, worker: Worker, message: str) -> WorkerError:
        """Ends a worker that answered what it must not; returns the error that says so."""
        return self._postmortem.end(worker, ProtocolError, message)

    def excuse(self, worker: Worker | None) -> list[Worker]:
        """Goes on without the reply of a worker, or of any; returns those that owed one."""
        excused = self._pending.copy() if worker is None else [worker]
        self._pending = [one for one in self._pending if one not in excused]
        return excused

    @contextlib.contextmanager
    def watched_by(self, on_lost: OnLost) -> Iterator[None]:
        """For a while tells somebody else than usual of workers that are lost."""
        usual, self._on_lost = self._on_lost, on_lost
        try:
            yield
        finally:
            self._on_lost = usual

    def put_off(self) -> None:
        """What is being mended was not done in the caller's time: the next wait goes on with it."""
        self._unfinished = None, WorkerError("it is being mended")

    def report(self, worker: Worker | None, error: WorkerError) -> None:
        """Has a worker brought back that was seen to be lost; None for all of them."""
        self._lose(worker, error)


def _raise(worker: Worker | None, error: WorkerError) -> None:
    del worker
    raise error


# By what of infos is asked for: what `message` says of a step.
_STEPS = [lambda worker, seq, infos=infos: Step(seq, infos) for infos in range(3)]


def _observes(command: Command | None, rows: list[int]) -> bool:
    """Whether a command gives an observation of one of these rows at least."""
    if isinstance(command, Reset):
        return not set(rows).isdisjoint(command.rows)
    return isinstance(command, Step | StepSome | StepWith)


def _give_up(worker: Worker, seq: int | None) -> None:
    """Notes a command whose reply nobody waits for any more: one may still come."""
    if seq is not None:
        worker.owed.add((worker.generation, seq))


def _nothing(worker: Worker, seq: int) -> Command | None:
    del worker, seq
    return None
