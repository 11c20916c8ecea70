"""`vecsess replay FILE`: ends in the crash that the file was written for."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.documents import CHECKOUT
from tests.programs import run
from vecsess import VecCheckedSession
from vecsess.bench.faults.faulty import CUE, BreakingEnv
from vecsess.bench.faults.ledger import LedgerEnv
from vecsess.recovery.policy import RestartPolicy

pytestmark = pytest.mark.usefixtures("no_process_left")


class Touchy(LedgerEnv):
    """Ends its process where its random stream and its actions have led to a certain place.

    It says so first, so that a test can compare.
    """

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if action == CUE:
            print(f"ends at {result[0][:5].tolist()}", flush=True)  # noqa: T201  # to stderr
            signal.raise_signal(signal.SIGABRT)
        return result


def reproducer(folder: Path, env: Any, **arguments: Any) -> Path:
    """Lets the second of two environments end its worker; returns the file that tells how."""
    policy = RestartPolicy(reproducer_dir=str(folder), backoff_s=0.01)
    with VecCheckedSession(
        [partial(BreakingEnv), env], 2, restart_policy=policy, **arguments
    ) as vec:
        vec.reset(seed=5)
        for action in (1, 2, 3):
            vec.step(np.full(2, action))
        vec.step(np.array([0, CUE]))
    (path,) = folder.glob("*.reproducer")
    return path


def replay(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vecsess", "replay", str(path)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=CHECKOUT, check=False
    )


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("segfault", -signal.SIGSEGV),
        ("abort", -signal.SIGABRT),
        ("SIGKILL", -signal.SIGKILL),
        ("os._exit(0)", 0),
    ],
)
def test_it_ends_as_the_worker_did(fault: str, code: int, tmp_path: Path) -> None:
    done = replay(reproducer(tmp_path, partial(BreakingEnv, fault)))
    assert done.returncode == code, done.stderr
    assert "env 1: 4 steps, of which the last ended its worker" in done.stdout
    assert "nothing happened" not in done.stdout


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_it_ends_in_the_very_same_state(mode: Any, tmp_path: Path) -> None:
    makers = [partial(Touchy, index, counted=True, longest=4) for index in range(2)]
    policy = RestartPolicy(reproducer_dir=str(tmp_path), backoff_s=0.01)
    with VecCheckedSession(makers, 2, autoreset_mode=mode, restart_policy=policy) as vec:
        vec.reset(seed=5)
        for action in range(1, 8):
            vec.step(np.full(2, action))
        while True:  # with next_step a reset takes the place of a step
            vec.step(np.array([0, CUE]))
            if vec.incidents:
                break
        said = vec.incidents[0].what.rpartition("ends at ")[2].splitlines()[0]
    (path,) = tmp_path.glob("*.reproducer")
    done = replay(path)
    assert done.returncode == -signal.SIGABRT
    assert f"ends at {said}" in done.stdout + done.stderr


def test_what_does_not_happen_again_is_said(tmp_path: Path) -> None:
    class Fickle(BreakingEnv):
        def step(self, action: Any) -> Any:
            if action == CUE and (tmp_path / "still").exists():
                signal.raise_signal(signal.SIGKILL)
            return super().step(action)

    (tmp_path / "still").touch()
    path = reproducer(tmp_path, Fickle)
    (tmp_path / "still").unlink()
    done = replay(path)
    assert done.returncode == 1
    assert "nothing happened this time" in done.stdout


def test_another_file_is_refused_in_one_paragraph(tmp_path: Path) -> None:
    for content in (b"", b"something else", b"\x81\xa6format\x63"):
        (tmp_path / "other").write_bytes(content)
        done = run("-m", "vecsess", "replay", tmp_path / "other", cwd=CHECKOUT, code=2)
        assert "expected a reproducer" in done.stderr
        assert "Traceback" not in done.stderr
