"""Box2D, MuJoCo, Atari, MiniGrid and toy text: each collects a batch, and is as Gymnasium's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from tests.gymnasium.comparison import Twins
from vecsess import VecCheckedSession, collect_rollout
from vecsess.tree import leaves
from vecsess.wire.leaves import all_leaves_of

N, T = 3, 12


def pong() -> gymnasium.Env[Any, Any]:
    import ale_py

    gymnasium.register_envs(ale_py)
    env = gymnasium.make("ALE/Pong-v5", frameskip=1)
    env = gymnasium.wrappers.AtariPreprocessing(env)
    return gymnasium.wrappers.FrameStackObservation(env, 4)


def minigrid() -> gymnasium.Env[Any, Any]:
    import minigrid

    gymnasium.register_envs(minigrid)
    return gymnasium.make("MiniGrid-GoToDoor-5x5-v0", max_steps=6)


def named(env_id: str) -> Callable[[], gymnasium.Env[Any, Any]]:
    return lambda: gymnasium.make(env_id, max_episode_steps=8)


ENVS: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "LunarLander-v3": named("LunarLander-v3"),
    "LunarLanderContinuous-v3": named("LunarLanderContinuous-v3"),
    "BipedalWalker-v3": named("BipedalWalker-v3"),
    "HalfCheetah-v5": named("HalfCheetah-v5"),
    "Hopper-v5": named("Hopper-v5"),
    "Humanoid-v5": named("Humanoid-v5"),
    "Blackjack-v1": named("Blackjack-v1"),
    "Taxi-v4": named("Taxi-v4"),
    "ALE/Pong-v5": pong,
    "MiniGrid-GoToDoor": minigrid,
}


class RandomPolicy:
    """Acts at random, from the noise that collection gives it.

    Args:
        space: of the actions, Box or Discrete.
    """

    def __init__(self, space: Any) -> None:
        self.space = space
        self.noise_size = int(np.prod(space.shape, dtype=np.int64)) or 1

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        zeros = np.zeros(len(envs), np.float32)
        if isinstance(self.space, spaces.Discrete):
            return (noise[:, 0] * int(self.space.n)).astype(np.int64), zeros, zeros
        low, high = self.space.low, self.space.high
        actions = low + noise.reshape(-1, *self.space.shape) * (high - low)
        return actions.astype(self.space.dtype), zeros, zeros

    def value(self, observations: Any, *, envs: Any) -> Any:
        return np.zeros(len(envs), np.float32)


@pytest.mark.parametrize("name", ENVS)
def test_it_collects_a_batch(name: str) -> None:
    with VecCheckedSession(ENVS[name], N, workers=2) as vec:
        rollout = collect_rollout(vec, RandomPolicy(vec.single_action_space), T, seed=0)
        space = vec.single_observation_space
    assert rollout.valid.all()
    assert rollout.advantages(0.99, 0.95).shape == (T, N)
    for leaf, part in zip(leaves(rollout.observations), all_leaves_of(space), strict=True):
        assert leaf.shape == (T, N, *part.shape)
        assert leaf.dtype == part.dtype


@pytest.mark.parametrize("name", [name for name in ENVS if name != "ALE/Pong-v5"])
def test_it_is_gymnasiums(name: str) -> None:
    with Twins([ENVS[name]] * N, AutoresetMode.SAME_STEP, workers=2) as twins:
        assert twins.run(20) > 0


def test_atari_frames() -> None:
    with VecCheckedSession(pong, 2, workers=2) as vec:
        observations, infos = vec.reset(seed=0)
        assert observations.shape == (2, 4, 84, 84)
        assert observations.dtype == np.uint8
        assert infos["lives"].tolist() == [0, 0]
        assert vec.get_attr("ale", indices=[]) == ()


def test_atari_by_its_id() -> None:
    with VecCheckedSession("ALE/Pong-v5", 2, workers=2, make_kwargs={"obs_type": "ram"}) as vec:
        assert vec.reset(seed=0)[0].shape == (2, 128)


def test_missions_are_texts() -> None:
    with VecCheckedSession(minigrid, N, workers=2) as vec:
        observations, _ = vec.reset(seed=0)
        assert isinstance(observations["mission"], tuple)
        assert all(mission.startswith("go to the") for mission in observations["mission"])
        assert observations["image"].shape == (N, 7, 7, 3)
        assert observations["direction"].shape == (N,)
        rollout = collect_rollout(vec, RandomPolicy(vec.single_action_space), T, seed=0)
    assert rollout.observations["mission"].shape == (T, N)
    assert set(rollout.observations) == {"mission", "image", "direction"}
    assert len(rollout.final_envs) > 0
