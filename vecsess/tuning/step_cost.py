"""What a step of an environment takes by itself, timed in a worker of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from vecsess.collect.policies import RandomPolicy
from vecsess.collect.sources import collect_rollout
from vecsess.fleet.plan import EnvLike, EnvSpec
from vecsess.session.vector import VecCheckedSession
from vecsess.tree import Tree
from vecsess.wire.values import Env, Fields, Given

_PROBE_S = 0.3
_MIN_STEPS, _MAX_STEPS = 20, 20_000


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a step of one environment takes, alone in a worker, resets included.

    Attributes:
        mean_s: wall time.
        p50_s: of single steps.
        p99_s: likewise.
        cpu_share: CPU time by wall time; low where it waits for something else.
    """

    mean_s: float
    p50_s: float
    p99_s: float
    cpu_share: float

    @property
    def sleeps(self) -> bool:
        """Whether it leaves its core to others most of the time."""
        return self.cpu_share < 0.5

    @property
    def straggles(self) -> bool:
        """Whether some steps take so much longer that the others of a lockstep wait for them."""
        return self.p99_s > 4 * self.p50_s and self.p99_s > 2e-4


def measure_step(env: EnvLike, make_kwargs: Fields | None, settings: Fields) -> StepCost:
    """Times the steps of one environment in a worker of its own, for `_PROBE_S`."""
    maker = _maker(env, make_kwargs)
    with VecCheckedSession(_clocked(maker), 1, workers=1, **settings) as vec:
        policy = RandomPolicy(vec.single_action_space)
        vec.start(seed=0)
        until_s, steps, horizon = time.monotonic() + _PROBE_S, 0, 1
        while steps < _MIN_STEPS or (time.monotonic() < until_s and steps < _MAX_STEPS):
            collect_rollout(vec, policy, horizon)
            steps += horizon
            horizon = min(horizon * 2, 64)
        mean_s, cpu_s, p50_s, p99_s = vec.call("read_clock")[0]
    return StepCost(mean_s=mean_s, p50_s=p50_s, p99_s=p99_s, cpu_share=min(1.0, cpu_s / mean_s))


def _maker(env: EnvLike, make_kwargs: Fields | None) -> Callable[[], Env]:
    """Returns what builds one environment, wherever it is called."""
    if isinstance(env, str | EnvSpec):
        spec = gymnasium.registry.get(env, env) if isinstance(env, str) else env
        kwargs = make_kwargs or {}
        return lambda: gymnasium.make(spec, **kwargs)
    if callable(env):
        return env
    return env[0]


def _clocked(maker: Callable[[], Env]) -> Callable[[], Env]:
    """Returns what builds an environment that times itself; crosses to the worker by value."""

    def build() -> Env:
        class Clock(gymnasium.Wrapper[Any, Any, Any, Any]):
            wall_s: list[float] = []  # noqa: RUF012  # there is one environment of this class
            rest_s = cpu_s = 0.0

            def step(self, action: Tree) -> Given:
                began_s, began_cpu_s = time.perf_counter(), time.thread_time()
                try:
                    return self.env.step(action)
                finally:
                    self.cpu_s += time.thread_time() - began_cpu_s
                    self.wall_s.append(time.perf_counter() - began_s)

            def reset(self, **given: Given) -> Given:
                began_s, began_cpu_s = time.perf_counter(), time.thread_time()
                try:
                    return self.env.reset(**given)
                finally:
                    if self.wall_s:  # the first one is no part of stepping
                        self.cpu_s += time.thread_time() - began_cpu_s
                        self.rest_s += time.perf_counter() - began_s

            def read_clock(self) -> list[float]:
                steps = len(self.wall_s)
                mean_s = (sum(self.wall_s) + self.rest_s) / steps
                p50_s, p99_s = np.quantile(self.wall_s, (0.5, 0.99)).tolist()
                return [mean_s, self.cpu_s / steps, p50_s, p99_s]

        return Clock(maker())

    return build
