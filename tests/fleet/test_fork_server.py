"""The fork server serves everyone; what one worker does, or what fails for it, is its affair."""

from __future__ import annotations

import resource
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.losses import kill
from tests.processes import all_gone, processes_below, run_script, wait_until
from tests.sessions import zeros
from vecsess import Timeouts, VecCheckedSession
from vecsess.bench.faults.faulty import BreakingEnv
from vecsess.bench.faults.lasting import LastingEnv
from vecsess.recovery.policy import RestartPolicy
from vecsess.workers.child import Child

BRIEF = Timeouts(start_s=30, reset_s=0.5, step_s=0.5, close_s=3)
pytestmark = pytest.mark.usefixtures("no_process_left")


class DeafEnv(BreakingEnv):
    """Hangs in its third step, and answers a request for its stack in its own way."""

    def __init__(self, handler: Any) -> None:
        super().__init__()
        self._handler = handler

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self._count == 3:
            signal.signal(signal.SIGUSR2, self._handler)
            time.sleep(1000)
        return result


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, print], ids=repr)
def test_a_hung_worker_may_do_what_it_likes_when_it_is_asked_for_its_stack(handler: Any) -> None:
    makers: list[Any] = [BreakingEnv, partial(DeafEnv, handler)]
    with VecCheckedSession(makers, 2, timeouts=BRIEF) as vec:
        vec.reset(seed=0)
        began = time.monotonic()
        valid = [vec.step_checked(zeros(2)).valid.tolist() for _ in range(4)]
        assert valid == [[True, True], [True, True], [True, False], [True, True]]
        assert time.monotonic() - began < 30
        assert not any("fork server" in incident.what for incident in vec.incidents)


def test_a_flood_on_stderr_keeps_no_other_worker_alive(tmp_path: Path) -> None:
    makers: list[Any] = [partial(LastingEnv, index) for index in range(2)]
    makers.append(partial(LastingEnv, 2, tmp_path, "floods stderr"))
    with VecCheckedSession(makers, 3, timeouts=BRIEF) as vec:
        vec.reset(seed=0)
        for _ in range(4):
            vec.step(zeros(3))
        for _ in range(2):
            psutil.Process(vec.pids[0]).suspend()
            assert vec.step_checked(zeros(3)).valid.all()
        kill(vec, env=2)
        assert vec.step_checked(zeros(3)).valid.all()


def test_nor_does_it_outlive_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    script = """
        import os, pathlib, signal, numpy as np
        from functools import partial
        from vecsess import VecCheckedSession
        from vecsess.bench.faults.lasting import LastingEnv
        folder = pathlib.Path("marks").absolute()
        vec = VecCheckedSession([partial(LastingEnv, 0, folder, "floods stderr")], 1)
        vec.reset(seed=0)
        for _ in range(4):
            vec.step(np.zeros(1, np.int64))
        pathlib.Path("pids").write_text(str(vec.pids[0]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run_script(script, tmp_path)
    assert all_gone({int((tmp_path / "pids").read_text())}, 10.0)


def test_a_spare_worker_that_answers_late_is_handed_over_all_the_same() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = Child(0, -1, -1, call=ours)
        assert not child.employ([0, 1, 2]), "it is busy"
        got: list[int] = []

        def answer() -> None:
            asked = [theirs.recv(1), theirs.recv(1)]
            for question in asked:
                theirs.send(question)
            got.extend(socket.recv_fds(theirs, 1, 3)[1])

        thread = threading.Thread(target=answer)
        thread.start()
        deadline = time.monotonic() + 10
        while not child.employ([0, 1, 2]) and time.monotonic() < deadline:
            pass
        thread.join(10)
        assert len(got) == 3
    for fd in got:
        socket.close(fd)


def test_threads_in_the_fork_server_are_named_and_workers_start_without_a_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,), name='ticker', daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with VecCheckedSession("CartPole-v1", 2, preload=["threaded"]) as vec:
        vec.reset(seed=0)
        assert vec.step_checked(zeros(2)).valid.all()
        kill(vec, env=1)
        assert vec.step_checked(zeros(2)).valid.all()
    assert "has started threads (ticker)" in capfd.readouterr().err


def test_no_descriptor_left_for_a_moment_costs_a_moment() -> None:
    policy = RestartPolicy(max_restarts=50, backoff_s=0.05, max_backoff_s=0.05)
    with VecCheckedSession("CartPole-v1", 3, restart_policy=policy) as vec:
        vec.reset(seed=0)
        kill(vec, env=1, wait=True)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        timer = threading.Timer(0.5, resource.setrlimit, (resource.RLIMIT_NOFILE, (soft, hard)))
        timer.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, hard))
        try:
            assert vec.step_checked(zeros(3)).valid.all()
        finally:
            timer.join()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert np.isfinite(vec.step(zeros(3))[0]).all()


def test_an_interrupted_close_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    vec = VecCheckedSession("CartPole-v1", 2)
    vec.reset(seed=0)
    pids = set(vec.pids)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen.wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            vec.close()
    vec.close()
    assert all_gone(pids, 5.0)
    assert wait_until(lambda: not processes_below(), 5.0)
