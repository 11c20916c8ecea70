"""`close`: in order where that can be, and within its deadline whatever the workers do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pytest

from tests.envs import CountingEnv, counting, faulty
from tests.processes import all_gone, processes_below
from tests.sessions import open_session, zeros
from vecsess import Timeouts, VecCheckedSession, WorkerDied, WorkerTimeout

N = 3
CLOSE_S = 2.0
BRIEF = Timeouts(reset_s=0.6, step_s=0.6, close_s=CLOSE_S)
MID_CALL = pytest.mark.filterwarnings("ignore:.*Calling `close` while waiting:UserWarning")
NOT_IN_ORDER = pytest.mark.filterwarnings("ignore:a worker did not close in order")
pytestmark = pytest.mark.usefixtures("no_process_left")


def closes_in_time(vec: VecCheckedSession, below: set[int] | None = None) -> None:
    """Closes; the deadline is the session's, with a wide margin for a busy machine."""
    below = below or processes_below()
    assert below
    began = time.monotonic()
    vec.close()
    assert time.monotonic() - began < CLOSE_S + 5
    assert all_gone(below, 3.0)


class SlowEnv(CountingEnv):
    """Is found in the middle of a step, and says when it is closed."""

    def step(self, action: Any) -> Any:
        time.sleep(0.2)
        return super().step(action)

    def close(self) -> None:
        sys.stderr.write("closed in order\n")


JANITOR = """
import pathlib, signal, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    tidy = lambda *_: (pathlib.Path(sys.argv[1]).write_text("tidy"), sys.exit())
    signal.signal(signal.SIGTERM, tidy)
print("ready", flush=True)
time.sleep(60)
"""


class JanitorEnv(CountingEnv):
    """Leaves a process behind that has something to tidy up."""

    def __init__(self, place: str, *more: str) -> None:
        super().__init__()
        command = [sys.executable, "-c", JANITOR, place, *more]
        self.janitor = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.janitor.stdout is not None
        assert self.janitor.stdout.readline() == b"ready\n"


class SharedEnv(CountingEnv):
    """Holds a shared memory that only multiprocessing's own janitor gives back."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.memory = shared_memory.SharedMemory(name, create=True, size=64)


class TestJanitors:
    @pytest.mark.parametrize("start_method", ["fork", "spawn"])
    def test_they_end_in_order_before_the_group_is_killed(
        self, start_method: Any, tmp_path: Path
    ) -> None:
        places = [tmp_path / str(env) for env in range(N)]
        makers = [partial(JanitorEnv, str(place)) for place in places]
        closes_in_time(open_session(makers, N, workers=2, start_method=start_method))
        assert [place.read_text() for place in places] == ["tidy"] * N

    @pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
    def test_only_close_gives_them_time(self, sent: signal.Signals, tmp_path: Path) -> None:
        place = tmp_path / "place"
        with open_session([partial(JanitorEnv, str(place))], 1, timeouts=BRIEF) as vec:
            vec.reset()
            lost = processes_below(vec.health()[0].pid)
            assert len(lost) == 1
            os.kill(vec.health()[0].pid, sent)
            with pytest.raises((WorkerDied, WorkerTimeout)):
                vec.step(zeros(1))
            assert all_gone(lost, 3.0)
            assert not place.exists()

    def test_one_that_does_not_listen_is_killed(self, tmp_path: Path) -> None:
        makers = [partial(JanitorEnv, str(tmp_path / "deaf"), "deaf")] * N
        closes_in_time(open_session(makers, N, workers=2))

    def test_what_multiprocessing_shares_is_given_back(self) -> None:
        name = f"vecsess-test-{os.getpid()}"
        closes_in_time(open_session([partial(SharedEnv, name)], 1))
        assert not Path("/dev/shm", name).exists()


class TestClose:
    def test_healthy_workers_close_their_environments(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        vec = open_session(faulty(N, 1, "print", "close"), N, workers=2)
        vec.reset()
        closes_in_time(vec)
        assert "printed by an environment" in capfd.readouterr().err

    def test_before_the_first_reset(self) -> None:
        closes_in_time(open_session(counting(N), N, workers=2))

    @MID_CALL
    def test_in_the_middle_of_a_step_environments_close_after_it(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        vec = open_session([SlowEnv] * N, N, workers=2)
        vec.reset()
        vec.step_async(zeros(N))
        closes_in_time(vec)
        assert capfd.readouterr().err.count("closed in order") == N

    @MID_CALL
    @NOT_IN_ORDER
    @pytest.mark.parametrize("fault", ["sleep", "SIGSTOP"])
    def test_hung_in_a_step(self, fault: str) -> None:
        vec = open_session(faulty(N, 1, fault), N, timeouts=BRIEF)
        vec.reset()
        vec.step_async(zeros(N))
        closes_in_time(vec)

    @MID_CALL
    @NOT_IN_ORDER
    def test_hung_in_a_reset_whose_own_deadline_is_far(self) -> None:
        timeouts = Timeouts(reset_s=60.0, close_s=CLOSE_S)
        vec = open_session(faulty(N, 1, "sleep", "reset"), N, timeouts=timeouts)
        vec.reset_async()
        closes_in_time(vec)

    @MID_CALL
    @NOT_IN_ORDER
    def test_the_deadline_is_for_all_rows_together(self) -> None:
        vec = open_session([SlowEnv] * 60, 60, workers=1, timeouts=BRIEF)
        vec.reset()
        vec.step_async(zeros(60))  # 12 s of steps, each of which is in time
        closes_in_time(vec)

    def test_hung_after_a_missed_deadline(self) -> None:
        vec = open_session(faulty(N, 1, "spin"), N, timeouts=BRIEF)
        vec.reset()
        with pytest.raises(WorkerTimeout):
            vec.step(zeros(N))
        closes_in_time(vec)

    @NOT_IN_ORDER
    @pytest.mark.parametrize("fault", ["sleep", "spin", "SIGSTOP", "exit 3", "SIGKILL"])
    def test_hung_or_dead_in_close_itself(self, fault: str) -> None:
        vec = open_session(faulty(N, 1, fault, "close"), N, timeouts=BRIEF)
        vec.reset()
        closes_in_time(vec)

    def test_an_environment_that_raises_in_close(self, capfd: pytest.CaptureFixture[str]) -> None:
        vec = open_session(faulty(N, 1, "ValueError", "close"), N, workers=2)
        vec.reset()
        closes_in_time(vec)
        assert "a bad value" in capfd.readouterr().err

    @NOT_IN_ORDER
    @pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
    def test_all_workers_dead_or_stopped(self, sent: int) -> None:
        vec = open_session(counting(N), N, timeouts=BRIEF)
        vec.reset()
        below = processes_below()
        for pid in processes_below(min(below)):
            os.kill(pid, sent)
        closes_in_time(vec, below)

    def test_after_a_death_that_was_raised(self) -> None:
        vec = open_session(faulty(N, 1, "SIGKILL"), N, timeouts=BRIEF)
        vec.reset()
        with pytest.raises(WorkerDied):
            vec.step(zeros(N))
        closes_in_time(vec)

    @NOT_IN_ORDER
    @pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
    def test_the_fork_server_dead_or_stopped(self, sent: int) -> None:
        vec = open_session(counting(N), N, timeouts=BRIEF)
        vec.reset()
        below = processes_below()
        os.kill(min(below), sent)
        closes_in_time(vec, below)


class WritingEnv(CountingEnv):
    """Needs long to close, as one that writes a video does."""

    def close(self) -> None:
        time.sleep(60)


def test_what_is_cut_off_is_said_where_it_is_seen() -> None:
    vec = VecCheckedSession(WritingEnv, 2, workers=1, timeouts=Timeouts(close_s=0.5))
    vec.reset(seed=0)
    with pytest.warns(UserWarning, match=r"cut off: raise Timeouts\(close_s=\.\.\.\)"):
        vec.close()
