"""Collecting with the policy at the workers: lockstep's batch, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.collect.mlps import Mlp, Recurrent
from tests.collect.test_paced import FIELDS, Gaussian, assert_same
from tests.envs import CountingEnv, faulty
from vecsess import Contract, Timeouts, VecCheckedSession, collect_rollout
from vecsess.collect.acting import acting_of
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.rollout import Rollout
from vecsess.collect.sources import Inference, begin_rollout
from vecsess.errors import ContractViolation, PolicyError, RestartLimitExceeded, StateError
from vecsess.recovery.policy import RestartPolicy

N, T = 7, 40
ANY = RestartPolicy(max_restarts=None)


def collect(
    inference: Inference,
    workers: int,
    policy: Callable[[VecCheckedSession], Any],
    env: Any = "CartPole-v1",
    *,
    kill: bool = False,
    rollouts: int = 3,
    **settings: Any,
) -> list[Rollout]:
    """Returns rollouts of 40 locksteps of 7 environments; kills a worker in each, if told to."""
    found = []
    with VecCheckedSession(env, n=N, workers=workers, restart_policy=ANY, **settings) as vec:
        assert workers == 0 or acting_of(vec) is not None
        vec.start(7)
        acting = policy(vec)
        for index in range(rollouts):
            if kill:
                crew = list(dict.fromkeys(vec.pids))
                os.kill(crew[index % len(crew)], signal.SIGKILL)
            seed = 5 if index == 0 else None
            found.append(collect_rollout(vec, acting, T, seed=seed, inference=inference))
        assert len(vec.incidents) == kill * rollouts
    return found


POLICIES: dict[str, Any] = {
    "row-wise": lambda vec: RandomPolicy(vec.single_action_space),
    "a tile that divides": lambda _: Mlp(4, 2, act_rows=1),
    "a tile that does not": lambda _: Mlp(4, 2, act_rows=4),
    "a tile larger than all": lambda _: Mlp(4, 2, act_rows=16),
    "recurrent": lambda _: Recurrent(4, 2, 8, act_rows=4),
}


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_the_batch_is_lockstep_s_whatever_the_grouping(name: str, kill: bool) -> None:
    expected = collect("trainer", 0, POLICIES[name])
    for workers in (1, 2, 3, N) if kill else (0, 1, 2, 3, N):
        assert_same(collect("workers", workers, POLICIES[name], kill=kill), expected)


def test_normal_noise_and_actions_that_are_clipped() -> None:
    def wide(vec: VecCheckedSession) -> Any:
        policy = Gaussian(vec.single_action_space)
        policy.act = lambda observations, *, noise, **_: (  # type: ignore[method-assign]
            (3 * noise).astype(np.float32),
            np.zeros(len(noise), np.float16),
            np.ones(len(noise)),
        )
        return policy

    settings: dict[str, Any] = {
        "env": "Pendulum-v1",
        "contract": Contract(action_range="clip"),
    }
    ours = collect("workers", 3, wide, kill=True, **settings)
    assert_same(ours, collect("trainer", 2, wide, **settings))
    assert [ours[0].log_probs.dtype.char, ours[0].values.dtype.char] == ["e", "d"]


class Structured(CountingEnv):
    """Shows its counts in parts: a number, an image, and an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict(
            {
                "counts": spaces.Box(-np.inf, np.inf, (4,), np.float32),
                "both": spaces.Tuple(
                    (spaces.Box(0, 255, (12, 12, 3), np.uint8), spaces.Discrete(100))
                ),
            }
        )
        self.action_space = spaces.Dict(
            {"turn": spaces.Discrete(3, start=1), "push": spaces.Box(-1, 1, (2,), np.float32)}
        )

    def step(self, action: Any) -> Any:
        return super().step(float(action["push"].sum()) + float(action["turn"]))

    def _observe(self, action: float) -> Any:
        counts = super()._observe(action)
        image = np.full((12, 12, 3), self.steps, np.uint8)
        return {"counts": counts, "both": (image, self.steps)}


class Steering:
    """Decides by all parts of a structured observation."""

    noise_size = 3

    def act(self, observations: Any, *, noise: Any, **_: Any) -> Any:
        image, number = observations["both"]
        value = observations["counts"].sum(axis=1) + image[:, 0, 0, 0] + number
        push = (2 * noise[:, :2] - 1).astype(np.float32)
        turn = (noise[:, 2] * 3).astype(np.int64) + 1
        return {"push": push, "turn": turn}, value.astype(np.float32), value.astype(np.float32)

    def value(self, observations: Any, **_: Any) -> Any:
        return observations["counts"].sum(axis=1).astype(np.float32)


def test_structured_observations_and_actions() -> None:
    def batches(inference: Inference, workers: int, kill: bool) -> list[Rollout]:
        return collect(inference, workers, lambda _: Steering(), [Structured] * N, kill=kill)

    expected = batches("trainer", 0, False)
    for workers, kill in ((2, False), (3, True)):
        for one, other in zip(batches("workers", workers, kill), expected, strict=True):
            for field in FIELDS:
                np.testing.assert_equal(getattr(one, field), getattr(other, field), field)
            assert one.episodes == other.episodes


class Talking(CountingEnv):
    """Tells its step as a text, which no array holds."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Text(8)

    def _observe(self, action: float) -> Any:
        return f"step {self.steps}"


def test_texts_are_collected_too_by_the_trainer() -> None:
    def batch(inference: Inference) -> Rollout:
        with VecCheckedSession([Talking] * 3, workers=2) as vec:
            assert acting_of(vec) is None
            policy = RandomPolicy(vec.single_action_space)
            return collect_rollout(vec, policy, 8, seed=1, inference=inference)

    assert batch("workers").observations.tolist() == batch("trainer").observations.tolist()


def test_what_a_long_rollout_has_logged_brings_everything_back() -> None:
    def batches(inference: Inference, kill: int) -> list[Rollout]:
        found = []
        with VecCheckedSession("Pendulum-v1", n=3, workers=2, restart_policy=ANY) as vec:
            policy = RandomPolicy(vec.single_action_space)
            for index in range(3):
                if index == 2:
                    for pid in list(dict.fromkeys(vec.pids))[:kill]:
                        os.kill(pid, signal.SIGKILL)
                where = inference if index < 2 else "trainer"
                found.append(collect_rollout(vec, policy, 290, seed=9, inference=where))
            outcomes = [text for each in vec.incidents for text in each.outcomes.values()]
            assert all(text.startswith("replayed") for text in outcomes)
            assert len(vec.incidents) == kill
        return found

    assert_same(batches("workers", 2), batches("trainer", 0))


def test_a_checkpoint_between_rollouts_goes_on_as_the_session_does() -> None:
    with VecCheckedSession("CartPole-v1", n=N, workers=2) as vec:
        policy = RandomPolicy(vec.single_action_space)
        collect_rollout(vec, policy, T, seed=3, inference="workers")
        data = vec.checkpoint()
        expected = collect_rollout(vec, policy, T, inference="workers")
    with VecCheckedSession.restore(data, workers=3) as again:
        assert not again.unrestored
        assert_same([collect_rollout(again, policy, T, inference="workers")], [expected])


def test_the_fork_server_s_end_costs_nothing() -> None:
    def batch(kill: bool) -> Rollout:
        makers = [partial(CountingEnv, duration_s=0.002)] * N
        with VecCheckedSession(makers, workers=3) as vec:
            vec.start(7)
            supervisor = vec.engine.fleet.supervisor
            assert supervisor is not None
            server = supervisor._owned.server
            assert server is not None
            policy = RandomPolicy(vec.single_action_space)
            timer = threading.Timer(0.08, server.kill)
            if kill:
                timer.start()
            rollout = collect_rollout(vec, policy, T, seed=5, inference="workers")
            assert [each.kind for each in vec.incidents] == ["ServerDied"] * kill
            return rollout

    assert_same([batch(True)], [batch(False)])


def result(inference: Inference, fault: str, at: int, settings: dict[str, Any], place: str) -> Any:
    """Returns the rollout and what the incidents tell, or the error and where it says it was."""
    makers = faulty(5, 3, fault, place, at=at)
    timeouts = Timeouts(step_s=0.5 if fault == "sleep" else 20.0)
    settings = {"restart_policy": RestartPolicy(backoff_s=0.001), **settings}
    with VecCheckedSession(makers, workers=2, timeouts=timeouts, **settings) as vec:
        vec.start(7)
        policy = RandomPolicy(vec.single_action_space)
        try:
            rollout = collect_rollout(vec, policy, 12, seed=5, inference=inference)
        except Exception as error:  # compared below
            vec.reset(seed=1) if not isinstance(error, RestartLimitExceeded) else None
            fields = ("worker", "env", "episode", "step", "field")
            return type(error).__name__, [getattr(error, name) for name in fields]
        told = [(each.kind, each.env, each.outcomes.get(3, "")[:9]) for each in vec.incidents]
    return rollout, told


BREAKS = [
    ("ValueError", {}),
    ("ValueError", {"on_error": "truncate"}),
    ("ValueError", {"on_error": "restart"}),
    ("observation with NaN", {}),
    ("observation with NaN", {"on_violation": "truncate"}),
    ("observation with NaN", {"on_violation": "restart"}),
    ("observation with 99", {"contract": Contract(obs_range=(-50.0, 50.0))}),
    ("reward inf", {"on_violation": "truncate"}),
    ("both flags", {"contract": Contract(require_exclusive_done_flags=True)}),
    ("reward as text", {}),
    ("reward as text", {"on_violation": "truncate"}),
    ("SIGKILL", {}),
    ("segfault", {}),
    ("exit 3", {"on_crash": "truncate"}),
    ("exit 3", {"on_crash": "raise"}),
    ("sleep", {}),
    ("SIGKILL", {"restart_policy": RestartPolicy(max_restarts=1)}),
]
SLOW = ("sleep", "SIGKILL", "segfault")  # each successor would fall at its first step again


@pytest.mark.parametrize(
    ("fault", "settings", "at"),
    [(*each, at) for each in BREAKS for at in (0, 7) if at or each[0] not in SLOW],
)
def test_what_breaks_in_the_midst_ends_as_in_lockstep(
    fault: str, settings: dict[str, Any], at: int
) -> None:
    ours = result("workers", fault, at, settings, "step")
    expected = result("trainer", fault, at, settings, "step")
    if isinstance(expected[0], Rollout):
        assert isinstance(ours[0], Rollout), ours
        assert_same([ours[0]], [expected[0]])
    else:
        assert ours[0] == expected[0]
    assert ours[1] == expected[1]


class Flawed(RandomPolicy):
    """Decides badly in its fifth decision."""

    def __init__(self, space: Any, flaw: Callable[[Any], Any]) -> None:
        super().__init__(space)
        self.flaw, self.calls = flaw, 0

    def act(self, observations: Any, **others: Any) -> Any:
        decision = super().act(observations, **others)
        self.calls += 1
        return self.flaw(decision) if self.calls == 5 else decision


def raising(_: Any) -> Any:
    raise KeyError("no such weight")


FLAWS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "raises": (raising, "KeyError: 'no such weight'"),
    "out of the space": (lambda d: (d[0] + 7, *d[1:]), "expected 0 <= action < 2"),
    "a row too few": (lambda d: (d[0][1:], *d[1:]), "expected actions of shape"),
    "another dtype": (lambda d: (d[0].astype(float), *d[1:]), "expected actions of dtype int64"),
    "no triple": (lambda d: d[:2], "not enough values"),
    "wider values": (lambda d: (*d[:2], d[2].astype(float)), "expected values of dtype float32"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_a_policy_that_fails_is_told_with_its_traceback(name: str) -> None:
    flaw, text = FLAWS[name]
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        policy = Flawed(vec.single_action_space, flaw)
        with pytest.raises(PolicyError) as caught:
            collect_rollout(vec, policy, 16, seed=0, inference="workers")
        assert (caught.value.worker, caught.value.step) == (0, 4)
        assert text in str(caught.value)
        assert "Traceback in the worker" in caught.value.__notes__[0]
        with pytest.raises(StateError):
            vec.observe()
        vec.reset(seed=0)
        collect_rollout(vec, RandomPolicy(vec.single_action_space), 8, inference="workers")


def test_a_policy_that_hangs_has_a_deadline_of_its_own() -> None:
    def sleep(_: Any) -> Any:
        time.sleep(1000)

    with VecCheckedSession("CartPole-v1", n=4, workers=2, timeouts=Timeouts(policy_s=1.5)) as vec:
        policy = Flawed(vec.single_action_space, sleep)
        with pytest.raises(PolicyError, match=r"policy's decision within 1\.5 s"):
            collect_rollout(vec, policy, 16, seed=0, inference="workers")
        vec.reset(seed=0)
        collect_rollout(vec, RandomPolicy(vec.single_action_space), 8, inference="workers")


class SlowToArrive(RandomPolicy):
    """Takes a while to be unpickled, as one whose modules are large."""

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self.space = space

    def __reduce__(self) -> Any:
        return _arrive_late, (self.space,)


def _arrive_late(space: Any) -> RandomPolicy:
    time.sleep(3.0)
    return RandomPolicy(space)


def test_a_policys_arrival_is_none_of_its_decisions() -> None:
    with VecCheckedSession("CartPole-v1", n=4, workers=2, timeouts=Timeouts(policy_s=1.5)) as vec:
        policy = SlowToArrive(vec.single_action_space)
        collect_rollout(vec, RandomPolicy(policy.space), 4, seed=0, inference="workers")
        collect_rollout(vec, policy, 8, inference="workers")


def test_a_policy_that_ends_its_process_does_not_end_the_trainer() -> None:
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        policy = Flawed(vec.single_action_space, lambda _: os.abort())
        with pytest.raises(PolicyError, match="SIGABRT"):
            collect_rollout(vec, policy, 16, seed=0, inference="workers")


def test_a_policy_that_can_t_be_pickled_is_refused_before_anything_moves() -> None:
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        vec.start(0)
        policy = RandomPolicy(vec.single_action_space)
        policy.lock = threading.Lock()  # type: ignore[attr-defined]
        with pytest.raises(PolicyError, match=r"policy\.lock"):
            collect_rollout(vec, policy, 16, seed=0, inference="workers")
        vec.observe()


def test_each_environment_s_call_has_its_deadline_not_the_rollout() -> None:
    makers = [partial(CountingEnv, duration_s=0.02)] * 2
    with VecCheckedSession(makers, workers=2, timeouts=Timeouts(step_s=0.3)) as vec:
        policy = RandomPolicy(vec.single_action_space)
        assert collect_rollout(vec, policy, T, seed=0, inference="workers").valid.all()


def test_what_there_is_not_is_refused() -> None:
    with VecCheckedSession("CartPole-v1", n=2, workers=0) as vec:
        policy = RandomPolicy(vec.single_action_space)
        with pytest.raises(ValueError, match="inference: expected one of"):
            collect_rollout(vec, policy, 4, inference="nowhere")  # type: ignore[arg-type]


def test_a_rollout_is_reused_and_nothing_is_left_open() -> None:
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        policy = RandomPolicy(vec.single_action_space)
        rollout = collect_rollout(vec, policy, 16, seed=0, inference="workers")
        before = set(Path("/proc/self/fd").iterdir())
        for horizon in (16, 300, 16):
            out = rollout if horizon == 16 else None
            again = collect_rollout(vec, policy, horizon, out=out, inference="workers")
            assert (again is rollout) is (horizon == 16)
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_recycled_workers_leave_no_trace() -> None:
    policy = POLICIES["row-wise"]
    ours = collect("workers", 2, policy, max_episodes=5)
    assert_same(ours, collect("trainer", 2, policy))


class Blind(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps randomness that no seed reaches: its replays do not reproduce."""

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return observation + np.float32(np.random.default_rng().random()), *rest


def test_an_environment_that_can_t_be_brought_back_is_cut_off_and_said_to_be() -> None:
    with VecCheckedSession([lambda: Blind(gymnasium.make("CartPole-v1"))] * 2, workers=2) as vec:
        policy = RandomPolicy(vec.single_action_space)
        collect_rollout(vec, policy, 8, seed=0, inference="workers")
        os.kill(vec.pids[0], signal.SIGKILL)
        with pytest.warns(UserWarning, match="did not reproduce"):
            rollout = collect_rollout(vec, policy, 8, inference="workers")
        assert rollout.valid[:, 1].all()
        assert rollout.valid[:, 0].tolist() == [False] + [True] * 7
        assert rollout.truncated[0, 0]


def test_a_violation_is_told_rather_than_what_the_policy_says_of_it() -> None:
    class Picky(RandomPolicy):
        def act(self, observations: Any, **others: Any) -> Any:
            if not np.isfinite(observations).all():
                raise ValueError("not a number")
            return super().act(observations, **others)

    makers = faulty(4, 2, "observation with NaN", at=3)
    with VecCheckedSession(makers, workers=2) as vec:
        policy = Picky(vec.single_action_space)
        with pytest.raises(ContractViolation) as caught:
            collect_rollout(vec, policy, 16, seed=0, inference="workers")
        assert (caught.value.env, caught.value.step) == (2, 3)


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("kill", [False, True])
def test_a_policy_may_be_changed_while_what_was_sent_collects(workers: int, kill: bool) -> None:
    def batches(workers: int, *, kill: bool, change: bool) -> list[Rollout]:
        found = []
        with VecCheckedSession("CartPole-v1", n=N, workers=workers, restart_policy=ANY) as vec:
            vec.start(7)
            policy = Recurrent(4, 2, 8, act_rows=4)
            for index in range(3):
                under_way = begin_rollout(vec, policy, T, seed=5 if index == 0 else None)
                if kill:
                    os.kill(vec.pids[index], signal.SIGKILL)
                for weights in policy.weights:
                    np.add(weights, np.float32(change * (0.1 + index)), out=weights)
                found.append(under_way.result())
                assert under_way.result() is found[-1]
                for weights in policy.weights:
                    np.subtract(weights, np.float32(change * (0.1 + index)), out=weights)
                    weights[...] = weights.round(3)
        return found

    def rounded() -> list[Rollout]:
        return batches(0, kill=False, change=False)

    if not (kill and not workers):
        assert_same(batches(workers, kill=kill, change=bool(workers)), rounded())


def test_a_rollout_under_way_is_all_that_a_session_does() -> None:
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        policy = RandomPolicy(vec.single_action_space)
        under_way = begin_rollout(vec, policy, 16, seed=0)
        for call in (vec.observe, vec.checkpoint, partial(begin_rollout, vec, policy, 16)):
            with pytest.raises(StateError, match=r"its result\(\) be taken"):
                call()
        assert under_way.result().horizon == 16
        begin_rollout(vec, policy, 400)  # closed in the midst
