"""What a session says of its workers, and workers that are replaced in time."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import Any

import numpy as np
import psutil
import pytest

from tests.processes import wait_until
from tests.sessions import zeros
from vecsess import VecCheckedSession
from vecsess.bench.faults.faulty import BreakingEnv
from vecsess.bench.faults.ledger import LedgerEnv
from vecsess.bench.faults.workloads import ledgers
from vecsess.errors import ClosedError
from vecsess.fleet.health import read_health
from vecsess.recovery.policy import RestartPolicy

N = 4
pytestmark = pytest.mark.usefixtures("no_process_left")


def test_what_is_said_of_a_worker_is_what_psutil_says() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        for _ in range(100):
            vec.step(zeros(N))
        # A worker counts a step once it has answered it, so the last one may be counted later.
        assert wait_until(lambda: all(worker.steps == 200 for worker in vec.health()), 5.0)
        for worker in vec.health():
            process = psutil.Process(worker.pid)
            memory = process.memory_info()
            assert worker.state == "ready"
            # A moment apart, and the kernel may have written pages out or shared them meanwhile.
            assert memory.rss / 2 < (worker.rss_bytes or 0) < memory.rss * 2
            unique = memory.rss - memory.shared
            assert unique / 3 < (worker.unique_bytes or 0) < unique * 3
            assert worker.open_files == process.num_fds()
            assert worker.threads == process.num_threads() == 1
            assert (worker.generation, worker.restarts) == (0, 0)
            assert worker.steps_per_s > 0
            assert worker.step_p50_s is not None
            assert worker.step_p99_s is not None
            assert 1e-7 < worker.step_p50_s <= worker.step_p99_s


class Sleeper(BreakingEnv):
    """Sleeps 20 ms in every step."""

    def step(self, action: Any) -> Any:
        time.sleep(0.02)
        return super().step(action)


def test_the_straggler_is_the_one_that_was_waited_for() -> None:
    makers: list[Any] = [BreakingEnv] * N
    makers[2] = Sleeper
    with VecCheckedSession(makers, N) as vec:
        vec.reset(seed=0)
        for _ in range(10):
            vec.step(zeros(N))
        workers = vec.health()
        assert max(workers, key=lambda worker: worker.waited_s).worker == 2
        assert workers[2].waited_s > 0.1
        assert max(workers, key=lambda worker: worker.step_p50_s or 0).worker == 2
        assert (workers[2].step_p50_s or 0) > 0.01


def test_steps_are_counted_over_generations_and_losses_by_worker() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        for _ in range(10):
            vec.step(zeros(N))
        assert wait_until(lambda: all(worker.steps == 20 for worker in vec.health()), 5.0)
        before = vec.health()
        os.kill(before[1].pid, signal.SIGKILL)
        for _ in range(10):
            vec.step(zeros(N))
        assert wait_until(lambda: vec.health()[0].steps == 40, 5.0)
        assert wait_until(lambda: vec.health()[1].steps in (38, 40), 5.0), "one step was made up"
        after = vec.health()
        assert [worker.restarts for worker in after] == [0, 1]
        assert after[1].pid != before[1].pid
        assert "dead" not in vec.worker_states()


def test_a_worker_that_is_gone_or_in_quarantine_is_said_to_be() -> None:
    policy = RestartPolicy(max_restarts=0)
    with VecCheckedSession("CartPole-v1", N, on_limit="quarantine", restart_policy=policy) as vec:
        vec.reset(seed=0)
        os.kill(vec.health()[3].pid, signal.SIGKILL)
        assert wait_until(lambda: vec.health()[3].state == "dead", 5.0)
        gone = vec.health()[3]
        assert (gone.rss_bytes, gone.cpu_percent, gone.open_files) == (None, None, None)
        vec.step(zeros(N))
        assert [worker.state for worker in vec.health()] == ["ready"] * 3 + ["quarantined"]
        assert vec.worker_states() == {"ready": 3, "quarantined": 1}


def test_in_the_trainers_process_there_is_one_worker_itself() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=0) as vec:
        vec.reset(seed=0)
        (worker,) = vec.health()
        assert worker.pid == os.getpid()


def open_files() -> int:
    return psutil.Process().num_fds()  # type: ignore[no-any-return]  # psutil has no types


def test_a_closed_session_has_no_health_and_leaves_no_descriptor() -> None:
    before = open_files()
    vec = VecCheckedSession("CartPole-v1", N, workers=2)
    vec.close()
    with pytest.raises(ClosedError, match="health"):
        vec.health()
    assert open_files() == before


# --- what another process sees -------------------------------------------------------------------


def test_a_sample_is_published_while_the_session_steps() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        for _ in range(300):
            vec.step(zeros(N))
        content = read_health(vec.engine.health._fd)
        assert content is not None
        assert (content["pid"], content["env"], content["n"]) == (os.getpid(), "CartPole-v1", N)
        assert [worker["pid"] for worker in content["workers"]] == [
            worker.pid for worker in vec.health()
        ]


def test_slow_environments_are_published_too() -> None:
    with VecCheckedSession([Sleeper], 1) as vec:
        vec.reset(seed=0)
        for _ in range(3):
            vec.step(zeros(1))
        assert read_health(vec.engine.health._fd) is not None


def test_a_torn_sample_is_not_taken_for_one() -> None:
    fd = os.memfd_create("torn")
    try:
        assert read_health(fd) is None
        with VecCheckedSession("CartPole-v1", 1, workers=0) as vec:
            vec.engine.health.publish(vec.health())
            data = os.pread(vec.engine.health._fd, 1 << 20, 0)
        for place in range(0, len(data), 37):
            os.pwrite(fd, data, 0)
            os.pwrite(fd, bytes([data[place] ^ 1]), place)
            assert read_health(fd) is None
        os.pwrite(fd, data, 0)
        assert read_health(fd) is not None
    finally:
        os.close(fd)


# --- replaced in time ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("counted", [False, True])
def test_workers_are_recycled_after_so_many_episodes_and_nothing_is_lost(
    workers: int | None, counted: bool
) -> None:
    makers = ledgers(N, longest=10, counted=counted)
    with (
        VecCheckedSession(makers, N, workers=workers, max_episodes=5) as vec,
        VecCheckedSession(makers, N, workers=0) as oracle,
    ):
        vec.reset(seed=3)
        oracle.reset(seed=3)
        for t in range(120):
            actions = np.full(N, t)
            got, expected = vec.step(actions), oracle.step(actions)
            assert "invalid" not in got[-1]
            for one, other in zip(got[:4], expected[:4], strict=True):
                assert one.tobytes() == other.tobytes()
        assert min(worker.generation for worker in vec.health()) >= 2
        assert [worker.restarts for worker in vec.health()] == [0] * len(vec.health())
        assert not vec.incidents, "nothing has gone wrong"


class LeakingEnv(LedgerEnv):
    """Keeps a megabyte of every step."""

    def step(self, action: Any) -> Any:
        kept = self.__dict__.setdefault("kept", [])
        kept.append(b"x" * (1 << 20))
        return super().step(action)


def test_a_worker_that_leaks_is_recycled_at_its_limit() -> None:
    makers = [partial(LeakingEnv, index, longest=10) for index in range(2)]
    with VecCheckedSession(makers, 2, memory_limit_bytes=100 << 20) as vec:
        vec.reset(seed=0)
        for _ in range(200):
            assert "invalid" not in vec.step(zeros(2))[-1]
            for worker in vec.health():
                assert worker.unique_bytes is None or worker.unique_bytes < 160 << 20
        assert min(worker.generation for worker in vec.health()) >= 1


def step_often(vec: VecCheckedSession) -> None:
    for _ in range(100):
        vec.step(zeros(vec.num_envs))


def test_a_worker_that_is_born_too_large_is_not_replaced_for_ever() -> None:
    with VecCheckedSession(ledgers(1, longest=5), 1, memory_limit_bytes=1 << 20) as vec:
        vec.reset(seed=0)
        with pytest.warns(UserWarning, match="needs more than 1048576 bytes from the start"):
            step_often(vec)
        assert vec.health()[0].generation == 1


def test_environments_are_closed_in_order_when_they_are_recycled(tmp_path: Any) -> None:
    class Tidy(LedgerEnv):
        def close(self) -> None:
            (tmp_path / f"{os.getpid()}").touch()

    with VecCheckedSession([lambda: Tidy(0, longest=3)], 1, max_episodes=1) as vec:
        vec.reset(seed=0)
        pid = vec.health()[0].pid
        while vec.health()[0].pid == pid:
            vec.step(zeros(1))
        assert (tmp_path / str(pid)).exists()


@pytest.mark.parametrize("limit", [{"max_episodes": 0}, {"memory_limit_bytes": 1.5}])
def test_limits_are_positive_numbers(limit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a positive whole number"):
        VecCheckedSession("CartPole-v1", 1, **limit)


def test_the_trainers_own_process_is_never_replaced() -> None:
    with pytest.raises(ValueError, match="there is no process to replace"):
        VecCheckedSession("CartPole-v1", 1, workers=0, max_episodes=3)
