"""Faults that last: each reaction ends as `on_limit` says, and a reset or a close still works."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.losses import kill, open_session
from tests.processes import all_gone
from tests.sessions import zeros
from vecsess import (
    RandomPolicy,
    Timeouts,
    VecCheckedSession,
    WorkerDied,
    collect_rollout,
)
from vecsess.bench.faults.faulty import CUE, BreakingEnv
from vecsess.bench.faults.lasting import LastingEnv
from vecsess.collect.paced import Pace
from vecsess.contract import Contract
from vecsess.errors import ActionError, CallTimeout, RestartLimitExceeded
from vecsess.recovery.policy import RestartPolicy

N, GUILTY = 4, 1
BRIEF = Timeouts(start_s=30, reset_s=0.5, step_s=0.5, close_s=3)
FEW = RestartPolicy(max_restarts=2, backoff_s=0.01)
pytestmark = pytest.mark.usefixtures("no_process_left")


def open_lasting(folder: Path, fault: str, span: str, **arguments: Any) -> VecCheckedSession:
    """Returns a session of which one environment breaks."""
    makers: list[Any] = [partial(LastingEnv, index) for index in range(N)]
    makers[GUILTY] = partial(LastingEnv, GUILTY, folder, fault, span)
    arguments = {"timeouts": BRIEF, "restart_policy": FEW, **arguments}
    return VecCheckedSession(makers, N, **arguments)


def step_until_limit(vec: VecCheckedSession) -> None:
    """Steps until the policy is used up; fails where it never is."""
    vec.reset(seed=0)
    for _ in range(40):
        vec.step(zeros(N))


LASTING = [
    ("raises", "steps", {"on_error": "truncate"}),
    ("raises", "resets", {"on_error": "truncate"}),
    ("raises", "steps", {"on_error": "restart"}),
    ("raises", "resets", {"on_error": "restart"}),
    ("violates", "resets", {"on_violation": "truncate"}),
    ("NaN", "resets", {"on_violation": "truncate"}),
    ("NaN", "resets", {"on_violation": "restart"}),
    ("dies", "steps", {}),
    ("dies", "resets", {}),
    ("dies", "resets", {"on_crash": "truncate"}),
    ("hangs", "resets", {}),
    ("reset too slow", "resets", {}),
    ("constructor fails", "resets", {}),
]


HERE = [cell for cell in LASTING if cell[0] in ("raises", "violates", "NaN")]
CELLS = [(*cell, 0) for cell in HERE] + [(*cell, workers) for cell in LASTING for workers in (2, N)]


@pytest.mark.parametrize(("fault", "span", "reactions", "workers"), CELLS)
def test_a_failure_that_stays_reaches_its_limit_and_a_reset_still_works(
    tmp_path: Path, fault: str, span: str, reactions: dict[str, Any], workers: int
) -> None:
    with open_lasting(tmp_path, fault, span, workers=workers, **reactions) as vec:
        with pytest.raises(RestartLimitExceeded):
            step_until_limit(vec)
        (tmp_path / "armed").unlink()
        vec.reset(seed=0)
        vec.step(zeros(N))


@pytest.mark.parametrize(("fault", "span", "reactions"), LASTING)
def test_or_ends_in_a_quarantine_whose_rows_are_masked_and_constant(
    tmp_path: Path, fault: str, span: str, reactions: dict[str, Any]
) -> None:
    contract = Contract(obs_range=(-10.0, 100.0), reward_range=(0.5, 2.0))
    arguments = {"on_limit": "quarantine", "contract": contract, **reactions}
    with open_lasting(tmp_path, fault, span, **arguments) as vec:
        vec.reset(seed=0)
        for _ in range(40):
            transition = vec.step_checked(zeros(N))
            assert np.delete(transition.valid, GUILTY).all()
            if vec.incidents and "quarantined" in vec.incidents[-1].outcomes.values():
                break
        else:
            pytest.fail("no limit was reached")
        row = np.zeros(0)
        for step in range(8):
            transition = vec.step_checked(zeros(N))
            assert np.flatnonzero(~transition.valid).tolist() == [GUILTY]
            assert transition.reward[GUILTY] == 0
            if step > 1:
                assert np.array_equal(transition.next_observation[GUILTY], row)
            row = transition.next_observation[GUILTY]
        vec.reset(seed=1)
        assert np.flatnonzero(~vec.step_checked(zeros(N)).valid).tolist() == [GUILTY]


def test_failures_with_steps_in_between_have_no_limit(tmp_path: Path) -> None:
    """Each third step of an episode raises, its others go well: a truncation each time."""
    with open_lasting(tmp_path, "raises", "replays", on_error="truncate") as vec:
        vec.reset(seed=0)
        invalid = sum(not vec.step_checked(zeros(N)).valid[GUILTY] for _ in range(30))
        assert invalid == 10


def test_restarts_by_reaction_count_like_any_other(tmp_path: Path) -> None:
    with open_lasting(tmp_path, "raises", "replays", on_error="restart") as vec:
        with pytest.raises(RestartLimitExceeded, match="lost 3 times within 60"):
            step_until_limit(vec)
        assert vec.health()[GUILTY].generation == 2


@pytest.mark.parametrize("fault", ["constructor fails", "close raises", "reset too slow"])
def test_what_fails_once_in_a_recovery_is_tried_again(tmp_path: Path, fault: str) -> None:
    with open_lasting(tmp_path, fault, "once") as vec:
        vec.reset(seed=0)
        for _ in range(20):
            assert vec.step_checked(zeros(N)).valid.all()


@pytest.mark.parametrize("reaction", ["truncate", "restart"])
@pytest.mark.parametrize("workers", [2, None])
def test_a_worker_that_is_lost_in_the_reset_of_a_truncation_is_brought_back(
    tmp_path: Path, reaction: Any, workers: int | None
) -> None:
    class Fatal(LastingEnv):
        """Raises once; the reset that follows ends the process, once."""

        def reset(self, **arguments: Any) -> Any:
            if self._armed() and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return super().reset(**arguments)

    makers: list[Any] = [partial(LastingEnv, index) for index in range(N)]
    makers[GUILTY] = partial(Fatal, GUILTY, tmp_path, "raises", "once")
    with VecCheckedSession(makers, N, workers=workers, on_error=reaction) as vec:
        vec.reset(seed=0)
        for step in range(1, 12):
            transition = vec.step_checked(zeros(N))
            bad = [GUILTY] if step == 3 else []
            assert np.flatnonzero(~transition.valid).tolist() == bad
            others = np.arange(N) != GUILTY
            assert (transition.next_observation[others, 1] == (step - 1) % 6 + 1).all()


def test_after_the_fork_server_has_died_a_reset_works_whatever_on_crash_says() -> None:
    with VecCheckedSession(
        [partial(LastingEnv, index) for index in range(2)], on_crash="raise"
    ) as vec:
        for _ in range(2):
            vec.reset(seed=0)
            server = psutil.Process(vec.pids[0]).parent()
            assert server is not None
            server.kill()
            assert all_gone(set(vec.pids), 5.0), "they end with it"
            with pytest.raises(WorkerDied):
                vec.step(zeros(2))
        vec.reset(seed=0)
        vec.step(zeros(2))


def test_the_fork_server_may_die_while_a_lost_worker_waits_to_be_replaced() -> None:
    policy = RestartPolicy(max_restarts=20, backoff_s=0.5, max_backoff_s=0.5)
    with VecCheckedSession(
        [partial(LastingEnv, index) for index in range(N)], restart_policy=policy
    ) as vec:
        vec.reset(seed=0)
        kill(vec, env=0, wait=True)
        assert vec.step_checked(zeros(N)).valid.all()
        kill(vec, env=0, wait=True)
        server = psutil.Process(vec.pids[1]).parent()
        assert server is not None
        if os.fork() == 0:
            signal.sigtimedwait([], 0.2)
            os.kill(server.pid, signal.SIGKILL)
            os._exit(0)
        assert vec.step_checked(zeros(N)).valid.all()
        assert vec.step_checked(zeros(N)).valid.all()
        os.wait()
        assert vec.step_checked(zeros(N)).valid.all()


class SpoiltEnv(LastingEnv):
    """Has a method, and a property, that change it and raise then."""

    def spoil(self) -> None:
        self._sum += 100
        raise ValueError("spoilt")

    @property
    def sum(self) -> int:
        return self._sum

    @sum.setter
    def sum(self, value: int) -> None:
        self._sum = value
        raise ValueError("spoilt")


@pytest.mark.parametrize("verb", ["call", "set_attr"])
def test_a_call_that_raises_may_have_changed_the_environment_all_the_same(verb: str) -> None:
    with VecCheckedSession([partial(SpoiltEnv, 0)], 1) as vec:
        vec.reset(seed=0)
        vec.step(zeros(1))
        with pytest.raises(ValueError, match="spoilt"):
            vec.call("spoil") if verb == "call" else vec.set_attr("sum", 100)
        kill(vec, env=0)
        assert not vec.step_checked(zeros(1)).valid[0]
        assert "holds a call that is not pure" in str(vec.incidents[-1].outcomes)


@pytest.mark.parametrize("pace", ["lockstep", "pipelined", "free"])
def test_workers_are_recycled_at_every_pace(pace: Pace) -> None:
    with (
        VecCheckedSession("CartPole-v1", N, workers=2, max_episodes=2) as vec,
        VecCheckedSession("CartPole-v1", N, workers=0) as oracle,
    ):
        policy = RandomPolicy(vec.single_action_space)
        got = collect_rollout(vec, policy, 80, seed=0, pace=pace)
        expected = collect_rollout(oracle, policy, 80, seed=0)
        assert [worker.generation > 0 for worker in vec.health()] == [True, True]
        assert got.valid.all()
        assert np.array_equal(got.observations, expected.observations)


@pytest.mark.parametrize("pace", ["lockstep", "pipelined", "free"])
def test_a_wrong_first_action_is_as_if_nothing_had_happened(pace: Pace) -> None:
    class Wrong(RandomPolicy):
        def act(self, observations: Any, **arguments: Any) -> Any:
            actions, *others = super().act(observations, **arguments)
            actions[-1] = 7
            return (actions, *others)

    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        vec.reset(seed=0)
        before = vec.observe()
        with pytest.raises(ActionError):
            collect_rollout(vec, Wrong(vec.single_action_space), 4, seed=0, pace=pace)
        assert np.array_equal(vec.observe(), before)
        assert vec.step_checked(zeros(N)).valid.all()


class WaitingEnv(LastingEnv):
    """Its successor's constructor waits until it may go on."""

    def __init__(self, index: int, folder: Path) -> None:
        super().__init__(index)
        first = not (folder / "made").exists()
        (folder / "made").touch()
        while not first and not (folder / "go").exists():
            signal.sigtimedwait([], 0.01)


@pytest.mark.parametrize("then", ["wait", "reset", "close"])
def test_a_wait_gives_up_in_time_and_the_successor_is_built_meanwhile(
    tmp_path: Path, then: str
) -> None:
    makers: list[Any] = [partial(LastingEnv, index) for index in range(N)]
    makers[GUILTY] = partial(WaitingEnv, GUILTY, tmp_path)
    with VecCheckedSession(makers, N, workers=2) as vec:
        vec.reset(seed=0)
        vec.step(zeros(N))
        kill(vec, env=GUILTY, wait=True)
        vec.step_async(zeros(N))
        for _ in range(3):
            with pytest.raises(CallTimeout):
                vec.step_wait(timeout=0.1)
        if then == "close":
            return
        (tmp_path / "go").touch()
        observations = vec.step_wait()[0] if then == "wait" else vec.reset(seed=0)[0]
        assert observations[:, 1].tolist() == [2 if then == "wait" else 0] * N
        assert vec.step_checked(zeros(N)).valid.all()
        assert [worker.generation for worker in vec.health()] == [1, 0]
        assert len(vec.incidents) == 1


@pytest.mark.parametrize("then", ["wait", "reset"])
def test_a_wait_gives_up_in_time_while_a_lost_worker_waits_to_be_replaced(then: str) -> None:
    policy = RestartPolicy(backoff_s=2 if then == "wait" else 1000, max_backoff_s=1000)
    makers = [partial(LastingEnv, index) for index in range(N)]
    with VecCheckedSession(makers, N, restart_policy=policy) as vec:
        vec.reset(seed=0)
        kill(vec, env=0, wait=True)
        vec.step(zeros(N))
        kill(vec, env=0, wait=True)
        vec.step_async(zeros(N))
        with pytest.raises(CallTimeout):
            vec.step_wait(timeout=0.1)
        observations = vec.step_wait()[0] if then == "wait" else vec.reset(seed=0)[0]
        assert observations[:, 1].tolist() == [2 if then == "wait" else 0] * N
        assert vec.step_checked(zeros(N)).valid.all()
        assert len(vec.incidents) == 2


class DelayedEnv(BreakingEnv):
    """Takes its time for each step."""

    def step(self, action: Any) -> Any:
        time.sleep(0.02)
        return super().step(action)


def step_in_slices(vec: VecCheckedSession, actions: Any) -> tuple[Any, int]:
    """Steps with many waits of 0.05 s; returns the rows, and how many timed out."""
    vec.step_async(actions)
    for waits in range(2000):
        began = time.monotonic()
        try:
            return vec.step_wait(timeout=0.05), waits
        except TimeoutError:
            assert time.monotonic() - began < 5.0
    raise AssertionError("it never ends")


def test_a_replay_goes_on_where_the_caller_s_time_was_up() -> None:
    makers = [DelayedEnv] * 4
    with open_session(makers, 4, workers=2) as vec, open_session(makers, 4, workers=0) as oracle:
        for session in (vec, oracle):
            session.reset(seed=0)
            for _ in range(20):
                session.step(zeros(4))
        kill(vec, env=0, wait=True)
        ours, waits = step_in_slices(vec, zeros(4))
        assert waits > 4  # two replays of 0.4 s
        for one, other in zip(ours[:4], oracle.step(zeros(4))[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        replayed = "replayed episode"
        assert [each.outcomes for each in vec.incidents] == [{0: replayed, 1: replayed}]
        vec.step(zeros(4))


@pytest.mark.parametrize("fault", ["raises ValueError", "NaN"])
def test_a_restart_goes_on_where_the_caller_s_time_was_up(fault: str) -> None:
    makers: list[Any] = [partial(DelayedEnv, fault), DelayedEnv]
    how: Any = {"on_error": "restart", "on_violation": "restart"}
    with open_session(makers, 2, workers=1, **how) as vec:
        vec.reset(seed=0)
        for _ in range(20):
            vec.step(zeros(2))
        ours, waits = step_in_slices(vec, np.array([CUE, 0]))
        assert waits > 4  # a replay of 0.4 s
        observations, _, _, truncated, infos = ours
        assert infos["invalid"].tolist() == truncated.tolist() == [True, False]
        assert observations[:, 0].tolist() == [0.0, 21.0]
        assert vec.step(zeros(2))[0][:, 0].tolist() == [1.0, 22.0]
