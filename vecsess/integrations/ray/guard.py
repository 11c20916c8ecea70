"""Waits for the end of who started a local cluster, then ends what is left of it.

A driver that is killed can't remove its folder, and two of Ray's agents outlive it by a minute.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import psutil

_GRACE_S, _END_S, _LOOK_S = 2.0, 5.0, 0.1


def main() -> None:
    """Runs until end of stream; takes the cluster's folder as its argument."""
    folder, spared = sys.argv[1], {os.getpid(), os.getppid()}
    while sys.stdin.buffer.read(1 << 16):
        pass
    deadline = time.monotonic() + _GRACE_S
    while _left(folder, spared) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    deadline = time.monotonic() + _END_S
    while (left := _left(folder, spared)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_LOOK_S)
    shutil.rmtree(folder, ignore_errors=True)


def _left(folder: str, spared: set[int]) -> list[psutil.Process]:
    """Returns the processes that were started with the folder, or have files of it open."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        if int(place.name) in spared:  # this one, and a driver that only closes its session
            continue
        with contextlib.suppress(OSError, psutil.Error):
            if _names(place, folder):
                found.append(psutil.Process(int(place.name)))
    return found


def _names(place: Path, folder: str) -> bool:
    """Whether a process names the folder; some of Ray's write their title over their arguments."""
    told = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
    if os.fsencode(folder) in told:
        return True
    for descriptor in (place / "fd").iterdir():
        with contextlib.suppress(OSError):
            if folder in str(descriptor.readlink()):
                return True
    return False


if __name__ == "__main__":
    main()
