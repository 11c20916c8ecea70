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

_GRACE_S, _END_S = 2.0, 5.0


def main() -> None:
    """Runs until end of stream; takes the cluster's folder as its argument."""
    folder = sys.argv[1]
    while sys.stdin.buffer.read(1 << 16):
        pass
    deadline = time.monotonic() + _GRACE_S
    while _left(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    deadline = time.monotonic() + _END_S
    while (left := _left(folder)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def _left(folder: str) -> list[psutil.Process]:
    """Returns the processes that were started with the folder in their arguments or environment."""
    wanted = os.fsencode(folder)
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        if int(place.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, psutil.Error):
            if wanted in (place / "cmdline").read_bytes() + (place / "environ").read_bytes():
                found.append(psutil.Process(int(place.name)))
    return found


if __name__ == "__main__":
    main()
