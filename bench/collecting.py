"""Collecting as a contender: a rollout of 128 a call, ours against the loop that people write.

Both ask the same policy, so what differs is how the batch gets filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vecsess.bench.cases import Case
from vecsess.bench.contenders import Adapter

HORIZON = 128


class UniformPolicy:
    """Discrete actions, each as likely as the others, at no cost worth measuring."""

    noise_size = 1

    def __init__(self, actions: int, n: int) -> None:
        """Chooses among `actions` for `n` rows."""
        self.actions = actions
        self._log_probs = np.full(n, -np.log(actions), np.float32)
        self._values = np.zeros(n, np.float32)

    def act(
        self,
        observations: NDArray[Any],
        *,
        noise: NDArray[np.floating[Any]],
        episode_start: NDArray[np.bool_] | None = None,
        envs: NDArray[np.integer[Any]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Turns `noise [rows, 1]` in [0, 1) into actions, log-probabilities and values."""
        del episode_start, envs
        rows = len(observations)
        actions = (noise[:, 0] * self.actions).astype(np.int64)
        return actions, self._log_probs[:rows], self._values[:rows]

    def value(
        self, observations: NDArray[Any], *, envs: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """Values every row at 0."""
        del envs
        return np.zeros(len(observations), np.float32)


class UsualLoop(Adapter):
    """The loop over `AsyncVectorEnv` into preallocated `[T, N, ...]` arrays, as in CleanRL."""

    def __init__(self, case: Case, n: int) -> None:
        """Starts the workers and allocates the batch."""
        self._vec = gym.vector.AsyncVectorEnv([case.make] * n)
        space = self._vec.single_observation_space
        self._policy = UniformPolicy(_discrete(self._vec.single_action_space), n)
        self._rng = np.random.default_rng(0)
        self._observations = np.zeros((HORIZON, n, *(space.shape or ())), space.dtype)
        self._actions = np.zeros((HORIZON, n), np.int64)
        self._log_probs, self._rewards, self._dones, self._values = np.zeros(
            (4, HORIZON, n), np.float32
        )
        self._next_done = np.zeros(n, np.bool_)
        self.steps_per_call = HORIZON * n

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Has one empty command: the policy chooses the actions."""
        return [None]

    def reset(self) -> None:
        """Resets all, and keeps the first observation."""
        self._next_observation, _ = self._vec.reset(seed=0)

    def step(self, actions: Any) -> None:
        """Fills the batch once."""
        n = self._vec.num_envs
        for t in range(HORIZON):
            self._observations[t] = self._next_observation
            self._dones[t] = self._next_done
            chosen, log_probs, values = self._policy.act(
                self._next_observation, noise=self._rng.random((n, 1), np.float32)
            )
            self._actions[t], self._log_probs[t], self._values[t] = chosen, log_probs, values
            self._next_observation, rewards, terminated, truncated, _ = self._vec.step(chosen)
            self._rewards[t] = rewards
            self._next_done = np.logical_or(terminated, truncated)

    def close(self) -> None:
        """Closes all."""
        self._vec.close()


class CollectAdapter(Adapter):
    """Ours: `collect_rollout` into the same `Rollout` again and again."""

    def __init__(
        self,
        case: Case,
        n: int,
        *,
        workers: int | str | None,
        affinity: Literal["spread"] | None = None,
    ) -> None:
        """Starts the workers."""
        from vecsess import VecCheckedSession

        self._vec = VecCheckedSession(case.env, n, workers=workers, affinity=affinity)
        self._policy: UniformPolicy = UniformPolicy(_discrete(self._vec.single_action_space), n)
        self._rollout: Any = None
        self.steps_per_call = HORIZON * n

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Has one empty command: the policy chooses the actions."""
        return [None]

    def reset(self) -> None:
        """Resets all."""
        self._vec.start(seed=0)

    def step(self, actions: Any) -> None:
        """Fills the batch once."""
        from vecsess import collect_rollout

        self._rollout = collect_rollout(self._vec, self._policy, HORIZON, out=self._rollout)

    def close(self) -> None:
        """Closes all."""
        self._vec.close()


def _discrete(space: gym.Space[Any]) -> int:
    if not isinstance(space, gym.spaces.Discrete):
        raise TypeError(f"the collect case needs discrete actions, got {space}; try --env image")
    return int(space.n)
