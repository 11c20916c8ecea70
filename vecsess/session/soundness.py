"""Whether an environment is sound: what a session refuses, and whether it repeats itself."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from vecsess.contract import Contract
from vecsess.session.vector import VecCheckedSession
from vecsess.wire.values import Env, Given


class _Unclosed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The caller's own environment: a session that ends leaves it open."""

    def close(self) -> None:
        pass


def check_env(env: Env | str | Callable[[], Env], *, steps: int = 300) -> None:
    """Says whether an environment is fit for a session; runs it in this process.

    What a session refuses is raised as it would be in training. Where the same seed and actions
    give another episode, a warning says so. `vecsess doctor` looks at more.

    Args:
        env: an environment, which is left open; or an id, or a callable that returns one.
        steps: how many random actions are taken, each time.

    Raises:
        VecsessError: a `ContractViolation`, or an `EnvError` where the environment raises.

    Example:
        >>> check_env("CartPole-v1", steps=50)
    """
    own = not isinstance(env, gymnasium.Env)
    made = gymnasium.make(env) if isinstance(env, str) else env() if callable(env) else env
    try:
        check_contract(lambda: _Unclosed(made), steps)
        again = first_difference(episode(made, steps), episode(made, steps))
    finally:
        if own:
            made.close()
    if again is not None:
        warnings.warn(
            f"the same seed and actions give another episode, from step {again} on: use "
            "self.np_random for all randomness, and set all state in reset",
            UserWarning,
            stacklevel=2,
        )


def check_contract(
    make: Callable[[], Env], steps: int, going_on: Callable[[], None] = lambda: None
) -> None:
    """Steps through a session, so that the rules are the very ones of a training run.

    Args:
        make: returns the environment.
        steps: how many.
        going_on: called before each of them.

    Raises:
        VecsessError: what a session refuses.
    """
    with VecCheckedSession(make, 1, workers=0, contract=Contract(action_range="allow")) as vec:
        vec.action_space.seed(0)
        going_on()
        vec.reset(seed=0)
        for _ in range(steps):
            going_on()
            vec.step(vec.action_space.sample())


def episode(env: Env, steps: int, going_on: Callable[[], None] = lambda: None) -> list[str]:
    """Returns a digest for the reset and for each step, always of the same seeds and actions."""
    going_on()
    observation, _ = env.reset(seed=7)
    # A copy, and only now: some environments replace their space when they are reset.
    space = copy.deepcopy(env.action_space)
    space.seed(7)
    digests = [_digest(observation)]
    for _ in range(steps):
        going_on()
        observation, reward, terminated, truncated, _ = env.step(space.sample())
        digests.append(_digest([observation, reward, terminated, truncated]))
        if terminated or truncated:
            observation, _ = env.reset()
            digests[-1] += _digest(observation)
    return digests


def first_difference(one: list[str], other: list[str]) -> int | None:
    """Returns the step from which on two episodes differ, 0 for the reset."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((step for step, (a, b) in pairs if a != b), None)


def _digest(value: Given) -> str:
    """Returns a digest of nested values; bytes decide, so NaN equals NaN."""
    if isinstance(value, dict):
        return _digest([_digest(value[key]) for key in sorted(value)])
    if isinstance(value, list | tuple):
        return hashlib.sha1("".join(map(_digest, value)).encode()).hexdigest()  # noqa: S324  # no secret
    data = value.encode() if isinstance(value, str) else np.asarray(value).tobytes()
    return hashlib.sha1(data).hexdigest()  # noqa: S324
