"""What a process does to become a worker: whom it ends with, where it writes, how it leaves."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

from vecsess.wire.channel import Channel, EndOfStreamError
from vecsess.wire.values import Given
from vecsess.workers.child import STACK_SIGNAL

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_GRACE_S = 1.0  # for what environments left to end in order
_LOG = logging.getLogger("vecsess")


def run_worker(part: Callable[[], list[int]]) -> int:
    """Makes this process a worker; returns its exit code.

    Args:
        part: returns command pipe, reply pipe, slab and broadcast; nothing where it was not needed.
    """
    # Not earlier: the server of a session that spawns never needs numpy or gymnasium.
    from vecsess.workers.serve import serve

    _bind_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(all_threads=False)
    faulthandler.register(STACK_SIGNAL, all_threads=False)
    with contextlib.suppress(EndOfStreamError):  # the manager gave up while this worker started
        if fds := part():
            command_fd, reply_fd, slab_fd, broadcast_fd = fds
            serve(Channel(command_fd, reply_fd), slab_fd, broadcast_fd)
    return 0


def _bind_to_parent() -> None:
    """Lets this process die with the server, in a group of its own, and keep its own orphans."""
    parent = os.getppid()
    ask("a process group of its own", os.setpgid, 0, 0)
    die_with_parent(signal.SIGKILL)
    keep_orphans()
    if os.getppid() != parent or parent == 1:
        os._exit(1)  # the server died before it was asked for


def ask(what: str, call: Callable[..., object], *arguments: object) -> None:
    """Makes a system call that a process can do without; a sandbox may refuse it."""
    try:
        call(*arguments)
    except OSError as error:
        _LOG.debug("done without %s: %s", what, error)


def dismiss_group() -> None:
    """Has what environments left in this worker's group, such as a janitor, end in order.

    What is there after a while is killed with this process. Orphans come to it (`keep_orphans`),
    so in the end the group is its children.
    """
    if os.getpgrp() != os.getpid() or _group_is_empty():
        return  # where a sandbox refused a group of its own the others are not this worker's
    until = time.monotonic() + _GRACE_S
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    _end_tracker()
    os.killpg(0, signal.SIGTERM)
    while not _group_is_empty() and (left_s := until - time.monotonic()) > 0:
        # A thread of the environments may take the signal: so not all of the time at once.
        signal.sigtimedwait([signal.SIGCHLD], min(left_s, 0.05))


def _group_is_empty() -> bool:
    """Reaps this group's children that have ended; says whether none is left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(0, os.WNOHANG)[0]:
            pass
        return False
    return True


def _end_tracker() -> None:
    """Lets go of multiprocessing's resource tracker: it ends with its pipe, and by no signal."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker: Given = getattr(module, "_resource_tracker", None)
    if getattr(tracker, "_fd", None) is not None:
        os.close(tracker._fd)
        tracker._fd = None


def redirect(stderr_fd: int) -> None:
    """Sends stdout and stderr to the server, so that no `print` can reach a protocol pipe."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(stderr_fd, 1)
    os.dup2(stderr_fd, 2)
    os.close(null)
    os.close(stderr_fd)


def leave(code: int) -> None:
    """Ends a forked worker without the server's own exit handlers."""
    kind, error, _ = sys.exc_info()
    if kind is SystemExit:
        given = getattr(error, "code", 1)
        code = given if isinstance(given, int) else int(given is not None)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    flush_output()
    os._exit(code & 0xFF)


def flush_output() -> None:
    """Writes what was printed, as far as there is somebody to read it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def die_with_parent(sent: int) -> None:
    """Has the kernel send this process a signal when its parent's thread ends; 0 for none."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, sent, 0, 0, 0)


def keep_orphans() -> None:
    """Makes this process the parent of what its descendants leave behind."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
