"""A process that the fork server has started, and what it writes to stderr."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections import deque
from dataclasses import dataclass, field

from vecsess.wire.messages import STACK_MARK

TAIL_LINES = 60
LINE_CHARACTERS = 500
STACK_SIGNAL = signal.SIGUSR2
_READY_MS = 20  # for the rest of a spare worker's rehearsal: less than to fork another takes


@dataclass(slots=True, eq=False)
class Child:
    """A worker, as its parent sees it.

    Attributes:
        call: where a spare one waits for its descriptors; it has no index yet.
    """

    pid: int
    pidfd: int
    stderr_fd: int
    worker: int = -1
    generation: int = -1
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    partial: bytes = b""
    call: socket.socket | None = None

    @property
    def name(self) -> str:
        """Returns who it is, in what is passed on of its stderr."""
        return f"worker {self.worker}" if self.worker >= 0 else "spare worker"

    def employ(self, fds: list[int]) -> bool:
        """Makes a spare worker the one over these descriptors.

        Returns:
            False where it has ended, or is not ready: stopped, or still at its rehearsal.
        """
        if self.call is None:
            return False
        ready = select.poll()
        ready.register(self.call, select.POLLIN)
        with contextlib.suppress(OSError):  # whatever it is, a worker can be forked as well
            while ready.poll(0) and self.call.recv(1):
                pass  # an answer that came too late
            self.call.send(b"?")
            if ready.poll(_READY_MS) and self.call.recv(1):
                socket.send_fds(self.call, [b"!"], fds)
                self.dismiss()
                return True
        return False

    def dismiss(self) -> None:
        """Lets go of a spare worker, which ends then, if it was given nothing to do."""
        if self.call is not None:
            self.call.close()
            self.call = None

    def ask_for_stack(self, ask_ms: int) -> None:
        """Lets a hung worker write its Python stack to stderr, and waits until it has."""
        self.read_stderr()
        self.tail.append(STACK_MARK)
        signal.pidfd_send_signal(self.pidfd, STACK_SIGNAL)
        ready = select.poll()
        ready.register(self.stderr_fd, select.POLLIN)
        while ready.poll(ask_ms):  # until it is silent for that long
            self.read_stderr(quiet=True)
            if "<module>" in self.tail[-1]:  # the bottom frame: there is no more to come
                return

    def read_stderr(self, *, quiet: bool = False) -> None:
        """Takes what it has written, keeps the last lines, and passes it on, if not `quiet`."""
        while True:
            try:
                data = os.read(self.stderr_fd, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self.partial = (self.partial + data).split(b"\n")
            if len(self.partial) > LINE_CHARACTERS:
                lines, self.partial = [*lines, self.partial], b""
            for line in lines:
                text = line.decode(errors="replace")[:LINE_CHARACTERS]
                self.tail.append(text)
                if not quiet:
                    _pass_on(f"[{self.name}] {text}\n")


def _pass_on(text: str) -> None:
    """Writes to the trainer's stderr, unless nobody reads it: the server must never block."""
    data = text.encode(errors="replace")[: select.PIPE_BUF]
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    if ready.poll(0):
        with contextlib.suppress(OSError):
            os.write(2, data)
