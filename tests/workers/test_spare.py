"""A worker that was forked before it was needed takes a lost one's place, as a new one would."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.processes import is_asleep, is_running, run_script, wait_until
from tests.sessions import zeros
from vecsess import VecCheckedSession

N = 4
pytestmark = pytest.mark.usefixtures("no_process_left")


def spares(vec: VecCheckedSession) -> list[int]:
    """Returns the pids of the fork server's children that are nobody's worker, and run."""
    workers = {worker.pid for worker in vec.health()}
    server = psutil.Process(next(iter(workers))).parent()
    others = {child.pid for child in server.children()} - workers
    return [pid for pid in others if is_running(pid)]


def wait_for_spare(vec: VecCheckedSession) -> int:
    """Returns the pid of the spare worker once it waits to be needed."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = spares(vec)
        # At rest it sleeps in a call of the socket; in its rehearsal it hardly ever sleeps.
        return len(found) == 1 and is_asleep(found[0])

    assert wait_until(is_there, 10.0)
    return found[0]


def limit_for(process: psutil.Process, free: int) -> int:
    """Returns the limit of descriptors by which a process can have so many more."""
    used = {int(path.name) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
    return next(n for n in itertools.count() if n - len(used & set(range(n))) == free + 1) - 1


def kill_and_await(pid: int) -> None:
    """Kills a spare worker, and waits until the fork server has seen it."""
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not psutil.pid_exists(pid), 5.0)


def test_it_takes_the_place_of_each_that_is_lost_and_the_batch_is_the_same() -> None:
    with (
        VecCheckedSession("CartPole-v1", N, workers=0) as undisturbed,
        VecCheckedSession("CartPole-v1", N, workers=2) as vec,
    ):
        undisturbed.reset(seed=0)
        vec.reset(seed=0)
        for worker in (0, 1, 1):
            pid = wait_for_spare(vec)
            os.kill(vec.health()[worker].pid, signal.SIGKILL)
            for _ in range(30):
                for ours, theirs in zip(
                    vec.step(zeros(N)), undisturbed.step(zeros(N)), strict=True
                ):
                    if isinstance(ours, np.ndarray):
                        np.testing.assert_array_equal(ours, theirs)
            assert vec.health()[worker].pid == pid
        assert [worker.restarts for worker in vec.health()] == [1, 2]


def open_ends(pid: int) -> set[str]:
    """Returns the pipes and memfds that a process holds open."""
    links = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.add(str(entry.readlink()))
    return {link for link in links if link.startswith(("pipe:", "/memfd:"))}


def test_it_holds_nothing_of_the_workers_open() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        for _ in range(2):
            pid = wait_for_spare(vec)
            for worker in vec.health():
                assert wait_until(
                    lambda of=worker.pid, pid=pid: not open_ends(of) & open_ends(pid),  # type: ignore[misc]
                    5.0,
                )
            os.kill(vec.health()[0].pid, signal.SIGKILL)
            vec.step(zeros(N))


def test_two_that_are_lost_at_once_both_come_back() -> None:
    with VecCheckedSession("CartPole-v1", N) as vec:
        vec.reset(seed=0)
        pid = wait_for_spare(vec)
        for worker in (1, 2):
            os.kill(vec.health()[worker].pid, signal.SIGKILL)
        _, _, _, _, infos = vec.step(zeros(N))
        assert "invalid" not in infos
        assert pid in {worker.pid for worker in vec.health()}
        assert [worker.restarts for worker in vec.health()] == [0, 1, 1, 0]


def test_one_that_is_killed_has_a_successor_but_not_for_ever() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        for _ in range(3):
            kill_and_await(wait_for_spare(vec))
        assert not wait_until(lambda: bool(spares(vec)), 1.0)
        os.kill(vec.health()[1].pid, signal.SIGKILL)
        _, _, _, _, infos = vec.step(zeros(N))
        assert "invalid" not in infos
        assert vec.health()[1].restarts == 1


def test_where_none_can_be_had_the_server_goes_on_without() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        server = psutil.Process(vec.health()[0].pid).parent()
        assert server is not None
        usual = server.rlimit(psutil.RLIMIT_NOFILE)
        # None is being forked now, and none comes before the limit is set.
        assert wait_until(lambda: is_asleep(server.pid), 10.0)
        server.suspend()
        there = spares(vec)
        server.rlimit(psutil.RLIMIT_NOFILE, (limit_for(server, 3 - 3 * len(there)), usual[1]))
        server.resume()
        vec.reset(seed=0)
        for pid in there:  # its three descriptors are free then: to fork one takes four
            kill_and_await(pid)
        assert not wait_until(lambda: bool(spares(vec)), 1.0)
        server.rlimit(psutil.RLIMIT_NOFILE, usual)
        os.kill(vec.health()[1].pid, signal.SIGKILL)
        _, _, _, _, infos = vec.step(zeros(N))
        assert "invalid" not in infos
        assert spares(vec) == []


def test_one_that_is_stopped_is_passed_over_and_ends_with_the_session() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        pid = wait_for_spare(vec)
        os.kill(pid, signal.SIGSTOP)
        for _ in range(2):
            os.kill(vec.health()[1].pid, signal.SIGKILL)
            _, _, _, _, infos = vec.step(zeros(N))
            assert "invalid" not in infos
            assert pid not in {worker.pid for worker in vec.health()}
        os.kill(pid, signal.SIGCONT)
        assert wait_until(lambda: is_asleep(pid), 5.0)
        os.kill(vec.health()[1].pid, signal.SIGKILL)
        vec.step(zeros(N))
        assert pid in {worker.pid for worker in vec.health()}, "it is there again"
        os.kill(wait_for_spare(vec), signal.SIGSTOP)
    # The fixture sees that this one has gone, too.


def test_one_that_ends_unseen_is_no_lost_worker() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        pids = wait_for_spare(vec), vec.health()[1].pid
        server = psutil.Process(pids[0]).parent()
        assert server is not None
        server.suspend()  # it sees both at once
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        server.resume()
        for _ in range(3):
            _, _, _, _, infos = vec.step(zeros(N))
            assert "invalid" not in infos
        os.kill(vec.health()[0].pid, signal.SIGKILL)
        vec.step(zeros(N))
        assert [incident.kind for incident in vec.incidents] == ["WorkerDied"] * 2


def test_workers_that_are_spawned_have_none() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=1, start_method="spawn") as vec:
        vec.reset(seed=0)
        assert not wait_until(lambda: bool(spares(vec)), 1.0)


REHEARSAL = """
    import os
    import select
    from vecsess.workers import spare

    serve = spare.serve

    def serve_and_look(channel, *fds):
        serve(channel, *fds)
        print("unheard:", select.select([channel.read_fd], [], [], 0)[0])

    spare.serve = serve_and_look
    before = set(os.listdir("/proc/self/fd"))
    spare.rehearse()
    print("more:", set(os.listdir("/proc/self/fd")) - before)
"""


def test_the_rehearsal_plays_its_part_to_the_end_and_leaves_no_descriptor(tmp_path: Path) -> None:
    done = run_script(REHEARSAL, tmp_path)  # not here: a worker sets up its whole process
    assert (done.stdout, done.stderr) == ("unheard: []\nmore: set()\n", "")


WITH_WARNINGS = """
    import os
    import time

    os.environ["PYTHONWARNINGS"] = "error"  # of the processes below this one
    import psutil
    from vecsess import VecCheckedSession

    with VecCheckedSession("CartPole-v1", 2) as vec:
        vec.reset(seed=0)
        server = psutil.Process(vec.health()[0].pid).parent()
        deadline = time.monotonic() + 20
        while len(server.children()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        print(len(server.children()))
"""


def test_it_comes_and_goes_without_a_word_even_where_warnings_are_errors(tmp_path: Path) -> None:
    done = run_script(WITH_WARNINGS, tmp_path)
    assert (done.stdout, done.stderr) == ("3\n", "")
