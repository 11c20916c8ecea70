"""Other vector environments as sources of `collect_rollout`, so that one PPO runs on all of them.

`collect_rollout` asks little: reset, observe, and a step that says what a lockstep brought.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from vecsess.contract import Finals, StepRows
from vecsess.errors import extra

with extra("train,sb3", needed_by="examples/compare_ppo.py"):
    from stable_baselines3.common.vec_env import VecEnv


class Source:
    """What the sources share: the books of the session, and actions within their bounds."""

    def __init__(self, n: int, observations: gymnasium.Space, actions: gymnasium.Space):
        self.num_envs, self.single_observation_space, self.single_action_space = (
            n,
            observations,
            actions,
        )
        self.noise_seed = self.noise_counter = 0
        self.episode_returns, self.episode_lengths = np.zeros(n), np.zeros(n, np.int64)
        self.started = False
        self.last: np.ndarray = np.empty(0)

    def observe(self) -> np.ndarray:
        return self.last.copy()

    def within_bounds(self, actions: np.ndarray) -> np.ndarray:
        space = self.single_action_space
        discrete = isinstance(space, gymnasium.spaces.Discrete)
        return actions if discrete else np.clip(actions, space.low, space.high)

    def fill(self, rows: StepRows, observations: Any, rewards: Any, ends: Any) -> None:
        self.last = rows.next_observations
        self.last[...] = observations
        rows.rewards[...], rows.valid[...] = rewards, True
        rows.terminated[...], rows.truncated[...] = ends


class GymnasiumSource(Source):
    """A `SyncVectorEnv` or `AsyncVectorEnv` with same-step auto-reset."""

    def __init__(self, envs: VectorEnv):
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.envs = envs

    def start(self, seed: int | None = None) -> np.ndarray:
        self.last, _ = self.envs.reset(seed=seed)
        self.started = True
        return self.observe()

    def step_into(self, actions: np.ndarray, rows: StepRows) -> Finals | None:
        observations, rewards, *ends, infos = self.envs.step(self.within_bounds(actions))
        self.fill(rows, observations, rewards, ends)
        if "final_obs" not in infos:
            return None
        envs = np.flatnonzero(infos["_final_obs"])
        return Finals(envs, np.stack([infos["final_obs"][env] for env in envs]))

    def close(self) -> None:
        self.envs.close()


class SB3Source(Source):
    """A `VecEnv` of Stable-Baselines3."""

    def __init__(self, envs: VecEnv):
        super().__init__(envs.num_envs, envs.observation_space, envs.action_space)
        self.envs = envs

    def start(self, seed: int | None = None) -> np.ndarray:
        self.envs.seed(seed)
        self.last = self.envs.reset()
        self.started = True
        return self.observe()

    def step_into(self, actions: np.ndarray, rows: StepRows) -> Finals | None:
        observations, rewards, dones, infos = self.envs.step(self.within_bounds(actions))
        truncated = np.array([info["TimeLimit.truncated"] for info in infos])
        self.fill(rows, observations, rewards, (dones & ~truncated, truncated))
        envs = np.flatnonzero(dones)
        if not len(envs):
            return None
        return Finals(envs, np.stack([infos[env]["terminal_observation"] for env in envs]))

    def close(self) -> None:
        self.envs.close()
