"""Environments with an id, as `module:EnvId` names them: each does one strange thing."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from tests.envs import CountingEnv, Step

Act: TypeAlias = "Callable[[StrangeEnv, Step], Step]"


class StrangeEnv(CountingEnv):
    """Does one strange thing in its third step.

    Args:
        act: what, given the result of the step; returns the result to give out.
    """

    def __init__(self, act: Act) -> None:
        super().__init__(length=50)
        self._act = act
        self.kept: list[bytes] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.episode = -1  # else it would tell episodes apart that are the same
        return super().reset(seed=seed)

    def step(self, action: Any) -> Step:
        result = super().step(action)
        return self._act(self, result) if self.steps >= 3 else result


def lie(env: StrangeEnv, result: Step) -> Step:
    return result[0], float("nan"), *result[2:]


def hang(env: StrangeEnv, result: Step) -> Step:
    time.sleep(3600)
    return result


def raise_error(env: StrangeEnv, result: Step) -> Step:
    raise KeyError("no such place")


def die(env: StrangeEnv, result: Step) -> Step:
    os._exit(7)


def talk(env: StrangeEnv, result: Step) -> Step:
    os.write(1, b"talking to stdout\n")
    return result


def gamble(env: StrangeEnv, result: Step) -> Step:
    return result[0] + np.float32(random.random()), *result[1:]


def leak(env: StrangeEnv, result: Step) -> Step:
    env.kept.append(os.urandom(10_000))
    return result


def widen(env: StrangeEnv, result: Step) -> Step:
    return result[0].astype(np.float64), *result[1:]


def warn(env: StrangeEnv, result: Step) -> Step:
    gymnasium.logger.warn("old", category=UserWarning)  # in yellow
    return result


def dawdle(env: StrangeEnv, result: Step) -> Step:
    time.sleep(0.005)
    return result


class ReplacingEnv(StrangeEnv):
    """As highway-env: its reset makes a new action space, without a seed."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        result = super().reset(seed=seed)
        self.action_space = gymnasium.spaces.Discrete(2)
        return result


def make_replacing(**options: Any) -> gymnasium.Env[Any, Any]:
    return ReplacingEnv(lambda env, result: result, **options)


def make(**options: Any) -> gymnasium.Env[Any, Any]:
    return StrangeEnv(**options)


for name, act in {
    "Lying": lie,
    "Hanging": hang,
    "Raising": raise_error,
    "Dying": die,
    "Talking": talk,
    "Gambling": gamble,
    "Leaking": leak,
    "Widening": widen,
    "Dawdling": dawdle,
    "Warning": warn,
}.items():
    gymnasium.register(f"{name}-v0", make, kwargs={"act": act}, disable_env_checker=True)

gymnasium.register("Replacing-v0", make_replacing, disable_env_checker=True)
