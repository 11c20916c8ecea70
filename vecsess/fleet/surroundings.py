"""Around the fork server: its environment, the limits that it needs, what it leaves behind."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecsess.errors import SpawnError

_LOG = logging.getLogger("vecsess")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_MARK = "VECSESS_SESSION"
_SECRET = re.compile(r"AWS_.*|(.*_)?(TOKEN|KEY|SECRET|PASSWORD)", re.IGNORECASE)
_DESCRIPTORS_PER_WORKER = 8  # three stay; the others are open while a worker starts


def environment(mark: str, variables: dict[str, str]) -> dict[str, str]:
    """Returns the fork server's environment; what is set after an import has no effect.

    An environment has no use for what the trainer authenticates itself with.
    """
    environment = {name: value for name, value in os.environ.items() if not _SECRET.fullmatch(name)}
    environment.update(variables)
    for name in _ONE_THREAD:
        environment.setdefault(name, "1")
    environment.setdefault("PYTHONHASHSEED", "0")
    environment[_MARK] = mark
    return environment


def surroundings_file() -> int:
    """Returns a memfd with what a worker needs to import what the trainer does, as a pickle.

    It is read before anything but Python's own library can be imported: bridge/gym_server.py.
    """
    try:
        directory = str(Path.cwd())
    except OSError:  # it was deleted
        directory = None
    entries: list[Any] = sys.path  # Python passes over what is no text, too
    path = [entry or directory for entry in entries if isinstance(entry, str)]
    surroundings = {
        "path": [entry for entry in path if entry is not None],
        "arguments": sys.argv,
        "directory": directory,
        "files": dict(_files_off_the_path()),
    }
    fd = os.memfd_create("vecsess-surroundings")
    with open(fd, "wb", closefd=False) as file:
        pickle.dump(surroundings, file)
    return fd


def _files_off_the_path() -> Iterator[tuple[str, str]]:
    """Yields name and file of each module that was loaded by path: no `import` would find it."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or "." in name or not isinstance(file, str):
            continue
        path = Path(file)
        folder = path.parents[1] if path.stem == "__init__" else path.parent
        if str(folder) not in sys.path and path.is_file():
            yield name, str(path.absolute())


def interpreter_flags() -> list[str]:
    """Returns the options of Python that this process was started with: -O, -W, -X and so on."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    told = {flag.partition("=")[0] for flag in flags}
    for name, value in sys._xoptions.items():
        if name not in told:
            flags += ["-X", name if value is True else f"{name}={value}"]
    return flags


def start_process(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a process in a group of its own: a Ctrl-C in the terminal is for the trainer."""
    try:
        return subprocess.Popen(command, process_group=0, **options)
    except OSError as error:  # a sandbox that refuses process groups; else the same again
        _LOG.debug("done without a process group: %s", error)
        return subprocess.Popen(command, **options)


def is_marked(pid: int) -> bool:
    """Whether a process is a worker of some session, a fork server, or was started by one."""
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    return any(entry.startswith(f"{_MARK}=".encode()) for entry in environ.split(b"\0"))


def kill_marked(mark: str) -> None:
    """Ends what the workers of a dead fork server started: all carry its mark in their environ."""
    wanted = f"{_MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def require_linux() -> None:
    """Refuses a system without memfd and pidfd, before anything has been started."""
    if not hasattr(os, "memfd_create") or not hasattr(os, "pidfd_open"):
        raise SpawnError(
            "worker processes need Linux (memfd, pidfd); use workers=0 to run the environments "
            "in this process"
        )


def fill_standard_descriptors() -> None:
    """Opens /dev/null at those of 0, 1 and 2 that are closed, as they may be in a daemon.

    Else pipes of a session would lie there, and whatever prints would write into them.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def require_descriptors(workers: int) -> None:
    """Refuses more workers than this process has descriptors left for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    wanted = workers * _DESCRIPTORS_PER_WORKER + 16
    if limit != resource.RLIM_INFINITY and used + wanted > limit:
        raise SpawnError(
            f"{workers} workers need {wanted} more open files; {used} of {limit} are in use. "
            "Raise the limit (ulimit -n), or group environments with workers='auto'"
        )
