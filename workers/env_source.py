"""Makes the environments of a worker from what the manager sent."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium

from vecsess.wire.leaves import UnsupportedSpaceError

Env = gymnasium.Env[Any, Any]
Maker = Callable[[], Env]


class BuildError(Exception):
    """An environment could not be made; `reason` is what its constructor raised."""

    def __init__(self, row: int, reason: Exception) -> None:
        super().__init__(f"row {row} could not be built")
        self.row = row
        self.reason = reason


def makers(source: bytes, first_env: int, rows: int) -> list[Maker]:
    """Returns one zero-argument callable per row.

    Args:
        source: cloudpickle of `("id", id, spec or None, kwargs)` or `("callables", list)`, the
            list with one entry for each environment, or with one for all.
        first_env: index of the first row's environment.
        rows: how many environments this worker holds.
    """
    kind, *parts = pickle.loads(source)  # noqa: S301  # from the manager: code goes this way only
    return select(kind, parts, first_env, rows)


def select(kind: str, parts: list[Any], first_env: int, rows: int) -> list[Maker]:
    """Returns the makers of these rows from a source that is not pickled."""
    if kind == "id":
        return [lambda: _make(*parts)] * rows
    callables = parts[0]
    return [callables[env % len(callables)] for env in range(first_env, first_env + rows)]


def _make(env_id: str, spec: Any, kwargs: dict[str, Any]) -> Env:
    if env_id.startswith("ALE/") and env_id not in gymnasium.registry:
        # Atari registers its ids when it is asked to, not by being installed.
        gymnasium.register_envs(importlib.import_module("ale_py"))
    return gymnasium.make(spec if spec is not None else env_id, **kwargs)


def build(maker: Maker) -> Env:
    """Returns the environment that `maker` makes.

    Raises:
        TypeError: it made something else.
        UnsupportedSpaceError: something else than a space is called one.
    """
    env = maker()
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            f"expected the callable to return a gymnasium.Env, got {type(env).__name__}; "
            "wrap other environments in a gymnasium.Env first"
        )
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, gymnasium.Space):
            raise UnsupportedSpaceError(
                f"expected {name} to be a gymnasium.Space, got {type(space).__name__}; supported "
                "are Box, Discrete, MultiDiscrete, MultiBinary, what is made of them, and Text"
            )
    return env
