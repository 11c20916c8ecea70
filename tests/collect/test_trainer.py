"""What happens to a session when its trainer is interrupted, killed, or forked."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import ROOT, all_gone, run_script, wait_until

pytestmark = pytest.mark.usefixtures("no_process_left")


@contextmanager
def running(text: str, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a script in a process group of its own, its stderr in a file."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # for tests.envs
    with (
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,  # so that `select` knows of every line
            env=environment,
            process_group=0,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[bytes]) -> str:
    """Returns the next line of a script's output, which is to come within a minute."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "the script says nothing"
    return process.stdout.readline().decode().strip()


# --- Ctrl-C --------------------------------------------------------------------------------------

STEPPING = """
    import sys
    import numpy as np
    from tests.envs import counting
    from vecsess import VecCheckedSession

    rounds, workers = int(sys.argv[1]), int(sys.argv[2])
    vec = VecCheckedSession(counting(5), 5, workers=workers)
    twin = VecCheckedSession(counting(5), 5, workers=0)

    def step_for_ever():
        vec.reset()
        print("stepping", flush=True)
        while True:
            vec.step(np.zeros(5, np.int64))

    def compare(seed):
        same(vec.reset(seed=seed), twin.reset(seed=seed))
        for _ in range(7):
            same(vec.step([0, 1, 0, 1, 1]), twin.step([0, 1, 0, 1, 1]))

    def same(mine, theirs):
        for one, other in zip(mine[:4], theirs[:4]):
            if isinstance(one, np.ndarray):
                one, other = (part[:, 1:] if part.ndim == 2 else part for part in (one, other))
                np.testing.assert_array_equal(one, other)

    for round in range(rounds):
        try:
            step_for_ever()
        except KeyboardInterrupt:
            compare(round)
            print("as if nothing had happened", flush=True)
    vec.close()
    twin.close()
    print("closed", flush=True)
"""
OPENING = """
    import psutil, time
    from tests.envs import counting
    from vecsess import VecCheckedSession

    def open_for_ever():
        print("opening", flush=True)
        while True:
            with VecCheckedSession(counting(4), 4) as vec:
                vec.reset()

    for _ in range(12):
        try:
            open_for_ever()
        except KeyboardInterrupt:
            deadline = time.monotonic() + 10
            while psutil.Process().children(recursive=True):
                assert time.monotonic() < deadline, psutil.Process().children(recursive=True)
                time.sleep(0.01)
            print("nothing left", flush=True)
"""


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_ctrl_c_reaches_the_user_and_the_session_can_be_reset(workers: int, tmp_path: Path) -> None:
    rounds, rng = 25, random.Random(workers)
    with running(STEPPING, tmp_path, str(rounds), str(workers)) as script:
        for _ in range(rounds):
            assert next_line(script) == "stepping", (tmp_path / "stderr").read_text()
            select.select([], [], [], rng.uniform(0, 0.02))  # at a random point of a step
            os.killpg(script.pid, signal.SIGINT)
            assert next_line(script) == "as if nothing had happened", (
                tmp_path / "stderr"
            ).read_text()
        assert next_line(script) == "closed"
        assert script.wait(30) == 0
    assert (tmp_path / "stderr").read_text() == "", "no worker prints a traceback"


def test_ctrl_c_while_a_session_starts_or_closes(tmp_path: Path) -> None:
    rng = random.Random(0)
    with running(OPENING, tmp_path) as script:
        for _ in range(12):
            assert next_line(script) == "opening", (tmp_path / "stderr").read_text()
            select.select([], [], [], rng.uniform(0, 0.4))
            os.killpg(script.pid, signal.SIGINT)
            assert next_line(script) == "nothing left", (tmp_path / "stderr").read_text()
        assert script.wait(30) == 0
    assert "[worker" not in (tmp_path / "stderr").read_text()


def test_a_ctrl_c_that_nobody_catches_ends_everything(tmp_path: Path) -> None:
    text = STEPPING.replace("except KeyboardInterrupt:", "except ZeroDivisionError:")
    with running(text, tmp_path, "1", "2") as script:
        assert next_line(script) == "stepping"
        os.killpg(script.pid, signal.SIGINT)
        assert script.wait(30) in (-signal.SIGINT, 1)
    error = (tmp_path / "stderr").read_text()
    assert "KeyboardInterrupt" in error
    assert "[worker" not in error


# --- SIGKILL -------------------------------------------------------------------------------------

KILLED = """
    import sys, psutil, time
    from tests.envs import counting, faulty
    from vecsess import VecCheckedSession

    fault, expected = sys.argv[1], int(sys.argv[2])
    makers = faulty(3, 1, fault) if fault else counting(3)
    vec = VecCheckedSession(makers, 3)
    vec.reset()
    if fault:
        vec.step_async([0, 0, 0])
    me, deadline = psutil.Process(), time.monotonic() + 30
    while len(below := me.children(recursive=True)) != expected:
        assert time.monotonic() < deadline, below
        time.sleep(0.01)
    print(*[process.pid for process in below], flush=True)
    while True:
        if not fault:
            vec.step([0, 1, 0])
"""


@pytest.mark.parametrize(
    ("fault", "processes"),
    [
        pytest.param("", 4, id="stepping"),
        ("sleep", 4),
        ("spin", 4),
        ("SIGSTOP", 4),
        ("hold the GIL", 4),
        ("leave a child and hang", 5),
        ("leave a session and hang", 5),
        ("leave a daemon and hang", 5),
    ],
)
def test_a_killed_trainer_leaves_no_process(fault: str, processes: int, tmp_path: Path) -> None:
    with running(KILLED, tmp_path, fault, str(processes)) as script:
        pids = {int(pid) for pid in next_line(script).split()}
        assert len(pids) == processes, (tmp_path / "stderr").read_text()
        script.kill()
        script.wait(30)
        assert all_gone(pids, 3.0)


def test_a_trainer_killed_while_a_module_is_preloaded(tmp_path: Path) -> None:
    importing = tmp_path / "importing"
    (tmp_path / "hanging.py").write_text(
        f"import pathlib, time\npathlib.Path({str(importing)!r}).touch()\ntime.sleep(1000)\n"
    )
    text = """
    import psutil, threading
    from vecsess import VecCheckedSession

    def tell():
        while not (below := psutil.Process().children(recursive=True)):
            pass
        print(*[process.pid for process in below], flush=True)

    threading.Thread(target=tell).start()
    VecCheckedSession("hanging:Env-v0", 2)
    """
    with running(text, tmp_path) as script:
        pids = {int(pid) for pid in next_line(script).split()}
        assert wait_until(importing.exists, 30)
        script.kill()
        script.wait(30)
        assert all_gone(pids, 3.0)


LISTING = """
import gymnasium, os, psutil, sys
from vecsess import VecCheckedSession
vec = VecCheckedSession("CartPole-v1", n=3)
vec.reset()
print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
"""

# --- forks of the trainer ------------------------------------------------------------------------


def test_a_forked_copy_of_the_trainer_leaves_its_parents_workers_alone(tmp_path: Path) -> None:
    script = """
    import os, sys
    import numpy as np
    from vecsess import VecCheckedSession
    from vecsess.errors import ClosedError
    ending = sys.argv[1]
    vec = VecCheckedSession("CartPole-v1", n=3, workers=2)
    twin = VecCheckedSession("CartPole-v1", n=3, workers=0)
    for each in (vec, twin):
        each.reset(seed=0)
        each.step([0, 1, 0])
    pid = os.fork()
    if pid == 0:
        try:
            vec.step([0, 1, 0])
        except ClosedError:
            print("closed in the copy", flush=True)
        if ending == "close":
            vec.close()
        elif ending == "del":
            del vec
        elif ending == "_exit":
            os._exit(0)
        sys.exit()
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    for _ in range(50):
        mine, theirs = vec.step([0, 1, 0]), twin.step([0, 1, 0])
        assert all(np.array_equal(one, other) for one, other in zip(mine[:4], theirs[:4]))
    vec.close()
    twin.close()
    print("the parent went on")
    """
    for ending in ("exit", "close", "del", "_exit"):
        done = run_script(script, tmp_path, ending)
        assert done.stdout == "closed in the copy\nthe parent went on\n", done.stderr
        assert done.stderr == ""


def test_a_copy_made_behind_pythons_back_does_not_keep_the_workers_alive(tmp_path: Path) -> None:
    """It holds the parent's sockets and pipes open, and still the workers end with the parent."""
    script = (
        LISTING
        + """
import ctypes, time
copy = ctypes.CDLL(None).fork()
if copy == 0:
    time.sleep(1000)
print(copy, flush=True)
os.kill(os.getpid(), 9)
"""
    )
    done = run_script(script, tmp_path)
    pids = [int(pid) for pid in done.stdout.split()]
    copy = pids.pop()
    try:
        assert all_gone(set(pids), 5.0)
    finally:
        os.kill(copy, signal.SIGKILL)
