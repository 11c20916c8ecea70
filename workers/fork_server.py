"""The fork server: imports what the environments need once, then forks each worker from it.

One thread, one loop over `poll`. It starts workers, and has a spare one ready for the next that is
lost; it keeps their stderr from filling up, reaps them, ends what they left behind, and ends itself
and everything below it with the manager. Nothing that a worker does or says holds it up: each turn
of the loop takes a little from everyone, and looks first whether the manager is there.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from vecsess.wire.messages import (
    SERVER_COMMANDS,
    Exited,
    Kill,
    Message,
    Prepare,
    Spawn,
    Spawned,
    decode,
    encode,
)
from vecsess.workers.child import Child
from vecsess.workers.process import (
    ask,
    die_with_parent,
    keep_orphans,
    leave,
    redirect,
    run_worker,
)
from vecsess.workers.remains import Remains, kill_group
from vecsess.workers.sources import note

PACKET_BYTES = 1 << 17
_REST_S = 0.5  # so long after the last start there is time for a spare worker
_CHANCES = 3  # how many spare workers may end by themselves before there are no more
_DEATH_S = 8.0  # how long a killed worker may take, a core dump included, before it is given up
_KILLED = int(signal.SIGKILL)  # the status of what nobody could wait for


class ForkServer:
    """Starts, watches and ends workers for one manager.

    Args:
        connection: a SOCK_SEQPACKET socket to the manager.
        manager_pid: whose end is this server's end too, even if a copy keeps the socket open.
        surroundings_fd: what workers with an interpreter of their own must read, too.
    """

    def __init__(self, connection: socket.socket, manager_pid: int, surroundings_fd: int) -> None:
        self._connection, self._surroundings_fd = connection, surroundings_fd
        self._children: dict[int, Child] = {}  # by pid
        self._spare: Child | None = None
        self._chances, self._due_s = _CHANCES, 0.0  # when a spare one is, on the monotonic clock
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._threads: list[str] = []
        connection.set_inheritable(False)  # a worker must not speak for this server
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._manager_fd = os.pidfd_open(manager_pid)
        self._poll.register(self._manager_fd, select.POLLIN)
        self._remains = Remains(self._manager_fd)
        keep_orphans()

    def run(self) -> None:
        """Serves until the manager closes its socket or ends; then ends everything below."""
        connection_fd = self._connection.fileno()
        try:
            while True:
                ready = dict(self._poll.poll(self._rest_ms()))
                if self._manager_fd in ready:
                    return
                if connection_fd not in ready and self._spare_ms() == 0:
                    self._keep_spare()  # now nothing of another worker is open here
                self._drain(ready)
                self._reap(ready)
                self._end_overdue()
                self._flush()
                heard = ready.get(connection_fd, 0) & ~select.POLLOUT
                if heard and not self._serve_one():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return  # the manager went while it was being told something
        finally:
            self._end_all()

    def _rest_ms(self) -> float | None:
        """Returns how long until something is due by itself; None where nothing is."""
        now = time.monotonic()
        ends = [child.end_at for child in self._children.values() if child.end_at is not None]
        waits = [max(0.0, end - now) * 1000 for end in ends]
        spare_ms = self._spare_ms()
        return min(waits if spare_ms is None else [*waits, spare_ms], default=None)

    def _spare_ms(self) -> float | None:
        """Returns how long until a spare worker is due; None where none is missing."""
        if not self._chances or not self._children or self._spare is not None:
            return None
        return max(0.0, self._due_s - time.monotonic()) * 1000

    # --- commands --------------------------------------------------------------------------------

    def _serve_one(self) -> bool:
        """Carries out one command; False where the manager has closed its end."""
        data, fds, _, _ = socket.recv_fds(self._connection, PACKET_BYTES, 8)
        if not data:
            return False
        try:
            match decode(data, SERVER_COMMANDS):
                case Prepare() as prepare:
                    self._prepare(prepare)
                case Spawn() as spawn:
                    self._spawn(spawn, fds)
                case Kill() as kill:
                    self._kill(kill)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _kill(self, kill: Kill) -> None:
        """Ends a worker, now or once it has told where it hangs; it is answered in any case."""
        for child in self._children.values():
            if (child.worker, child.generation) == (kill.worker, kill.generation):
                if kill.ask_ms:
                    child.ask_for_stack(kill.ask_ms)
                else:
                    self._end(child)
                return
        self._tell(Exited(kill.worker, kill.generation, 0, _KILLED, ""), [])

    def _end(self, child: Child) -> None:
        kill_group(child.pid)
        child.asked, child.end_at = False, time.monotonic() + _DEATH_S

    def _end_overdue(self) -> None:
        """Ends whoever was asked for its stack in time, and gives up whoever does not die."""
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.end_at is None or (now < child.end_at and not child.told):
                continue
            if child.asked:
                self._end(child)
            else:
                self._bury(child, _KILLED)

    def _prepare(self, prepare: Prepare) -> None:
        """Imports what the workers will need; a module that hangs must not outlive the manager."""
        # Nobody polls the manager's pidfd now, so the kernel watches. Not for longer than this: it
        # takes the end of the thread that started this process for the manager's.
        die_with_parent(signal.SIGKILL)
        try:
            if not select.select([self._manager_fd], [], [], 0)[0]:
                _prepare(prepare)
        finally:
            die_with_parent(0)

    def _tell(self, message: Message, fds: list[int]) -> None:
        """Tells the manager something, later where it does not listen now."""
        self._outbox.append((encode(message), [os.dup(fd) for fd in fds]))
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            data, fds = self._outbox[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._connection.sendmsg([data], rights, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for fd in fds:
                os.close(fd)
            self._outbox.popleft()
        more = select.POLLOUT if self._outbox else 0
        self._poll.modify(self._connection, select.POLLIN | more)

    def _spawn(self, spawn: Spawn, fds: list[int]) -> None:
        """Starts a worker; an error of it is this start's failure, and no other's."""
        try:
            if len(fds) != 4:
                raise OSError("the fork server has no descriptors left")
            own = spawn.method == "spawn" or self._has_threads()
            child = (self._exec if own else self._employ)(fds, spawn.variables)
            child.worker, child.generation = spawn.worker, spawn.generation
            self._tell(Spawned(child.worker, child.generation, child.pid), [child.pidfd])
        except (BrokenPipeError, ConnectionResetError):
            raise
        except (OSError, MemoryError) as error:
            why = f"{type(error).__name__}: {error}"
            self._tell(Exited(spawn.worker, spawn.generation, 0, _KILLED, why), [])
        # Where one was lost, more will be.
        self._due_s = time.monotonic() + (0.0 if spawn.generation else _REST_S)

    def _has_threads(self) -> bool:
        """Whether this process can't be forked: the locks of its threads would stay locked."""
        if len(list(Path("/proc/self/task").iterdir())) == 1:
            return False
        if not self._threads:
            names = [one.name for one in threading.enumerate()[1:]] or ["not of Python's"]
            self._threads = names
            self._chances = 0  # a spare one would be forked
            sys.stderr.write(
                f"vecsess: what was preloaded has started threads ({', '.join(names)}), and can't "
                "be forked; each worker gets an interpreter of its own. Start threads later, or "
                "pass start_method='spawn'\n"
            )
        return True

    def _employ(self, fds: list[int], variables: dict[str, str]) -> Child:
        """Returns a worker over these descriptors, the spare one if there is any."""
        if variables:
            self._chances = 0  # a spare one has imported too much without them

        def part() -> list[int]:
            os.environ.update(variables)
            return fds

        spare = self._spare
        if spare is not None and spare.employ(fds):
            self._spare = None
            return spare
        return self._fork(part)

    def _keep_spare(self) -> None:
        """Forks a worker that nobody needs yet, where that is to be had."""
        try:
            if not self._has_threads():
                self._spare = self._fork_spare()
        except OSError:  # no process, descriptor or memory is left: it is no necessity
            self._chances = 0

    def _fork_spare(self) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def part() -> list[int]:
            from vecsess.workers.spare import stand_by  # as `serve`, not earlier

            ours.close()
            return stand_by(theirs)

        with theirs:
            try:
                child = self._fork(part)
            except OSError:
                ours.close()
                raise
        child.call = ours
        return child

    def _fork(self, part: Callable[[], list[int]]) -> Child:
        """Starts a worker; `part` returns its descriptors, called there."""
        stderr_read, stderr_write = os.pipe()
        gc.freeze()  # what the server has loaded stays shared: no collector writes to it
        try:
            pid = os.fork()
        except OSError:
            os.close(stderr_read)
            os.close(stderr_write)
            raise
        if pid == 0:
            self._become_worker(part, stderr_read, stderr_write)
        return self._watch(pid, stderr_read, stderr_write)

    def _exec(self, fds: list[int], variables: dict[str, str]) -> Child:
        """Starts a worker with an interpreter of its own."""
        self._chances = 0  # what the server has loaded is of no use to it
        stderr_read, stderr_write = os.pipe()
        pid = _spawn_worker(fds, self._surroundings_fd, stderr_write, variables)
        return self._watch(pid, stderr_read, stderr_write)

    def _watch(self, pid: int, stderr_read: int, stderr_write: int) -> Child:
        os.close(stderr_write)
        ask("its process group", os.setpgid, pid, pid)  # the worker does it too: whoever is first
        os.set_blocking(stderr_read, False)
        try:
            child = Child(pid, os.pidfd_open(pid), stderr_read)
        except OSError:
            kill_group(pid)
            self._remains.add(pid)
            os.close(stderr_read)
            raise
        self._children[pid] = child
        self._poll.register(child.pidfd, select.POLLIN)
        self._poll.register(stderr_read, select.POLLIN)
        return child

    def _become_worker(
        self, part: Callable[[], list[int]], stderr_read: int, stderr_write: int
    ) -> None:
        """Never returns: the forked child serves and ends here."""
        code = 1
        try:
            self._connection.close()
            for fd in (self._manager_fd, self._surroundings_fd, stderr_read):
                os.close(fd)
            for child in self._children.values():
                os.close(child.pidfd)
                os.close(child.stderr_fd)
                child.dismiss()
            redirect(stderr_write)
            code = run_worker(part)
        finally:
            leave(code)

    # --- watching --------------------------------------------------------------------------------

    def _drain(self, ready: dict[int, int]) -> None:
        for child in self._children.values():
            if child.stderr_fd in ready and not child.read_stderr():
                self._poll.unregister(child.stderr_fd)  # it was closed: nothing more comes

    def _reap(self, ready: dict[int, int]) -> None:
        for child in [child for child in self._children.values() if child.pidfd in ready]:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            self._bury(child, status if pid else _KILLED)

    def _bury(self, child: Child, status: int) -> None:
        """Ends what a dead worker has left behind, and tells of it."""
        del self._children[child.pid]
        self._remains.add(child.pid)
        kill_group(child.pid)
        self._remains.sweep(self._children.keys())
        child.read_last(killed=os.WIFSIGNALED(status))
        for fd in (child.pidfd, child.stderr_fd):
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
            os.close(fd)
        child.dismiss()
        if child is self._spare:
            self._spare = None
            self._chances = max(0, self._chances - 1)  # the next one may end the same way
            return
        tail = "\n".join(child.tail)
        self._tell(Exited(child.worker, child.generation, child.pid, status, tail), [])

    def _end_all(self) -> None:
        for child in self._children.values():
            child.dismiss()
            kill_group(child.pid)
        self._children.clear()
        self._remains.end()


def _spawn_worker(
    fds: list[int], surroundings_fd: int, stderr_fd: int, variables: dict[str, str]
) -> int:
    """Starts a worker with an interpreter of its own; returns its pid."""
    program = Path(sys.modules["__main__"].__file__ or "").absolute()
    for fd in (*fds, surroundings_fd):
        os.set_inheritable(fd, True)
    options = sys.orig_argv[1 : sys.orig_argv.index("-P")]  # -O, -W, -X and so on
    arguments = [sys.executable, *options, "-P", str(program), "--worker", ",".join(map(str, fds))]
    arguments += ["--surroundings", str(surroundings_fd)]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, stderr_fd, 1),
        (os.POSIX_SPAWN_DUP2, stderr_fd, 2),
    ]
    environment = {**os.environ, **variables}
    return os.posix_spawn(sys.executable, arguments, environment, file_actions=actions)


def _prepare(prepare: Prepare) -> None:
    """Imports what the workers would, each for itself."""
    for module in prepare.modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            # The worker will import it again and fail with the traceback that its user sees.
            sys.stderr.write(f"vecsess: could not preload {module}: {error!r}\n")
    note()  # as they were read: workers have these modules in memory, whatever becomes of the files
