"""Environments that tests share: ones that count, and ones that break on cue.

They live in a module of their own so that a worker imports it and nothing of pytest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tests.faults import FAULTS, LIES

Step = tuple[Any, Any, Any, Any, Any]
Maker = Callable[[], gymnasium.Env[Any, Any]]


class CountingEnv(gymnasium.Env[Any, Any]):
    """Tells in its observation where it is: `[episode, step, last action, a random number]`.

    Like many environments it gives out the same array again and again.

    Args:
        length: an episode terminates after this many steps.
        action_space: any; the observation holds the sum of the last action.
        duration_s: how long a step takes.
    """

    def __init__(
        self,
        length: int = 5,
        action_space: spaces.Space[Any] | None = None,
        duration_s: float = 0.0,
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self.length, self.duration_s = length, duration_s
        self.episode, self.steps = -1, 0
        self.buffer = np.zeros(4, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(0.0), {}

    def step(self, action: Any) -> Step:
        self.steps += 1
        if self.duration_s:
            time.sleep(self.duration_s)
        observation = self._observe(float(np.sum(action)))
        return observation, 1.0, self.steps >= self.length, False, {}

    def _observe(self, action: float) -> Any:
        self.buffer[:] = self.episode, self.steps, action, self.np_random.random()
        return self.buffer


class EchoEnv(CountingEnv):
    """Refuses what is not exactly an action of its space, and observes what it was given."""

    def step(self, action: Any) -> Any:
        expected = np.ndarray if self.action_space.shape else self.action_space.dtype.type  # type: ignore[union-attr]
        if type(action) is not expected or action.dtype != self.action_space.dtype:
            raise TypeError(f"expected {expected}, got {type(action)}")
        if not self.action_space.contains(action):
            raise ValueError(f"expected an action, got {action}")
        return super().step(action)


class WideEnv(CountingEnv):
    """Computes in float64 what its space declares as float32."""

    def _observe(self, action: float) -> Any:
        return super()._observe(action).astype(np.float64)


class DiscreteObservationEnv(CountingEnv):
    """Tells a number of its own choice as a Discrete observation."""

    def __init__(self, told: Any) -> None:
        super().__init__()
        self.observation_space = spaces.Discrete(10)
        self.told = told

    def _observe(self, action: float) -> Any:
        return self.told


class SpaceEnv(CountingEnv):
    """Calls anything its observation space."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.observation_space = space


class FaultyEnv(CountingEnv):
    """Breaks as it is told to, by its arguments or by the options of `reset`.

    Args:
        fault: a name in `FAULTS` or `LIES`.
        place: "init", "reset", "step" or "close".
        at: the step at which "step" breaks, counted from 0 since options were last given.
        length: an episode terminates after this many steps.

    Options: `{"fault": name, "place": ..., "at": ..., "index": i}` give an environment made with
    `index=i` another fault, or with `{}` none.
    """

    def __init__(
        self,
        fault: str | None = None,
        place: str = "step",
        *,
        at: int = 0,
        length: int = 5,
        index: int = 0,
    ) -> None:
        super().__init__(length)
        self.fault, self.place, self.at, self.index = fault, place, at, index
        self.told = 0  # steps since options were given
        self._break_in("init")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if options is not None:
            mine = options.get("index") == self.index
            self.fault = options["fault"] if mine else None
            self.place, self.at = options.get("place", "step"), options.get("at", 0)
            self.told = 0
        observation, info = super().reset(seed=seed)
        self._break_in("reset")
        if self.fault in LIES and self.place == "reset":
            lied = LIES[self.fault]((observation, 1.0, False, False, info))
            return lied[0], lied[4]
        return observation, info

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self.told += 1
        if self.told == self.at + 1:
            self._break_in("step")
            if self.fault in LIES and self.place == "step":
                return LIES[self.fault](result)
        return result

    def close(self) -> None:
        self._break_in("close")

    def _break_in(self, place: str) -> None:
        if self.fault in FAULTS and self.place == place:
            FAULTS[self.fault]()


def counting(n: int, **arguments: Any) -> list[Maker]:
    """Returns n callables that make a `CountingEnv`."""
    return [partial(CountingEnv, **arguments)] * n


def faulty(n: int, guilty: int, fault: str, place: str = "step", **arguments: Any) -> list[Maker]:
    """Returns n callables, of which one makes an environment that breaks."""
    makers: list[Maker] = [partial(FaultyEnv, length=arguments.get("length", 5))] * n
    makers[guilty] = partial(FaultyEnv, fault, place, **arguments)
    return makers


def obedient(n: int, **arguments: Any) -> list[Maker]:
    """Returns n callables for environments that break where the options of `reset` say so."""
    return [partial(FaultyEnv, index=index, **arguments) for index in range(n)]
