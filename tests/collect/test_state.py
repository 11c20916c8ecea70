"""Policies that keep state: the value of a final observation is that of its own step."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.collect.test_paced import assert_same
from vecsess import VecCheckedSession, collect_rollout
from vecsess.collect.rollout import Rollout

N, T, LENGTHS = 5, 24, (3, 4, 7, 30, 1)


class Counts(gymnasium.Env[Any, Any]):
    """Observes its step; an episode is cut off, or ends, after so many."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length, self.steps = length, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        over = self.steps == self.length
        seen = np.full(1, self.steps, np.float32)
        return seen, float(action), over and self.length == 4, over, {}


class Counting:
    """Its value is 1000 * (how often it has acted in this episode) + what it sees."""

    noise_size = 1

    def __init__(self, act_rows: int | None = None) -> None:
        self.acted = np.zeros(16, np.int64)
        self.ever = np.zeros(16, np.int64)  # outlives episodes
        if act_rows is not None:
            self.act_rows = act_rows

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        self.acted[envs] = np.where(episode_start, 0, self.acted[envs]) + 1
        self.ever[envs] += 1
        actions = (noise[:, 0] < 0.5).astype(np.int64)
        values = self.value(observations, envs=envs)
        return actions, np.zeros(len(envs), np.float32), values

    def value(self, observations: Any, *, envs: Any) -> Any:
        past = 1000 * self.acted[envs] + 100_000 * self.ever[envs]
        return (past + observations[:, 0]).astype(np.float64)

    def get_state(self, envs: Any) -> Any:
        return self.acted[envs], self.ever[envs]

    def set_state(self, envs: Any, state: Any) -> None:
        self.acted[envs], self.ever[envs] = state


class Forgetful:
    """Keeps nothing; notes for how many rows it is asked for values."""

    noise_size = 1

    def __init__(self) -> None:
        self.asked: list[int] = []

    def act(self, observations: Any, *, noise: Any, **_: Any) -> Any:
        actions = (noise[:, 0] < 0.5).astype(np.int64)
        return actions, np.zeros(len(actions), np.float32), observations[:, 0]

    def value(self, observations: Any, *, envs: Any) -> Any:
        self.asked.append(len(envs))
        return observations[:, 0]


def makers() -> list[Any]:
    return [lambda length=length: Counts(length) for length in LENGTHS]


def by_hand(rollouts: int) -> tuple[list[Any], list[Any]]:
    """Returns `values` and `next_values` `[T, N]` of each rollout, by a plain loop."""
    values, following = np.zeros((2, rollouts * T, N))
    last = np.zeros((rollouts, N))
    for env, length in enumerate(LENGTHS):
        step = 0
        for t in range(rollouts * T):
            values[t, env] = 100_000 * (t + 1) + 1000 * (step + 1) + step
            step += 1
            after = 100_000 * (t + 1) + 1000 * step + step  # the state of this step's act
            over = step == length
            following[t, env] = after if over else np.nan
            last[t // T, env] = after
            step = 0 if over else step
    where = np.isnan(following[:-1])
    following[:-1][where] = values[1:][where]
    for index in range(rollouts):
        at = index * T + T - 1
        going = np.array([(at + 1) % length != 0 for length in LENGTHS])
        following[at, going] = last[index, going]
    return [*values.reshape(rollouts, T, N)], [*following.reshape(rollouts, T, N)]


def collect(workers: int, policy: Any, rollouts: int = 2, **how: Any) -> list[Rollout]:
    with VecCheckedSession(makers(), workers=workers) as vec:
        vec.start(0)
        found = []
        for index in range(rollouts):
            seed = 3 if index == 0 else None
            found.append(collect_rollout(vec, policy, T, seed=seed, **how))
        return found


HOW: list[dict[str, Any]] = [
    {},
    {"pace": "pipelined"},
    {"pace": "free"},
    {"inference": "workers"},
]


@pytest.mark.parametrize("act_rows", [None, 4])
@pytest.mark.parametrize("workers", [0, 2, 5])
@pytest.mark.parametrize("how", HOW)
def test_next_values_are_those_of_a_plain_loop(
    how: dict[str, Any], workers: int, act_rows: int | None
) -> None:
    ours = collect(workers, Counting(act_rows), **how)
    for rollout, values, following in zip(ours, *by_hand(2), strict=True):
        np.testing.assert_array_equal(rollout.values, values)
        np.testing.assert_array_equal(rollout.next_values, following)
        assert len(rollout.final_envs) > N
    assert_same(ours, collect(0, Counting()))


@pytest.mark.parametrize("how", HOW)
def test_a_policy_without_state_is_asked_once_for_all_ends(how: dict[str, Any]) -> None:
    policy = Forgetful()
    (rollout,) = collect(2, policy, 1, **how)
    at_workers = "inference" in how  # there it is asked of copies
    assert policy.asked == ([] if at_workers else [N, len(rollout.final_envs)])


def test_of_many_ends_not_more_are_asked_for_at_once_than_one_thread_takes() -> None:
    """A large matrix product has BLAS start threads, which then spin on the workers' cores."""
    policy = Forgetful()
    with VecCheckedSession([lambda: Counts(1)] * 3, workers=0) as vec:
        rollout = collect_rollout(vec, policy, 50, seed=0)
    assert policy.asked == [3, 64, 64, 22]
    np.testing.assert_array_equal(rollout.next_values, 1)


def test_half_of_a_state_is_refused() -> None:
    policy = Forgetful()
    policy.get_state = lambda envs: envs  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="expected both of get_state and set_state"):
        collect(0, policy)
