"""What tests see of processes: which there are, and whether they have gone in time."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Returns whether `condition` came true in time; looks every 10 ms."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        select.select([], [], [], 0.01)
    return True


def processes_below(pid: int | None = None) -> set[int]:
    """Returns the pids of all that run below a process, by default this one; no zombies."""
    try:
        below = psutil.Process(pid or os.getpid()).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {child.pid for child in below if is_running(child.pid) and not _is_tracker(child)}


def _is_tracker(process: psutil.Process) -> bool:
    """Whether this is multiprocessing's tracker, which lives on once AsyncVectorEnv was used."""
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_asleep(pid: int) -> bool:
    """Whether a process exists and sleeps, as one that waits does."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_SLEEPING)
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: set[int], within_s: float) -> bool:
    """Returns whether all of these processes ended in time."""
    return wait_until(lambda: not any(is_running(pid) for pid in pids), within_s)


def run_script(
    text: str, folder: Path, *arguments: str, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Runs a user's script, without a main guard, in a folder of its own.

    Its output goes to files: a process that it leaves behind can't keep us waiting.
    """
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    out, err = folder / "stdout", folder / "stderr"
    with out.open("w") as stdout, err.open("w") as stderr:
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            stdout=stdout,
            stderr=stderr,
            timeout=timeout_s,
            cwd=folder,
            check=False,
        )
    return subprocess.CompletedProcess(done.args, done.returncode, out.read_text(), err.read_text())
