"""Starts worker processes, watches them, and ends them: the manager's side of the fork server."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vecsess.errors import ProtocolError, ServerDied, SpawnError, VecsessError
from vecsess.fleet.plan import Variables
from vecsess.fleet.surroundings import (
    environment,
    interpreter_flags,
    kill_marked,
    require_descriptors,
    require_linux,
    start_process,
    surroundings_file,
)
from vecsess.fleet.worker import OutOfTimeError, Worker, describe_exit
from vecsess.wire.broadcast import Broadcast
from vecsess.wire.channel import Channel, DeadlineError, EndOfStreamError
from vecsess.wire.messages import (
    SERVER_REPLIES,
    Exited,
    Kill,
    Message,
    Prepare,
    Spawn,
    Spawned,
    decode,
    encode,
)
from vecsess.wire.slab import create_memfd
from vecsess.wire.values import FrameError

PACKET_BYTES = 1 << 17
_DEATH_S = 10.0  # how long a killed process may take to be gone
_PROGRAM = Path(__file__).parents[1] / "bridge" / "gym_server.py"
_WORKER_CODE = "vecsess.workers.spare"  # by name: this side never imports it


@dataclass(slots=True)
class _Owned:
    """What must be given back even where nobody calls `close`; free of references to the owner."""

    surroundings_fd: int  # as they were when the session began
    parcel_fd: int  # what makes the environments, -1 where that is small
    server: subprocess.Popen[bytes] | None = None
    connection: socket.socket | None = None
    descriptors: dict[int, list[int]] = field(default_factory=dict)  # by worker
    pid: int = field(default_factory=os.getpid)

    def release(self, close_s: float = 1.0) -> None:
        """Ends the fork server, and with it every worker; closes all descriptors."""
        foreign = os.getpid() != self.pid  # a forked copy: the processes belong to its parent
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        for index in list(self.descriptors):
            self.release_worker(index)
        fds = self.inherited()
        self.surroundings_fd = self.parcel_fd = -1
        for fd in fds:
            os.close(fd)
        self._end_server(foreign, close_s)

    def inherited(self) -> list[int]:
        """Returns the descriptors that the fork server gets as they are."""
        return [fd for fd in (self.surroundings_fd, self.parcel_fd) if fd >= 0]

    def release_server(self) -> None:
        """Ends a fork server that is dead or dying, and leaves the descriptors of its workers."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self._end_server(False, 0.0)

    def release_worker(self, index: int) -> None:
        """Closes what belongs to a worker; whoever does that makes sure that nobody uses it."""
        for fd in self.descriptors.pop(index, []):
            os.close(fd)

    def _end_server(self, foreign: bool, close_s: float) -> None:
        server = self.server
        if server is None:
            return
        if foreign:
            server.returncode = 0  # so that Popen does not wait for a process of its parent's
        try:
            server.wait(close_s)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        self.server = None  # only now: where this was interrupted it can be done again


class Supervisor:
    """One fork server and the workers that it starts.

    Args:
        groups: `(first_env, rows)` of each worker.
        preload: modules that the fork server imports before it forks.
        start_method: "fork" or "spawn".
        variables: of the environment of processes.
        start_s: how long a worker may take to stand; None for any time.
        parcel_fd: what workers inherit, and this closes in the end; -1 for nothing.
    """

    def __init__(
        self,
        groups: list[tuple[int, int]],
        preload: Iterable[str],
        start_method: str,
        variables: Variables,
        start_s: float | None,
        parcel_fd: int = -1,
    ) -> None:
        require_linux()
        require_descriptors(len(groups))
        self._owned = _Owned(surroundings_file(), parcel_fd)
        self._finalizer = weakref.finalize(self, _Owned.release, self._owned)
        self.broadcast = Broadcast()
        self._owned.descriptors[-1] = [self.broadcast.fd]  # no worker's
        self._groups = groups
        # One that spawns never forks, so what it imported would serve nobody.
        self._preload = [_WORKER_CODE, *preload] if start_method == "fork" else []
        self._mark = secrets.token_hex(8)
        self._start_method, self._variables, self._start_s = start_method, variables, start_s
        self._answers = False  # whether this fork server has ever said anything
        self.workers: list[Worker] = []

    # --- start -----------------------------------------------------------------------------------

    def start(self, deadline: float | None) -> None:
        """Starts the fork server and all workers; they are building their environments then."""
        self._start_server()
        for index, (first_env, rows) in enumerate(self._groups):
            worker = Worker(index, first_env, rows, Channel(-1, -1), -1)
            self.workers.append(worker)
            self._launch(worker, deadline)
        for worker in self.workers:
            self.await_spawned(worker)

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._owned.connection, self._answers = ours, False
            command = [sys.executable, *interpreter_flags(), "-P", str(_PROGRAM)]
            command += ["--fork-server", str(theirs.fileno()), "--manager", str(os.getpid())]
            command += ["--surroundings", str(self._owned.surroundings_fd)]
            self._owned.server = start_process(
                command,
                pass_fds=[theirs.fileno(), *self._owned.inherited()],
                stdin=subprocess.DEVNULL,
                env=environment(self._mark, self._variables.shared),
            )
        self._tell(Prepare(self._preload), [])

    @property
    def serving(self) -> bool:
        """Whether the fork server lives, as far as one can see."""
        server, connection = self._owned.server, self._owned.connection
        return server is not None and connection is not None and server.poll() is None

    def restart_server(self) -> None:
        """Replaces a dead fork server; the workers, which have gone with it, are to be replaced."""
        self._owned.release_server()
        for worker in self.workers:
            _kill_surely(worker)
            self._detach(worker)
        kill_marked(self._mark)
        self._start_server()

    def restart(self, lost: Worker, deadline: float | None) -> None:
        """Asks for a lost worker's successor, in place: same environments, next generation.

        Args:
            lost: a worker that is to be replaced; killed first where it still runs.
            deadline: until the successor has described what it built.

        Raises:
            ServerDied: the fork server has ended.
            SpawnError: there is no descriptor for it.
        """
        if lost.exit is None:
            self.kill(lost)
            self.reap(lost)
        self._detach(lost)
        lost.generation += 1
        self._launch(lost, deadline)

    def _detach(self, worker: Worker) -> None:
        """Closes a worker's descriptors: their numbers may be others' from now on."""
        worker.dead, worker.channel, worker.slab_fd = True, Channel(-1, -1), -1
        worker.stage = ""
        worker.pidfd, worker.watch = -1, select.poll()
        worker.exit = worker.exit or _gone(worker, "it went with the fork server")
        self._owned.release_worker(worker.index)

    def _launch(self, worker: Worker, deadline: float | None) -> None:
        """Asks for a process; its slab is a new memfd, so no predecessor can write into it."""
        index, generation = worker.index, worker.generation
        worker.exit = _gone(worker, "it was not started")
        own = self._owned.descriptors[index] = []
        with contextlib.ExitStack() as theirs:
            try:
                command_read, command_write = os.pipe()
                own.append(command_write)
                theirs.callback(os.close, command_read)
                reply_read, reply_write = os.pipe()
                own.append(reply_read)
                theirs.callback(os.close, reply_write)
                slab = create_memfd(f"vecsess-{index}-{generation}")
                own.append(slab)
            except OSError as error:
                raise SpawnError(f"it could not be started: {error}", worker=index) from error
            os.set_blocking(command_write, False)
            os.set_blocking(reply_read, False)
            worker.channel, worker.slab_fd = Channel(reply_read, command_write), slab
            variables = self._variables.own[index]
            spawn = Spawn(index, generation, self._start_method, variables)
            self._tell(spawn, [command_read, reply_write, slab, self.broadcast.fd])
        worker.exit, worker.stage, worker.due = None, "asked", deadline

    def await_spawned(self, worker: Worker, until: float | None = None) -> None:
        """Waits until a process that was asked for runs.

        Raises:
            ServerDied: the fork server has ended.
            SpawnError: there is no process or descriptor for it, or not in time.
            OutOfTimeError: the caller's time, `until`, is up.
        """
        worker.stage = ""
        while worker.pidfd < 0:
            if worker.exit is not None:
                what = f"it could not be started: {worker.exit.stderr}"
                raise SpawnError(what, worker=worker.index)
            try:
                self._hear(worker.due, self._start_s, until)
            except OutOfTimeError:
                worker.stage = "asked"
                raise
        worker.watch = select.poll()
        worker.watch.register(worker.channel.read_fd, select.POLLIN)
        worker.watch.register(worker.pidfd, select.POLLIN)

    # --- watch -----------------------------------------------------------------------------------

    def wait(self, worker: Worker, timeout_s: float) -> bool:
        """Whether a worker has something to say or has ended, after at most this long."""
        return bool(worker.watch.poll(timeout_s * 1000))

    def has_ended(self, worker: Worker) -> bool:
        """Whether a worker's process has ended, even if what it started keeps its pipe open."""
        return any(fd == worker.pidfd for fd, _ in worker.watch.poll(0))

    def wait_any(self, workers: Iterable[Worker], timeout_s: float) -> set[int]:
        """Returns those of `workers`, by index, of which `wait` would tell something."""
        poll, owners = select.poll(), {}
        for worker in workers:
            for fd in (worker.channel.read_fd, worker.pidfd):
                poll.register(fd, select.POLLIN)
                owners[fd] = worker.index
        return {owners[fd] for fd, _ in poll.poll(timeout_s * 1000)}

    def wait_for(self, worker: Worker, deadline: float | None) -> None:
        """Waits until a worker has written something.

        Raises:
            DeadlineError: it has not in time.
            EndOfStreamError: it has ended, even if a process that it started keeps its pipe open.
        """
        timeout_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = {fd for fd, _ in worker.watch.poll(timeout_ms)}
        if not ready:
            raise DeadlineError("the worker did not answer in time")
        if worker.channel.read_fd not in ready:
            raise EndOfStreamError("the worker has ended")

    def kill(self, worker: Worker, ask_ms: int = 0) -> None:
        """Has a worker and all that it started killed; returns at once.

        The fork server answers in any case, also where an answer was lost in an interrupt.

        Args:
            worker: it need not be alive.
            ask_ms: let it write its stack to stderr first, and wait so long for that.
        """
        self._tell(Kill(worker.index, worker.generation, ask_ms), [])

    def reap(self, worker: Worker) -> Exited:
        """Waits until a dead worker has been reaped, and all that it started with it."""
        deadline = time.monotonic() + _DEATH_S
        while worker.exit is None:
            self._hear(deadline, _DEATH_S)
        worker.dead = True
        return worker.exit

    def _tell(self, message: Message, fds: list[int]) -> None:
        connection = self._owned.connection
        if connection is None:
            raise self._server_died()
        try:
            socket.send_fds(connection, [encode(message)], fds)
        except OSError as error:
            raise self._server_died() from error

    def _hear(
        self, deadline: float | None, allowed_s: float | None, until: float | None = None
    ) -> None:
        """Takes one message of the fork server's.

        Args:
            deadline: until when it must come.
            allowed_s: what that was in seconds.
            until: when the caller's time is up, which is nobody's fault.
        """
        connection = self._owned.connection
        if connection is None:
            raise self._server_died()
        soonest = min((at for at in (deadline, until) if at is not None), default=None)
        connection.settimeout(None if soonest is None else max(0.01, soonest - time.monotonic()))
        try:
            data, fds, _, _ = socket.recv_fds(connection, PACKET_BYTES, 1)
        except TimeoutError as error:
            if soonest is until:
                raise OutOfTimeError("the fork server is starting a lost worker") from error
            raise self._silent(allowed_s) from error
        except OSError as error:
            raise self._server_died() from error
        if not data:
            raise self._server_died()
        self._answers = True
        try:
            self._take(decode(data, SERVER_REPLIES), fds)
        except FrameError as error:
            raise ProtocolError(f"the fork server sent what it should not: {error}") from error

    def _silent(self, allowed_s: float | None) -> VecsessError:
        """Returns the error for a fork server that has said nothing for too long."""
        if self._answers:
            return self._server_died(f"did not answer within {allowed_s} s, and was ended")
        self._owned.release_server()
        return SpawnError(
            f"the fork server did not answer within {allowed_s} s; a module that it preloads may "
            "hang while it is imported. Raise it with Timeouts(start_s=...)"
        )

    def _take(self, message: Message, fds: list[int]) -> None:
        assert isinstance(message, Spawned | Exited), "what the fork server says"
        worker = self.workers[message.worker] if message.worker < len(self.workers) else None
        if worker is None or worker.generation != message.generation or worker.slab_fd < 0:
            for fd in fds:  # of a predecessor, whose start was given up
                os.close(fd)
        elif isinstance(message, Exited):
            worker.exit = worker.exit or message  # the first one knows most
        elif fds:
            worker.pid, worker.pidfd = message.pid, fds[0]
            self._owned.descriptors[worker.index].append(fds[0])
        else:
            raise SpawnError("there is no descriptor left to watch it by", worker=worker.index)

    def _server_died(self, how: str = "") -> ServerDied:
        """Makes sure of it, and returns the error that says so."""
        server = self._owned.server
        code = None if server is None else server.poll()
        self._owned.release_server()
        how = how or f"ended{'' if code is None else ' with ' + describe_exit(code)}"
        return ServerDied(f"the fork server {how}; what it wrote to stderr says why")

    # --- end -------------------------------------------------------------------------------------

    def close(self, close_s: float) -> None:
        """Ends the fork server and every worker that is left; a second call does nothing."""
        if self._finalizer.alive:
            self._owned.release(close_s)
            self._finalizer.detach()  # only now: a Ctrl-C must leave something to close

    def abandon(self) -> None:
        """Closes a forked copy's descriptors and leaves the processes to their owner."""
        self.close(0.0)


def _gone(worker: Worker, why: str) -> Exited:
    """Returns what is known of a process that nobody could reap, or that never was."""
    return Exited(worker.index, worker.generation, worker.pid, int(signal.SIGKILL), why)


def _kill_surely(worker: Worker) -> None:
    """Ends a worker whose fork server is gone, and waits until it is."""
    if worker.pidfd < 0:
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
    poll = select.poll()
    poll.register(worker.pidfd, select.POLLIN)
    poll.poll(_DEATH_S * 1000)
