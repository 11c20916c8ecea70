"""The replies to a command: waiting for them, taking them, and what is done where none comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from vecsess.errors import ProtocolError, ServerDied, WorkerDied, WorkerError, WorkerTimeout
from vecsess.fleet.reports import PipedValues, breach_type, printable
from vecsess.fleet.supervisor import Supervisor
from vecsess.fleet.worker import Timeouts, Worker, describe_exit
from vecsess.wire.channel import CONTROL_BYTES, EndOfStreamError, Patience
from vecsess.wire.messages import REPLIES, STACK_MARK, Done, Reply, decode
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import FrameError

Array = npt.NDArray[Any]

SLICE_S = 0.05  # how often a blocked manager looks whether the workers move on
REAP_S = 10.0  # how long a killed process may take to be gone
STACK_MS = 100  # how long a hung worker may take to write its stack


class Replies:
    """Waits for what workers answer, as long as they move on.

    Args:
        workers: the workers, in the order of their environments.
        supervisor: watches and ends them; None where the environments live in this process.
        layout: of a worker's range.
        views: the fields, `[workers, rows, ...]`.
        timeouts: how long an environment's call may take.
        spin_ns: how long a wait may spin.
    """

    def __init__(
        self,
        workers: list[Worker],
        supervisor: Supervisor | None,
        layout: Layout,
        views: Views,
        timeouts: Timeouts,
        spin_ns: int,
    ) -> None:
        self.workers, self.views, self.layout = workers, views, layout
        self.on_pause: Callable[[], None] | None = None  # called after each sleep
        self._supervisor, self._timeouts = supervisor, timeouts
        self._seq = 0
        self._acknowledgement = b""
        self._reply_cap = CONTROL_BYTES
        self._limit_s: float | None = None
        self._pending: list[Worker] = []
        # What came back beside the slab for the last command, by worker; usually nothing.
        self.answers: dict[int, Done] = {}
        self.unread = False  # the last command's results are still to come
        self._moved: dict[int, tuple[int, float]] = {}
        self._on_lost: Callable[[Worker | None, WorkerError], None] = _raise
        self._patience = Patience(spin_ns)
        self.hints = [views.reply[i : i + 1].data for i in range(len(workers))]
        self._running = views.running
        self._piped = PipedValues(layout.observation_space, views)

    def watch(self, on_lost: Callable[[Worker | None, WorkerError], None]) -> None:
        """Calls `on_lost(worker, error)` instead of raising when a worker is lost, None for all.

        It brings the worker back and calls `resend`, or raises.
        """
        self._on_lost = on_lost

    def unwatch(self) -> None:
        """Raises again when a worker is lost."""
        self._on_lost = _raise

    @property
    def pending(self) -> bool:
        """Whether a command was sent whose replies have not all come."""
        return bool(self._pending)

    @property
    def awaited(self) -> int | None:
        """The number of the command whose replies have not all come, None where they have."""
        return self._seq if self._pending else None

    def woken(self, workers: list[Worker], timeout_s: float) -> set[int]:
        """Returns those of `workers` that have something to say, after at most this long."""
        assert self._supervisor is not None, "an environment in this process has answered already"
        return self._supervisor.wait_any(workers, timeout_s)

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
            hint = self.hints[worker.index]
            seen = hint[0]
            if seen != self._seq:
                self._patience.spin(hint, seen)
            self._take_acknowledgements()
            if worker not in self._pending[-1:]:
                continue
            try:
                if self._take_reply(worker) or self._block(worker, until):
                    self._pending.remove(worker)
            except ServerDied as error:
                self._on_lost(None, error)
            except WorkerError as error:
                self._on_lost(worker if error.worker is None else self.workers[error.worker], error)
        self.unread = False

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
        try:
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
        self.answers[worker.index] = reply
        return True

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
            self._take_acknowledgements()
            return worker in self._pending and self._answered_or_lost(worker)
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
