"""`vecsess top`: a running session seen from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.documents import CHECKOUT
from tests.processes import all_gone, wait_until
from tests.programs import run
from vecsess.cli.top import sessions

TRAINER = """
import numpy as np
from vecsess import VecCheckedSession
with VecCheckedSession("CartPole-v1", 4, workers=2) as vec:
    vec.reset(seed=0)
    while True:
        vec.step(np.zeros(4, np.int64))
"""
pytestmark = pytest.mark.usefixtures("no_process_left")


@pytest.fixture
def trainer() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", TRAINER], cwd=CHECKOUT) as process:
        assert wait_until(lambda: bool(sessions(process.pid)), 30)
        yield process
        process.kill()


def top(*arguments: str, code: int = 0) -> str:
    done = run("-m", "vecsess", "top", *arguments, cwd=CHECKOUT, code=code)
    return done.stdout + done.stderr


def test_it_shows_each_worker_of_a_session(trainer: subprocess.Popen[bytes]) -> None:
    text = top(str(trainer.pid), "--once")
    assert f"pid {trainer.pid}: CartPole-v1 x4" in text
    states = {"ready", "stepping", "resetting"}  # whichever it is in as it is looked at
    workers = [words for line in text.splitlines() if states & set(words := line.split())]
    assert [words[0] for words in workers] == ["0", "1"]
    pids = {int(words[1]) for words in workers}
    assert pids <= {child.pid for child in psutil.Process(trainer.pid).children(recursive=True)}


def test_without_a_pid_it_finds_the_sessions_by_itself(trainer: subprocess.Popen[bytes]) -> None:
    assert f"pid {trainer.pid}: CartPole-v1 x4" in top("--once")


def test_what_it_shows_moves_on(trainer: subprocess.Popen[bytes]) -> None:
    def steps() -> int:
        (content,) = sessions(trainer.pid)
        return sum(worker["steps"] for worker in content["workers"])

    before = steps()
    assert wait_until(lambda: steps() > before, 30)


def test_a_restart_is_seen(trainer: subprocess.Popen[bytes]) -> None:
    (content,) = sessions(trainer.pid)
    os.kill(content["workers"][1]["pid"], signal.SIGKILL)

    def restarts() -> list[int]:
        (now,) = sessions(trainer.pid)
        return [worker["restarts"] for worker in now["workers"]]

    assert wait_until(lambda: restarts() == [0, 1], 30)


def test_nothing_lies_on_disk_and_an_ended_session_is_gone(
    trainer: subprocess.Popen[bytes],
) -> None:
    trainer.kill()
    assert all_gone({trainer.pid}, 5)
    assert sessions(trainer.pid) == []


def test_where_there_is_no_session_it_says_what_to_look_for() -> None:
    assert "does not have a session that steps" in top(str(os.getpid()), code=2)
