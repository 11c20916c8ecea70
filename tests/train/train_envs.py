"""Environments for the tests that train; workers import this module, so it imports no torch."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Env = gymnasium.Env[Any, Any]


class TalkativeEnv(gymnasium.Env[Any, Any]):
    """Tells much in its infos, ends in both ways, and takes options, calls and attributes.

    Args:
        nested: observe a Dict of an image and a vector instead of a vector.
    """

    def __init__(self, nested: bool = False, render_mode: str | None = None) -> None:
        vector = spaces.Box(-10, 10, (3,), np.float32)
        image = spaces.Box(0, 255, (40, 40, 3), np.uint8)
        self.nested = nested
        self.observation_space = (
            spaces.Dict({"vector": vector, "image": image}) if nested else vector
        )
        self.action_space = spaces.Discrete(3)
        self.metadata = {"render_modes": ["rgb_array"]}
        self.render_mode = render_mode
        self.difficulty, self.steps, self.asked = 1, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(3, 9))
        return self._observe(), {"length": self.length, "seed": seed, "options": options or {}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps >= self.length
        terminated, truncated = over and self.length % 3 != 0, over and self.length % 2 == 0
        truncated = truncated or (over and not terminated)
        info = {"step": self.steps, "tag": "x" * self.steps, "sizes": np.arange(self.steps)}
        reward = float(self.np_random.normal()) * self.difficulty
        return self._observe(), reward, terminated, truncated, info

    def _observe(self) -> Any:
        vector = self.np_random.normal(size=3).astype(np.float32)
        if not self.nested:
            return vector
        image = self.np_random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        return {"vector": vector, "image": image}

    def multiply(self, number: int, times: int = 2) -> int:
        self.asked += 1
        return number * times

    def render(self) -> Any:
        return np.full((4, 4, 3), self.steps, np.uint8)


class Shifted(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Adds one, so that it can be seen whether an environment is wrapped."""

    def observation(self, observation: Any) -> Any:
        return observation + np.float32(1.0)


class MoreShifted(Shifted):
    """Derived from another wrapper."""


class BrightSideEnv(gymnasium.Env[Any, Any]):
    """An image that is bright on one side; the right action names that side.

    Args:
        side: of the image, in pixels.
    """

    def __init__(self, side: int = 8) -> None:
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.action_space = spaces.Discrete(2, start=3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = float(action - 3 == self.bright)
        return self._observe(), reward, False, self.steps >= 8, {}

    def _observe(self) -> Any:
        self.bright = int(self.np_random.integers(2))
        image = self.np_random.integers(0, 64, self.observation_space.shape or (), dtype=np.uint8)
        half = image.shape[1] // 2
        image[:, self.bright * half : (self.bright + 1) * half] += 150
        return image


gymnasium.register("BrightSide-v0", f"{__name__}:BrightSideEnv")
