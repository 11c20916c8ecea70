"""A trainer whose worker does not want to go with it: whatever a deed starts holds a pipe open."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.envs import CountingEnv
from vecsess import VecCheckedSession

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_PR_SET_PTRACER = 0x59616D61
_PTRACE_SEIZE, _PTRACE_O_TRACEEXIT = 0x4206, 1 << 6
_CLONE_PARENT = 0x8000
_LIBC = ctypes.CDLL(None, use_errno=True)


def stay() -> None:
    """Never returns, whatever signal comes that can be ignored."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number < signal.SIGRTMIN:
            signal.signal(number, signal.SIG_IGN)
    _LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    while True:
        time.sleep(1000)


def new_session() -> None:
    if os.fork() == 0:
        os.setsid()
        stay()


def double_fork() -> None:
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            stay()
        os._exit(0)
    os.waitpid(pid, 0)


def no_mark() -> None:
    """Leaves with an empty environment."""
    if os.fork() == 0:
        os.setsid()
        os.execve("/bin/sleep", ["sleep", "1000"], {})


def unreadable() -> None:
    """Lets nobody look into its environment, and keeps no orphans."""
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    double_fork()


def stays_itself() -> None:
    """Is not ended with its parent, and leaves its process group."""
    if os.fork() == 0:
        os.setpgid(0, 0)
        stay()
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    stay()


def hops() -> None:
    """Is another process all the time."""
    if os.fork() == 0:
        while True:
            os.setsid()
            if os.fork():
                os._exit(0)


def hops_in_a_shell() -> None:
    """Does it faster: a shell is small."""
    if os.fork() == 0:
        os.setsid()
        os.execv("/bin/sh", ["sh", "-c", "hop() { hop & exit; }; hop"])


def comes_again() -> None:
    """Two processes, of which each replaces the other."""
    if os.fork() == 0:
        other = 0
        while True:
            if other:
                select.select([os.pidfd_open(other)], [], [])
            own = os.getpid()
            if (other := os.fork()) == 0:
                other = own
                os.setsid()


def a_long_line() -> None:
    """Hundreds of processes, each below the last, in sessions of their own."""
    if os.fork() == 0:
        for _ in range(300):
            os.setsid()
            if os.fork():
                stay()
        stay()


def is_held_by_a_tracer() -> None:
    """A tracer below it stops it where it ends."""
    _LIBC.prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    worker = os.getpid()
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        _LIBC.ptrace(_PTRACE_SEIZE, worker, None, ctypes.c_void_p(_PTRACE_O_TRACEEXIT))
        os.write(write, b"!")  # where a sandbox refuses it, it is a new session
        stay()
    os.read(read, 1)


def is_its_own_sibling() -> None:
    """Has children that its parent did not start."""
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    if _LIBC.syscall(clone, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.setsid()
        stay()


def has_threads_with_children() -> None:
    started = threading.Event()

    def start() -> None:
        new_session()
        started.set()
        time.sleep(1000)

    threading.Thread(target=start, daemon=True).start()
    started.wait(30)


DEEDS: dict[str, Callable[[], None]] = {
    deed.__name__: deed
    for deed in (
        new_session,
        double_fork,
        no_mark,
        unreadable,
        stays_itself,
        hops,
        hops_in_a_shell,
        comes_again,
        a_long_line,
        is_held_by_a_tracer,
        is_its_own_sibling,
        has_threads_with_children,
    )
}


class UnwillingEnv(CountingEnv):
    """Does a deed in its first step."""

    def __init__(self, deed: str, path: str) -> None:
        super().__init__(0)
        self._deed, self._path = deed, path

    def step(self, action: Any) -> Any:
        fd = os.open(self._path, os.O_WRONLY)
        os.set_inheritable(fd, True)
        ready = Path(self._path + ".ready")
        if self._deed == "stays_itself":
            ready.touch()
        DEEDS[self._deed]()
        os.close(fd)
        ready.touch()
        return super().step(action)


def main(deed: str, method: Any, path: str) -> None:
    """Has a worker do a deed, and waits to be killed."""
    with VecCheckedSession([partial(UnwillingEnv, deed, path)], 1, start_method=method) as vec:
        vec.reset(seed=0)
        vec.step_async(np.zeros(1, np.int64))
        time.sleep(1000)


if __name__ == "__main__":
    from tests import unwilling  # workers import it by that name

    unwilling.main(*sys.argv[1:])
