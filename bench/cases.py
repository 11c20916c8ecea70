"""The cases: which environment is stepped, as data.

What lives here must stay importable in a worker with nothing but gymnasium and numpy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Env = gym.Env[Any, Any]


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """How long a step of a made-up environment takes: log-normal, constant with `sigma` 0."""

    mean_us: float
    sigma: float = 0.0
    sleeping: bool = False

    def draw_s(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Draws `[count]` step times in seconds; their mean is `mean_us` whatever `sigma`."""
        log_mean = math.log(self.mean_us * 1e-6) - self.sigma**2 / 2
        return rng.lognormal(log_mean, self.sigma, count)


class TimedEnv(gym.Env[NDArray[Any], np.int64]):
    """An environment that only takes time: busy on its core, or asleep.

    Busy time is the thread's CPU time, so an environment that has to wait for its core still does
    all of its work. Frames come from a small pool, so that producing them costs nothing.
    """

    _POOL = 8
    _TIMES = 1024

    def __init__(
        self,
        step_time: StepTime,
        *,
        shape: tuple[int, ...],
        dtype: type[np.uint8 | np.float32] = np.float32,
        actions: int = 6,
        episode_steps: int = 1000,
    ) -> None:
        """Builds it; `shape` and `dtype` are the observation's."""
        self._shape = shape
        self._dtype = dtype
        high = 255 if dtype is np.uint8 else 1
        self.observation_space = gym.spaces.Box(0, high, shape, dtype)
        self.action_space = gym.spaces.Discrete(actions)
        self._step_time = step_time
        self._episode_steps = episode_steps
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Draws this episode's frames and step times."""
        super().reset(seed=seed, options=options)
        pool = (self._POOL, *self._shape)
        if self._dtype is np.uint8:
            self._frames: NDArray[Any] = self.np_random.integers(0, 256, pool, np.uint8)
        else:
            self._frames = self.np_random.random(pool, np.float32)
        self._times_s = self._step_time.draw_s(self.np_random, self._TIMES).tolist()
        self._steps = 0
        return self._frames[0], {}

    def step(self, action: np.int64) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Takes the drawn time, which is the reward in seconds; truncated after `episode_steps`."""
        self._steps += 1
        duration_s = self._times_s[self._steps % self._TIMES]
        if self._step_time.sleeping:
            time.sleep(duration_s)
        else:
            end_s = time.thread_time() + duration_s
            while time.thread_time() < end_s:
                pass
        observation = self._frames[self._steps % self._POOL]
        return observation, duration_s, False, self._steps >= self._episode_steps, {}


class NullEnv(gym.Env[NDArray[np.float32], np.int64]):
    """An environment that does nothing: what is left is what surrounds it."""

    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        """Prepares the one answer that it gives."""
        self._answer = (np.zeros(4, np.float32), 1.0, False, False, dict[str, Any]())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts an episode that never ends."""
        super().reset(seed=seed, options=options)
        return self._answer[0], {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Answers as ever."""
        return self._answer


@dataclass(frozen=True)
class Case:
    """One environment to step; plain functions only, as it crosses process boundaries."""

    name: str
    about: str
    build: Callable[..., Env]
    env_id: str | None = None
    envpool_id: str | None = None
    step_time: StepTime | None = None

    def make(self) -> Env:
        """Builds one environment; what every contender is given."""
        return self.build(self.step_time) if self.step_time else self.build()

    @property
    def env(self) -> str | Callable[[], Env]:
        """What a user would hand to a session: the bare id where there is one."""
        return self.env_id or self.make

    @property
    def sleeping(self) -> bool:
        """Whether steps leave the core free, so that cores aren't what limits them."""
        return self.step_time is not None and self.step_time.sleeping

    def limit_factor(self, n: int, cores: int) -> int:
        """How many bare environments could run at once at best: the limit over the bare rate."""
        return n if self.sleeping else min(n, cores)


def make_pong() -> Env:
    """Builds ALE/Pong-v5 as papers use it: skip 4, grey, 84x84, 4 frames stacked."""
    import ale_py

    gym.register_envs(ale_py)
    env: Env = gym.make("ALE/Pong-v5", frameskip=1)
    return gym.wrappers.FrameStackObservation(gym.wrappers.AtariPreprocessing(env), 4)


def make_image(step_time: StepTime) -> Env:
    """Builds the image environment: 84x84x4 bytes a step."""
    return TimedEnv(step_time, shape=(84, 84, 4), dtype=np.uint8)


def make_vector(step_time: StepTime) -> Env:
    """Builds an environment of four floats, where the step time is all that matters."""
    return TimedEnv(step_time, shape=(4,))


def _registered(env_id: str, *, name: str | None = None, envpool_id: str | None = None) -> Case:
    return Case(name or env_id, env_id, partial(gym.make, env_id), env_id, envpool_id)


_HEAVY = StepTime(mean_us=1000.0, sigma=1.0, sleeping=True)
_ALL = (
    _registered("CartPole-v1", name="cartpole", envpool_id="CartPole-v1"),
    _registered("HalfCheetah-v5", name="halfcheetah", envpool_id="HalfCheetah-v5"),
    _registered("Taxi-v4", name="taxi"),
    Case("pong", "ALE/Pong-v5, AtariPreprocessing, 4 frames", make_pong, envpool_id="Pong-v5"),
    Case("image", "84x84x4 uint8", make_image, step_time=StepTime(mean_us=100.0)),
    Case("steady", "four floats", make_vector, step_time=StepTime(mean_us=250.0)),
    Case("null", "four floats at no cost", NullEnv),
    Case("heavy", "four floats", make_vector, step_time=_HEAVY),
)
CASES: dict[str, Case] = {case.name: case for case in _ALL}


def find_case(name: str, *, step_us: float | None = None, sleeping: bool | None = None) -> Case:
    """Looks up a case by name, or makes one of any registered environment id.

    Args:
        name: a key of `CASES` or an environment id.
        step_us: another mean step time, for cases that have one.
        sleeping: asleep or busy instead, for cases that have a step time.

    Raises:
        ValueError: the name is neither, or the case has no step time to change.
    """
    case = CASES.get(name) or _case_of_id(name)
    if step_us is None and sleeping is None:
        return case
    if case.step_time is None:
        timed = ", ".join(key for key, known in CASES.items() if known.step_time)
        raise ValueError(f"case {name!r} has no step time of its own to set; these have: {timed}")
    step_time = replace(
        case.step_time,
        mean_us=case.step_time.mean_us if step_us is None else step_us,
        sleeping=case.step_time.sleeping if sleeping is None else sleeping,
    )
    return replace(case, step_time=step_time)


def _case_of_id(env_id: str) -> Case:
    try:
        gym.spec(env_id)
    except gym.error.Error as error:
        known = ", ".join(CASES)
        raise ValueError(
            f"{env_id!r} is neither a case ({known}) nor a registered environment id: {error}"
        ) from error
    return _registered(env_id)
