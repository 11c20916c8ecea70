"""Environments that tell what was done to them, for workers to import."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tests.envs import CountingEnv

Result = tuple[Any, float, bool, bool, dict[str, Any]]


class DiaryEnv(gymnasium.Env[Any, Any]):
    """Observes `[resets, steps, seed]`, -1 for no seed; its info holds the options.

    Args:
        length: an episode terminates after this many steps.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # as Gymnasium declares it
        "render_modes": ["rgb_array"],
        "render_fps": 30,
    }

    def __init__(self, length: int = 3, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1, 2.0**53, (3,), np.float64)
        self.action_space = spaces.Discrete(3)
        self.length, self.render_mode = length, render_mode
        self.resets, self.steps, self.seed = 0, 0, -1
        self.told: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets, self.steps, self.seed = self.resets + 1, 0, -1 if seed is None else seed
        info = {} if options is None else {"options": dict(options)}
        return self._observe(), info

    def step(self, action: Any) -> Result:
        self.steps += 1
        return self._observe(), float(action), self.steps >= self.length, False, {}

    def render(self) -> Any:
        return np.full((2, 2, 3), self.steps, np.uint8)

    def _observe(self) -> Any:
        return np.array([self.resets, self.steps, self.seed], np.float64)

    # --- to be called ----------------------------------------------------------------------------

    def add(self, one: float, other: float = 0.0, *, times: int = 1) -> float:
        return (one + other) * times

    def apply(self, function: Any) -> Any:
        return function(self.steps)

    def remember(self, thing: Any) -> None:
        self.told = thing

    def add_to_memory(self) -> None:
        self.told.append(self.steps)

    def recall(self) -> str:
        return repr(self.told)

    def give_object(self) -> Any:
        return object()

    def fail(self) -> None:
        raise KeyError("fails when called")


class SlowEnv(CountingEnv):
    """Takes its action for the seconds that a step lasts, and `reset_s` for a reset.

    Args:
        reset_s: in seconds.
    """

    def __init__(self, reset_s: float = 0.0) -> None:
        super().__init__(1000, spaces.Box(0.0, 10.0, ()))
        self.reset_s = reset_s

    def reset(self, **arguments: Any) -> Any:
        time.sleep(self.reset_s)
        return super().reset(**arguments)

    def step(self, action: Any) -> Any:
        time.sleep(float(action))
        return super().step(action)

    def nap(self, duration_s: float) -> float:
        time.sleep(duration_s)
        return duration_s


class InfoEnv(gymnasium.Env[Any, Any]):
    """Gives the info that a function of its index and its step returns.

    Args:
        info_of: takes index and step; step 0 is a reset's.
        index: of this environment.
        length: an episode terminates after this many steps.
    """

    def __init__(self, info_of: Any, index: int, length: int = 3) -> None:
        self.observation_space = spaces.Dict(
            a=spaces.Box(-1, 100, (2,)), b=spaces.Tuple([spaces.Discrete(50)])
        )
        self.action_space = spaces.Discrete(2)
        self.info_of, self.index, self.length, self.steps = info_of, index, length, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), self.info_of(self.index, 0)

    def step(self, action: Any) -> Result:
        self.steps += 1
        done = self.steps >= self.length + self.index
        return self._observe(), 1.0, done, False, self.info_of(self.index, self.steps)

    def _observe(self) -> Any:
        return {"a": np.full(2, self.steps, np.float32), "b": (self.steps,)}
