"""What workers leave behind when they end: processes that escaped, and such as do not die."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection
from pathlib import Path

_SWEEP_S = 0.5  # how long the ends of what a dead worker left behind are waited for
_END_S = 5.0  # the same for all of them together, where the fork server ends


class Remains:
    """The processes below the fork server that are no worker of it.

    A worker is a subreaper, so what escaped from its process group stays below it while it lives;
    whatever arrives here has lost its worker.

    Args:
        manager_fd: a pidfd; where the manager ends nothing is waited for.
    """

    def __init__(self, manager_fd: int) -> None:
        self._manager_fd = manager_fd
        self._lingering: set[int] = set()  # given up for dead: a tracer may hold such a process

    def add(self, pid: int) -> None:
        """Takes a worker that has ended, or is given up."""
        self._lingering.add(pid)

    def sweep(self, living: Collection[int]) -> None:
        """Ends all but the living, and waits for that, but not for ever."""
        self._sweep(living, _SWEEP_S)

    def end(self) -> None:
        """Ends all that is below; nobody is to live."""
        until = time.monotonic() + _END_S
        while _children_of(os.getpid()) and time.monotonic() < until:
            self._sweep((), 0.0)
            time.sleep(0.001)

    def _sweep(self, living: Collection[int], within_s: float) -> None:
        """All that is below goes with it: one may hold the other where it ends."""
        until = time.monotonic() + within_s
        while orphans := _children_of(os.getpid()) - set(living):
            _kill_all_below(orphans)
            for pid in orphans:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            self._lingering &= orphans
            if self._lingering == orphans:
                return  # held by a tracer, most likely: they can do nothing any more
            if time.monotonic() > until or select.select([self._manager_fd], [], [], 0.001)[0]:
                self._lingering |= orphans
                return
        self._lingering.clear()


def kill_group(pid: int) -> None:
    """Ends a worker, and whoever is still in its process group."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _kill_all_below(roots: set[int]) -> None:
    """Ends processes and their descendants; stopped first, nobody has time to fork another."""
    found, open_ends = set(roots), list(roots)
    while open_ends:
        more = _children_of(open_ends.pop()) - found
        found |= more
        open_ends += more
    for sent in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            # Another user's, by setuid, is beyond reach.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, sent)


def _children_of(pid: int) -> set[int]:
    """Returns the children of all threads of a process, none where it has gone."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return found
