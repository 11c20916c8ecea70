"""An environment as one would write it: walk to the end of a corridor."""

from typing import Any

import gymnasium
import numpy as np


class Corridor(gymnasium.Env[Any, Any]):
    """Action 1 walks on, action 0 back; the end gives a reward."""

    def __init__(self, length: int = 8) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)  # seeds self.np_random, from which all randomness comes
        self.place = int(self.np_random.integers(self.length // 2))
        return self._observe(), {}

    def step(self, action: Any):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        arrived = self.place >= self.length
        return self._observe(), float(arrived), arrived, False, {}

    def _observe(self):
        return np.array([min(1.0, self.place / self.length)], np.float32)
