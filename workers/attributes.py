"""Attributes and methods of an environment, for the manager; results go back as plain data."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import numpy as np

from vecsess.wire.spaces import describe
from vecsess.wire.values import pack_value
from vecsess.workers.env_source import Env


def set_attribute(env: Env, name: str, packed: bytes) -> None:
    """Sets an attribute where a wrapper has it, else in the environment itself.

    Args:
        env: with all its wrappers.
        name: of the attribute.
        packed: a pickle of its value; from the manager: code goes this way only.
    """
    env.set_wrapper_attr(name, pickle.loads(packed))  # noqa: S301


def get_attribute(env: Env, name: str, _packed: bytes) -> Any:
    """Returns an attribute of an environment or of one of its wrappers."""
    return env.get_wrapper_attr(name)


def call_method(env: Env, name: str, packed: bytes) -> Any:
    """Returns what a method returns, or an attribute that can't be called as it is."""
    value = env.get_wrapper_attr(name)
    if not callable(value):
        return value
    args, kwargs = pickle.loads(packed)  # noqa: S301  # from the manager
    return value(*args, **kwargs)


def is_wrapped(env: Env, name: str, _packed: bytes) -> bool:
    """Returns whether one of an environment's wrappers is of a class, or derived from it.

    Args:
        env: with all its wrappers.
        name: of the class, with its module: nothing is imported here to find it.
    """
    while isinstance(env, gymnasium.Wrapper):
        if name in (f"{kind.__module__}.{kind.__qualname__}" for kind in type(env).__mro__):
            return True
        env = env.env
    return False


# "read" is a call that changes nothing, such as `render`.
READS = {"call": call_method, "read": call_method, "get": get_attribute, "wrapped": is_wrapped}


def pack_result(result: Any, name: str) -> tuple[str, bytes]:
    """Returns what a result is, and the result as msgpack.

    Raises:
        TypeError: it is not plain data.
    """
    try:
        if isinstance(result, gymnasium.Space):
            return "space", pack_value(describe(result))
        if isinstance(result, gymnasium.envs.registration.EnvSpec):
            return "spec", pack_value(result.to_json())
        if isinstance(result, np.random.Generator):
            return "generator", pack_value(dict(result.bit_generator.state))
        return "result", pack_value(result)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the result of {name!r} can't come back: {error}; results are plain data (numbers, "
            "texts, NumPy arrays, lists, dicts), so let the environment return such"
        ) from error
