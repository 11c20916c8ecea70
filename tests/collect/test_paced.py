"""Collecting at another pace than lockstep: the same batch, through crashes too."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from vecsess import VecCheckedSession, collect_rollout
from vecsess.collect.paced import Pace, Paced, groups_for
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.rollout import Rollout
from vecsess.errors import ActionError, StateError
from vecsess.recovery.policy import RestartPolicy

FIELDS = (
    "observations",
    "actions",
    "log_probs",
    "rewards",
    "terminated",
    "truncated",
    "valid",
    "values",
    "next_values",
    "episode_start",
    "last_observations",
    "final_observations",
    "final_steps",
    "final_envs",
)


def collect(
    pace: Pace, workers: int, env: str = "CartPole-v1", kill: bool = False
) -> list[Rollout]:
    """Returns four rollouts of 48 locksteps of 7 environments; kills a worker before each."""
    limits = RestartPolicy(max_restarts=None)
    rollouts = []
    with VecCheckedSession(env, n=7, workers=workers, restart_policy=limits) as vec:
        vec.start(7)
        policy = RandomPolicy(vec.single_action_space)
        for index in range(4):
            if kill:
                crew = list(dict.fromkeys(vec.pids))
                os.kill(crew[index % len(crew)], signal.SIGKILL)
            seed = 5 if index == 0 else None
            rollouts.append(collect_rollout(vec, policy, 48, seed=seed, pace=pace))
        if kill:
            assert len(vec.incidents) == 4
    return rollouts


def assert_same(ours: list[Rollout], expected: list[Rollout]) -> None:
    """The rollouts are the same, bit for bit."""
    for one, other in zip(ours, expected, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field), field)
        assert one.episodes == other.episodes
        assert one.counter == other.counter


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("pace", ["pipelined", "free"])
def test_the_batch_is_lockstep_s_whatever_the_grouping(pace: Pace, workers: int) -> None:
    assert_same(collect(pace, workers), collect("lockstep", 2))


@pytest.mark.parametrize("pace", ["pipelined", "free"])
def test_continuous_actions_too(pace: Pace) -> None:
    assert_same(collect(pace, 3, "Pendulum-v1"), collect("lockstep", 0, "Pendulum-v1"))


class Gaussian(RandomPolicy):
    """Draws from the standard normal distribution, and clips."""

    noise_kind = "normal"

    def act(self, observations: Any, *, noise: Any, **_: Any) -> Any:
        zeros = np.zeros(len(noise), np.float32)
        return np.clip(noise, -2.0, 2.0).astype(np.float32), zeros, zeros


@pytest.mark.parametrize("pace", ["pipelined", "free"])
def test_normal_noise_too(pace: Pace) -> None:
    def batch(pace: Pace, workers: int) -> Rollout:
        with VecCheckedSession("Pendulum-v1", n=7, workers=workers) as vec:
            policy = Gaussian(vec.single_action_space)
            return collect_rollout(vec, policy, 48, seed=5, pace=pace)

    assert_same([batch(pace, 3)], [expected := batch("lockstep", 0)])
    assert len(np.unique(expected.actions)) > 200


@pytest.mark.parametrize("workers", [1, 3, 7])
@pytest.mark.parametrize("pace", ["lockstep", "pipelined", "free"])
def test_killed_workers_leave_no_trace_in_the_batch(pace: Pace, workers: int) -> None:
    assert_same(collect(pace, workers, kill=True), collect("lockstep", 2))


def test_an_unknown_pace_is_refused() -> None:
    with VecCheckedSession("CartPole-v1", n=2, workers=0) as vec:
        policy = RandomPolicy(vec.single_action_space)
        with pytest.raises(ValueError, match="pace: expected one of"):
            collect_rollout(vec, policy, 4, pace="fast")  # type: ignore[arg-type]


class OutOfRange:
    """A policy whose fifth decision holds an action that CartPole does not have."""

    noise_size = 1

    def __init__(self) -> None:
        self.calls = 0

    def act(self, observations: Any, **_: Any) -> Any:
        self.calls += 1
        actions = np.zeros(len(observations), np.int64)
        actions[-1] = 7 if self.calls == 5 else 0
        return actions, np.zeros(len(actions)), np.zeros(len(actions))

    def value(self, observations: Any, **_: Any) -> Any:
        return np.zeros(len(observations))


def test_a_refused_action_names_its_environment_and_a_reset_goes_on() -> None:
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        with pytest.raises(ActionError) as caught:
            collect_rollout(vec, OutOfRange(), 16, seed=0, pace="pipelined")
        assert caught.value.env in (1, 3)
        for call in (vec.observe, lambda: collect_rollout(vec, OutOfRange(), 16)):
            with pytest.raises(StateError, match=r"expected reset\(\) first"):
                call()
        vec.reset(seed=0)
        policy = RandomPolicy(vec.single_action_space)
        again = collect_rollout(vec, policy, 16, seed=0, pace="free")
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as twin:
        twin.reset(seed=0)
        expected = collect_rollout(twin, policy, 16, seed=0)
    np.testing.assert_array_equal(again.observations, expected.observations)


def test_pipelined_is_two_halves_and_free_each_worker_alone() -> None:
    assert groups_for("pipelined", 5) == [slice(0, 3), slice(3, 5)]
    assert groups_for("pipelined", 1) == [slice(0, 1)]
    assert groups_for("free", 3) == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.mark.parametrize("crowded", [True, False])
def test_on_crowded_cores_a_half_begins_only_when_the_other_is_done(
    crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecsess.collect.paced.cores", lambda: 2 if crowded else 4)
    under_way: set[int] = set()
    together: list[int] = []
    begin, take = Paced.begin, Paced.take

    def noted_begin(paced: Paced, index: int) -> None:
        begin(paced, index)
        under_way.add(index)
        together.append(len(under_way))

    def noted_take(paced: Paced, index: int, rows: Any) -> Any:
        under_way.discard(index)
        return take(paced, index, rows)

    monkeypatch.setattr(Paced, "begin", noted_begin)
    monkeypatch.setattr(Paced, "take", noted_take)
    ours = collect("pipelined", 4)
    # At the start of each rollout both begin, with what one call of the policy decided.
    assert together.count(2) == (4 if crowded else 4 + 4 * 2 * 47)
    assert_same(ours, collect("lockstep", 2))
