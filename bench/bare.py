"""Bare environments in plain loops: one makes the limit, one on each core comes close to it."""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecsess.bench.cases import Case
from vecsess.bench.collecting import SmallPolicy
from vecsess.bench.contenders import Adapter
from vecsess.bench.measure import cores_available

_GOES_ON_NS = 2_000_000  # for so long after the last call, or twice a call
_TABLE = 64  # lists of actions, cycled


class BareAdapter(Adapter):
    """One environment in a plain loop: what the limit is made of."""

    def __init__(self, case: Case, n: int) -> None:
        """Builds it; `n` only says how many steps a call takes."""
        self._env = case.make()
        self.steps_per_call = n

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Splits each batch into its rows beforehand: a bare loop has no batch to split."""
        return [list(batch) for batch in actions]

    def reset(self) -> None:
        """Resets the one environment."""
        self._env.reset(seed=0)

    def step(self, actions: Any) -> None:
        """Takes `N` steps, one after the other."""
        step, reset = self._env.step, self._env.reset
        for action in actions:
            _, _, terminated, truncated, _ = step(action)
            if terminated or truncated:
                reset()

    def close(self) -> None:
        """Closes the one environment."""
        self._env.close()


class BareLoopsAdapter(Adapter):
    """On every core a loop over its share of the environments; no loop waits for another.

    It shows what cores give that work at once: they share caches, memory and what heat allows, so
    it is less than cores times one bare environment. This process counts its own steps; the loops
    on the other cores are in processes that step as long as this one does.
    """

    def __init__(self, case: Case, n: int, *, acting: bool = False) -> None:
        """Builds this loop's environments, and starts the other loops.

        Args:
            case: what to step.
            n: how many environments there are in all loops.
            acting: each loop asks a small policy for the actions of its environments.
        """
        self._step = _acting(case) if acting else step_each
        cores = min(n, cores_available())
        self._rows = -(-n // cores)
        self.steps_per_call = self._rows * cores
        self._envs = [case.make() for _ in range(self._rows)]
        self._until = memoryview(mmap.mmap(-1, 8)).cast("q")  # when they stop, in monotonic ns
        # They sleep in a read while others are measured: a look at the clock now and then would
        # cost those more than one might think.
        self._calls = [os.eventfd(0) for _ in range(cores - 1)]
        self._ready = os.eventfd(0, os.EFD_SEMAPHORE)
        context = multiprocessing.get_context("fork")
        self._others = [
            context.Process(
                target=_step_until,
                args=(case, self._rows, self._until, call, self._ready, acting),
                daemon=True,
            )
            for call in self._calls
        ]
        for other in self._others:
            other.start()

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Splits each batch into the rows of this loop."""
        return [list(batch[: self._rows]) for batch in actions]

    def reset(self) -> None:
        """Resets this loop's environments, and waits until the others have reset theirs."""
        for seed, env in enumerate(self._envs):
            env.reset(seed=seed)
        for _ in self._others:
            os.eventfd_read(self._ready)

    def step(self, actions: Any) -> None:
        """Steps this loop's environments once, and keeps the others going."""
        began_ns, stopped_ns = time.monotonic_ns(), self._until[0]
        self._step(self._envs, actions)
        now_ns = time.monotonic_ns()
        self._until[0] = now_ns + max(_GOES_ON_NS, 2 * (now_ns - began_ns))
        if stopped_ns < time.monotonic_ns():  # they may sleep: until now they have not seen it
            for call in self._calls:
                os.eventfd_write(call, 1)

    def close(self) -> None:
        """Ends the other loops, and closes this one's environments."""
        for other in self._others:
            other.terminate()
            other.join()
        for fd in (*self._calls, self._ready):
            os.close(fd)
        for env in self._envs:
            env.close()


def step_each(envs: list[Any], actions: Any) -> None:
    """Steps each environment once, as a loop with nothing around it does, and resets what ended."""
    for env, action in zip(envs, actions, strict=True):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()


def _acting(case: Case) -> Callable[[list[Any], Any], None]:
    """Returns what steps environments with actions that a small policy has chosen for them."""
    env = case.make()
    policy = SmallPolicy(env.observation_space, env.action_space)
    env.close()
    rng = np.random.default_rng(0)
    draw = rng.random if policy.noise_kind == "uniform" else rng.standard_normal
    seen: list[Any] = []

    def step(envs: list[Any], actions: Any) -> None:
        del actions
        if not seen:
            seen.extend(env.reset()[0] for env in envs)
        noise = draw((len(envs), policy.noise_size), np.float32)
        chosen, _, _ = policy.act(np.stack(seen), noise=noise)
        for index, (env, action) in enumerate(zip(envs, chosen, strict=True)):
            seen[index], _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                seen[index], _ = env.reset()

    return step


def _step_until(
    case: Case, rows: int, until: memoryview, call: int, ready: int, acting: bool
) -> None:
    """Is a loop on another core: steps while the clock says so, until it is ended."""
    step = _acting(case) if acting else step_each
    envs = [case.make() for _ in range(rows)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
        env.action_space.seed(seed)
    os.eventfd_write(ready, 1)
    table = [[env.action_space.sample() for env in envs] for _ in range(_TABLE)]
    for actions in itertools.cycle(table):
        while time.monotonic_ns() > until[0]:
            os.eventfd_read(call)
        step(envs, actions)
