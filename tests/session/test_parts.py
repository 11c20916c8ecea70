"""A session may be a part of a larger one: seeds, options, noise and policies count from there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import CountingEnv
from vecsess import RandomPolicy, VecCheckedSession, collect_rollout
from vecsess.collect.rollout import Rollout


def seed_of(seed: int, env: int, episode: int) -> int:
    return seed + 100 * env + episode


def options_of(env: int, episode: int) -> dict[str, int]:
    return {"told": 100 * env + episode}


class ToldEnv(CountingEnv):
    """Observes as its last action what the options of its episode told it."""

    told = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.told = (options or {}).get("told", -1)
        return super().reset(seed=seed)

    def _observe(self, action: float) -> Any:
        return super()._observe(self.told + action)


class Place(RandomPolicy):
    """Its value is the environment that it is asked for."""

    def value(self, observations: Any, *, envs: Any) -> Any:
        return envs.astype(np.float32)


def collect(first_env: int, n: int, workers: int, **settings: Any) -> Rollout:
    with VecCheckedSession(ToldEnv, n, workers=workers, first_env=first_env, **settings) as vec:
        vec.start(7)
        return collect_rollout(vec, Place(spaces.Discrete(2)), 12, seed=3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("episode_seeds", ["continue", "per_episode", seed_of])
@pytest.mark.parametrize("episode_options", [None, {"told": 4}, options_of])
def test_parts_of_a_session_collect_what_the_whole_does(
    workers: int, episode_seeds: Any, episode_options: Any
) -> None:
    settings = {"episode_seeds": episode_seeds, "episode_options": episode_options}
    whole = collect(0, 5, workers, **settings)
    parts = [collect(0, 3, workers, **settings), collect(3, 2, workers, **settings)]
    for name in ("observations", "actions", "rewards", "values", "next_values", "episode_start"):
        joined = np.concatenate([getattr(part, name) for part in parts], axis=1)
        np.testing.assert_array_equal(getattr(whole, name), joined, name)
    assert [e.env for part in parts for e in part.episodes] == [0, 1, 2] * 2 + [0, 1] * 2


def test_the_index_of_the_first_environment_is_one() -> None:
    with pytest.raises(ValueError, match="first_env: expected an index from 0 on, got -1"):
        VecCheckedSession("CartPole-v1", 2, workers=0, first_env=-1)
