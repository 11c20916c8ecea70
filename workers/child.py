"""A process that the fork server has started, and what it writes to stderr."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from vecsess.wire.messages import STACK_MARK

TAIL_LINES = 60
LINE_CHARACTERS = 500
STACK_SIGNAL = signal.SIGUSR2
# What `faulthandler` writes between its first line and its last.
_OF_A_CRASH = re.compile(r"$|  File |  \.\.\.|Extension modules: |.*\(most recent call first\)")
_WARNING = re.compile(r"\S+:\d+: \w*Warning: ")
_WARNED: dict[str, int] = {}  # what was shown, and of which worker
_WARNINGS = 1000  # so many of them at most
_PART_BYTES = 1 << 13  # so much of what one worker writes is taken in one turn
_LAST_BYTES = 1 << 20  # what a pipe may hold
_READY_MS = 20  # for the rest of a spare worker's rehearsal: less than to fork another takes


@dataclass(slots=True, eq=False)
class Child:
    """A worker, as its parent sees it.

    Attributes:
        call: where a spare one waits for its descriptors; it has no index yet.
        said: its last warning was another worker's too.
        asked: it was asked for its stack, which is not passed on.
        held: the account of a crash, so far; see `_show`.
        end_at: when it is to be ended, or given up, on the monotonic clock.
    """

    pid: int
    pidfd: int
    stderr_fd: int
    worker: int = -1
    generation: int = -1
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    partial: bytes = b""
    call: socket.socket | None = None
    held: list[str] = field(default_factory=list)
    said: bool = False
    asked: bool = False
    end_at: float | None = None

    @property
    def told(self) -> bool:
        """Whether all of its stack has come that it was asked for: the bottom frame is the last."""
        return self.asked and bool(self.tail) and "<module>" in self.tail[-1]

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
                # Closed when it has ended: with an answer unread, a close would take this back.
                socket.send_fds(self.call, [b"!"], fds)
                return True
        return False

    def dismiss(self) -> None:
        """Lets go of a spare worker, which ends then, if it was given nothing to do."""
        if self.call is not None:
            self.call.close()
            self.call = None

    def ask_for_stack(self, ask_ms: int) -> None:
        """Lets a hung worker write its Python stack to stderr, as long as that takes."""
        self.read_stderr()
        self.tail.append(STACK_MARK)
        self.asked, self.end_at = True, time.monotonic() + ask_ms / 1000
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, STACK_SIGNAL)

    def read_stderr(self) -> bool:
        """Takes a part of what it has written, keeps the last lines, and passes it on.

        Returns:
            False where no more can come.
        """
        try:
            data = os.read(self.stderr_fd, _PART_BYTES)
        except BlockingIOError:
            return True
        *lines, self.partial = (self.partial + data).split(b"\n")
        if len(self.partial) > LINE_CHARACTERS or not data:
            lines, self.partial = [*lines, self.partial] if self.partial else lines, b""
        texts = [line.decode(errors="replace")[:LINE_CHARACTERS] for line in lines]
        self.tail += texts
        if texts and not self.asked:
            self._show(texts)
        return bool(data)

    def _show(self, texts: list[str]) -> None:
        """Passes on all but the account of a crash: the death that follows is told with it."""
        shown: list[str] = []
        for text in texts:
            begins = text.startswith("Fatal Python error: ")
            if (begins or (self.held and _OF_A_CRASH.match(text))) and len(self.held) < TAIL_LINES:
                self.held.append(text)
            else:  # it lives, so that was another process's
                shown += self.held if self._is_said(text) else [*self.held, text]
                self.held.clear()
        _pass_on("".join(f"[{self.name}] {text}\n" for text in shown))

    def _is_said(self, text: str) -> bool:
        """Whether a line is of a warning that another worker has shown already."""
        if _WARNING.match(text):
            if len(_WARNED) >= _WARNINGS:
                _WARNED.clear()
            self.said = _WARNED.setdefault(text, self.worker) != self.worker
        elif not text.startswith("  "):  # else it is the line of code that warned
            self.said = False
        return self.said

    def read_last(self, *, killed: bool) -> None:
        """Takes what a dead worker wrote last, a line without an end too.

        Args:
            killed: by a signal, its own included: then an account of a crash was its own.
        """
        for _ in range(_LAST_BYTES // _PART_BYTES):
            ready = select.select([self.stderr_fd], [], [], 0)[0]
            if not ready or not self.read_stderr():
                break
        if self.partial:
            self.tail.append(self.partial.decode(errors="replace"))
            _pass_on(f"[{self.name}] {self.tail[-1]}\n")
        if not killed:
            _pass_on("".join(f"[{self.name}] {text}\n" for text in self.held))


def _pass_on(text: str) -> None:
    """Writes to the trainer's stderr, unless nobody reads it: the server must never block."""
    data = text.encode(errors="replace")
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    for begin in range(0, len(data), select.PIPE_BUF):
        if not ready.poll(0):
            return
        with contextlib.suppress(OSError):
            os.write(2, data[begin : begin + select.PIPE_BUF])
