"""`vecsess top`: a running session seen from another process."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator

import psutil
import pytest
from rich.console import Console

from tests.documents import CHECKOUT
from tests.processes import all_gone, wait_until
from tests.programs import run
from vecsess.cli.tables import worker_cells
from vecsess.cli.top import session_table, sessions

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


def test_a_stopped_worker_is_told_of_as_stopped(trainer: subprocess.Popen[bytes]) -> None:
    (content,) = sessions(trainer.pid)
    pid = content["workers"][1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert wait_until(lambda: states(trainer.pid)[1] == "stopped", 30)
        assert states(trainer.pid)[0] != "stopped"
        assert "stopped" in top(str(trainer.pid), "--once")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert wait_until(lambda: states(trainer.pid)[1] != "stopped", 30)


def states(pid: int) -> list[str]:
    (content,) = sessions(pid)
    return [worker["state"] for worker in content["workers"]]


@pytest.mark.parametrize("width", [40, 60, 80, 110, 160])
def test_columns_are_left_out_and_never_cut(trainer: subprocess.Popen[bytes], width: int) -> None:
    (content,) = sessions(trainer.pid)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(session_table(console, content))
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    (heading,) = [line for line in lines if "worker" in line and "state" in line]
    assert "steps/s" in heading, "a number can be read"
    if width in (40, 160):
        assert ("threads" in heading) == (width == 160)
    whole = worker_cells(content["workers"][0])
    row = lines[lines.index(heading) + 2]
    for name in ("worker", "state", "steps/s"):
        assert whole[name] in row


@pytest.mark.parametrize("key", [b"q", b" \x1b[Aq", b"\x1b", b"\x04"])
def test_a_key_ends_it_and_leaves_the_terminal_as_it_was(
    trainer: subprocess.Popen[bytes], key: bytes
) -> None:
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    command = [sys.executable, "-m", "vecsess", "top", str(trainer.pid), "--every", "60"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        shown = b""
        while b"q ends" not in shown:
            shown += os.read(controller, 65536)
        os.write(controller, key)
        reading = threading.Thread(target=drain, args=(controller,), daemon=True)
        reading.start()
        assert process.wait(30) == 0
    assert termios.tcgetattr(terminal) == before
    os.close(terminal)
    reading.join(30)
    os.close(controller)


def drain(fd: int) -> None:
    with contextlib.suppress(OSError):  # that is how a pty ends
        while os.read(fd, 65536):
            pass


def test_nothing_lies_on_disk_and_an_ended_session_is_gone(
    trainer: subprocess.Popen[bytes],
) -> None:
    trainer.kill()
    assert all_gone({trainer.pid}, 5)
    assert sessions(trainer.pid) == []


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf", "soon"])
def test_how_often_it_looks_is_seconds_above_0(every: str) -> None:
    assert "expected seconds above 0" in top("--every", every, code=2)


def test_where_there_is_no_session_it_says_what_to_look_for() -> None:
    assert "does not have a session that steps" in top(str(os.getpid()), code=2)
