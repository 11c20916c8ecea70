"""The fault matrix: each fault in each place, and whether what comes of it is what is specified.

Runs in a process of its own, so that a manager which hangs is a figure.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np

from vecsess.bench.faults.faulty import (
    CUE,
    CUE_OPTIONS,
    HANGING,
    HARMLESS,
    LIES,
    RAISES,
    BreakingEnv,
    cells,
)
from vecsess.bench.faults.orphans import MARK, marked
from vecsess.errors import (
    ContractViolation,
    EnvError,
    RestartLimitExceeded,
    SpawnError,
    VecsessError,
    WorkerDied,
)
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.policy import RestartPolicy
from vecsess.session.vector import VecCheckedSession

WITHIN_S = 40.0  # a cell that takes longer hangs
_N, _GUILTY = 3, 1
_GOES_ON, _TRUNCATED = "goes on", "truncated, and marked"
_KNOWN = (ContractViolation, EnvError, RestartLimitExceeded, SpawnError, WorkerDied)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What came of a fault in a place."""

    fault: str
    place: str
    expected: str
    got: str

    @property
    def right(self) -> bool:
        """Whether it is what is specified."""
        return self.got == self.expected


def expected(fault: str, place: str) -> str:
    """Returns what is specified for a fault in a place, as docs/faults.md has it."""
    if fault in LIES:
        return "ContractViolation"
    if fault in HARMLESS or place == "close":
        return _GOES_ON
    if fault in RAISES:
        return "EnvError"
    if place == "step":
        return _TRUNCATED
    if place == "reset":
        return "RestartLimitExceeded"
    return "SpawnError" if fault in HANGING else "WorkerDied"


def outcome(fault: str, place: str) -> str:
    """Lets a fault happen in a session of three; returns what came of it."""
    token = secrets.token_hex(8)
    os.environ[MARK] = token
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # "a worker did not close in order"
            what = _outcome(fault, place)
    finally:
        del os.environ[MARK]
    deadline = time.monotonic() + 2.0
    while (left := marked(token)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return f"{what}; {len(left)} processes left" if left else what


def _outcome(fault: str, place: str) -> str:
    makers = [partial(BreakingEnv)] * _N
    makers[_GUILTY] = partial(BreakingEnv, fault, place)
    hangs_early = fault in HANGING and place == "constructor"
    timeouts = Timeouts(start_s=3.0 if hangs_early else 30.0, reset_s=0.4, step_s=0.4, close_s=0.5)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        policy = RestartPolicy(max_restarts=3, backoff_s=0.01, reproducer_dir=folder)
        try:
            vec = VecCheckedSession(makers, _N, timeouts=timeouts, restart_policy=policy)
        except VecsessError as error:
            return _name(error)
        stack.enter_context(vec)
        vec.reset(seed=0)
        try:
            what = _cue(vec, place)
        except VecsessError as error:
            what = _name(error)
            vec.reset(seed=1)
        return what if _still_works(vec) else f"{what}; then it gave wrong rows"


def _cue(vec: VecCheckedSession, place: str) -> str:
    """Gives the cue; returns what came of it."""
    vec.step(np.zeros(_N, np.int64))
    if place == "reset":
        vec.reset(options=CUE_OPTIONS)
    *_, infos = vec.step(np.full(_N, CUE if place == "step" else 0))
    if "invalid" not in infos:
        return _GOES_ON
    return _TRUNCATED if infos["invalid"].tolist() == [False, True, False] else "wrongly marked"


def _still_works(vec: VecCheckedSession) -> bool:
    """Whether rows are as they should be from here on."""
    before = vec.observe()[:, 0]
    for count in range(1, 4):
        observations, *_, infos = vec.step(np.zeros(_N, np.int64))
        if "invalid" in infos or not np.array_equal(observations[:, 0], before + count):
            return False
    return True


def _name(error: VecsessError) -> str:
    for kind in _KNOWN:
        if isinstance(error, kind):
            return kind.__name__
    return repr(error)


# --- all of them ---------------------------------------------------------------------------------


def run_matrix() -> list[Cell]:
    """Runs every cell."""
    todo = cells()
    found: list[Cell] = []
    while len(found) < len(todo):
        found += _run_from(len(found), todo)
    return found


def _run_from(first: int, todo: list[tuple[str, str]]) -> list[Cell]:
    """Runs cells in one process until it is through, or hangs or dies in one of them."""
    command = [sys.executable, "-m", __name__, str(first)]
    found: list[Cell] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdout is not None
        for fault, place in todo[first:]:
            ready, _, _ = select.select([process.stdout], [], [], WITHIN_S)
            line = process.stdout.readline() if ready else b""
            got = json.loads(line) if line else "the manager died" if ready else "hangs"
            cell = Cell(fault=fault, place=place, expected=expected(fault, place), got=got)
            found.append(cell)
            if not line:
                process.kill()
                break
    return found


def main(first: int) -> None:
    """Prints what came of each cell from the `first` on, one a line."""
    for fault, place in cells()[first:]:
        try:
            got = outcome(fault, place)
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
        print(json.dumps(got), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
