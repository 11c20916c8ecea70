"""What is left one second after a manager was killed with SIGKILL."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MARK = "VECSESS_CAMPAIGN"
_WITHIN_S = 1.0
_READY_S = 60.0


def orphans(times: int, seed: int, preload: Sequence[str] = ()) -> int:
    """Kills so many managers; returns how many processes outlived them by a second.

    Args:
        times: how many.
        seed: of the moments.
        preload: modules for their fork servers.

    Raises:
        RuntimeError: a manager did not come up.
    """
    random = np.random.default_rng([seed, 2])
    return sum(_left_by_one(float(random.uniform(0, 0.1)), preload) for _ in range(times))


def _left_by_one(after_s: float, preload: Sequence[str]) -> int:
    """Kills one manager; ends what it left, and returns how many that were."""
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "vecsess.bench.faults.doomed", *preload]
    environment = {**os.environ, MARK: token}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as manager:
        try:
            _await_ready(manager)
            time.sleep(after_s)
        finally:
            manager.kill()
    deadline = time.monotonic() + _WITHIN_S
    while (left := marked(token)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _await_ready(manager: subprocess.Popen[bytes]) -> None:
    assert manager.stdout is not None
    ready, _, _ = select.select([manager.stdout], [], [], _READY_S)
    if not ready or manager.stdout.readline() != b"ready\n":
        raise RuntimeError(
            "expected the manager to come up, it did not; run it to see why: "
            "python -m vecsess.bench.faults.doomed"
        )


def marked(token: str) -> list[int]:
    """Returns the processes that carry the token in their environment."""
    wanted = f"{MARK}={token}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
