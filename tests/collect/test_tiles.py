"""`act_rows`: a fixed number of rows, each environment at its place, and so the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.collect.mlps import Mlp, Recurrent
from tests.collect.test_paced import assert_same
from vecsess import VecCheckedSession, collect_rollout
from vecsess.collect.paced import Pace
from vecsess.collect.policies import as_policy
from vecsess.collect.rollout import Rollout
from vecsess.collect.tiles import Tiled

SPACE = spaces.Discrete(3)


def act(policy: Any, observations: Any, envs: Any) -> Any:
    start = np.zeros(len(envs), bool)
    noise = np.linspace(0.0, 0.99, 64)[envs % 64, None]
    return policy.act(observations, noise=noise, episode_start=start, envs=envs)


@pytest.mark.parametrize("act_rows", [1, 5, 8, 16, 32])
def test_an_environment_gets_the_same_bits_in_whatever_company(act_rows: int) -> None:
    mlp = Mlp(17, 3, hidden=256, act_rows=act_rows)
    policy = as_policy(mlp, SPACE)
    rng = np.random.default_rng(1)
    observations = rng.standard_normal((40, 17)).astype(np.float32)
    whole = act(policy, observations, np.arange(40))
    for _ in range(30):
        envs = rng.permutation(40)[: rng.integers(1, 41)]
        for one, other in zip(act(policy, observations[envs], envs), whole, strict=True):
            np.testing.assert_array_equal(one, other[envs])
        several = rng.integers(0, 40, 50)  # as final observations: one environment again and again
        values = policy.value(observations[several], envs=several)
        np.testing.assert_array_equal(
            values, policy.value(observations, envs=np.arange(40))[several]
        )
    assert set(mlp.seen) == {act_rows}


def test_without_it_the_number_of_rows_shows_in_the_last_bits() -> None:
    observations = np.random.default_rng(1).standard_normal((40, 17)).astype(np.float32)
    plain = as_policy(Mlp(17, 3, hidden=256), SPACE)
    values = plain.value(observations, envs=np.arange(40))
    alone = [plain.value(observations[e : e + 1], envs=np.array([e]))[0] for e in range(40)]
    assert not np.array_equal(values, alone)  # else this machine shows nothing here


@pytest.mark.parametrize("pace", ["lockstep", "pipelined", "free"])
@pytest.mark.parametrize("workers", [0, 2, 3, 7])
def test_a_rollout_is_the_same_at_every_pace(pace: Pace, workers: int) -> None:
    assert_same([collect(pace, workers)], [collect("lockstep", 1)])


def collect(pace: Pace, workers: int) -> Rollout:
    with VecCheckedSession("CartPole-v1", n=7, workers=workers) as vec:
        vec.start(7)
        return collect_rollout(vec, Recurrent(4, 2, 8, act_rows=4), 48, seed=5, pace=pace)


def test_who_only_fills_a_place_keeps_its_state() -> None:
    policy = Recurrent(4, 3, 8, act_rows=8)
    policy.sums += np.arange(8, dtype=np.float32)[:, None]
    before = policy.sums.copy()
    act(as_policy(policy, SPACE), np.full((2, 4), 9, np.float32), np.array([2, 5]))
    changed = (policy.sums != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [2, 5]


def test_actions_in_parts_come_back_in_order() -> None:
    space = spaces.Dict({"word": spaces.Text(4), "push": spaces.Box(-1, 1, (2,))})

    class Wordy:
        noise_size = 0
        act_rows = 4

        def act(self, observations: Any, *, envs: Any, **_: Any) -> Any:
            zeros = np.zeros(len(envs), np.float32)
            push = np.repeat(observations, 2, axis=1)
            return {"push": push, "word": [f"w{env}" for env in envs]}, zeros, zeros

        def value(self, observations: Any, *, envs: Any) -> Any:
            return observations[:, 0]

    envs = np.array([3, 9, 1, 5])
    actions, _, _ = act(as_policy(Wordy(), space), envs[:, None].astype(np.float32), envs)
    assert actions["word"].tolist() == ["w3", "w9", "w1", "w5"]
    assert actions["push"][:, 1].tolist() == [3.0, 9.0, 1.0, 5.0]


@pytest.mark.parametrize("act_rows", [0, -1, 2.0, "8"])
def test_what_is_no_number_of_rows_is_refused(act_rows: Any) -> None:
    with pytest.raises(ValueError, match="act_rows: expected a positive number of rows"):
        as_policy(Mlp(4, 3, act_rows=act_rows), SPACE)


def test_a_policy_that_answers_for_another_number_of_rows_is_told() -> None:
    class Short(Mlp):
        def value(self, observations: Any, *, envs: Any) -> Any:
            return super().value(observations, envs=envs)[:2]

    with pytest.raises(ValueError, match="expected 8 rows of values from the policy"):
        Tiled(Short(4, 3), 8, SPACE).value(np.zeros((2, 4), np.float32), envs=np.arange(2))


def test_a_part_of_a_session_has_the_noise_and_places_of_the_whole() -> None:
    def batch(n: int, first: int) -> Rollout:
        with VecCheckedSession("CartPole-v1", n=n, workers=0) as vec:
            vec.first_env = first  # as a part of a larger session has it
            vec.start(list(range(first, first + n)))
            return collect_rollout(vec, Mlp(4, 2, act_rows=4), 32, seed=5)

    whole, part = batch(8, 0), batch(3, 2)
    for field in ("observations", "actions", "log_probs", "values", "next_values"):
        expected = getattr(whole, field)[:, 2:5]
        np.testing.assert_array_equal(getattr(part, field), expected, field)
