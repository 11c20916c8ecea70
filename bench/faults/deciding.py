"""A policy for rollouts under kills."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vecsess.collect.policies import RandomPolicy


class Looking:
    """Draws each row's action by noise and by what is seen, so a wrong row shows in all after it.

    Args:
        space: the action space of one environment.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self._random = RandomPolicy(space)
        self.noise_size = self._random.noise_size

    def act(
        self,
        observations: Any,
        *,
        noise: NDArray[np.float64],
        episode_start: NDArray[np.bool_],
        envs: NDArray[np.int64],
    ) -> tuple[Any, Any, Any]:
        """See `vecsess.collect.policies.Policy.act`."""
        values = self.value(observations, envs=envs)
        shifted = (noise + np.abs(values)[:, None]) % 1.0
        actions, *_ = self._random.act(
            observations, noise=shifted, episode_start=episode_start, envs=envs
        )
        return actions, values, values

    def value(self, observations: Any, *, envs: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `vecsess.collect.policies.Policy.value`."""
        seen = np.asarray(observations, np.float64).reshape(len(envs), -1)
        total: NDArray[np.float64] = seen.sum(axis=1)
        return total
