"""What the batches must be: plain environments, stepped one after the other by a plain loop.

It shares no code with the sessions that it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one lockstep gave; `finals` by environment, of those whose episode ended in it."""

    observations: Array
    rewards: Array
    terminated: Array
    truncated: Array
    finals: dict[int, Array]

    def different(self, other: Batch) -> list[int]:
        """Returns the environments whose row is not the same, bit for bit."""
        return [env for env in range(len(self.rewards)) if self.row(env) != other.row(env)]

    def row(self, env: int) -> tuple[bytes, ...]:
        """Returns one environment's row as bytes."""
        final = self.finals.get(env)
        return (
            np.asarray(self.observations[env]).tobytes(),
            np.float64(self.rewards[env]).tobytes(),
            bytes([bool(self.terminated[env]), bool(self.truncated[env])]),
            b"" if final is None else np.asarray(final).tobytes(),
        )


class Oracle:
    """N environments in a loop, with auto-reset as Gymnasium defines it.

    Args:
        makers: one callable for each environment.
        mode: "same_step", "next_step" or "disabled".
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]], mode: str) -> None:
        self._envs = [make() for make in makers]
        self._mode = mode
        self._ended = [False] * len(self._envs)

    def reset(self, seed: int) -> Array:
        """Resets environment i with `seed + i`."""
        self._ended = [False] * len(self._envs)
        return np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(self._envs)])

    def reset_some(self, mask: Array) -> Array:
        """Resets some, and returns their observations."""
        chosen = np.flatnonzero(mask)
        for env in chosen:
            self._ended[env] = False
        return np.stack([self._envs[env].reset()[0] for env in chosen])

    def step(self, actions: Array) -> Batch:
        """Steps all."""
        finals: dict[int, Array] = {}
        rows = [self._step(env, action, finals) for env, action in enumerate(actions)]
        observations, rewards, terminated, truncated = zip(*rows, strict=True)
        return Batch(
            observations=np.stack(observations),
            rewards=np.array(rewards, np.float64),
            terminated=np.array(terminated, np.bool_),
            truncated=np.array(truncated, np.bool_),
            finals=finals,
        )

    def _step(self, index: int, action: Any, finals: dict[int, Array]) -> tuple[Any, ...]:
        env = self._envs[index]
        if self._ended[index] and self._mode == "next_step":
            self._ended[index] = False
            return np.array(env.reset()[0]), 0.0, False, False
        observation, reward, terminated, truncated, _ = env.step(action)
        observation = np.array(observation)  # a copy: many give out the same array again
        if terminated or truncated:
            self._ended[index] = True
            if self._mode == "same_step":
                finals[index] = observation
                observation = np.array(env.reset()[0])
        return observation, float(reward), bool(terminated), bool(truncated)

    def close(self) -> None:
        """Closes all."""
        for env in self._envs:
            env.close()
