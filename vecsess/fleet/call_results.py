"""What an environment's attribute or method gave, built again from plain data."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vecsess.errors import ProtocolError
from vecsess.wire.spaces import build_space
from vecsess.wire.values import FrameError

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def result_of(what: str, value: Any, env: int) -> Any:
    """Returns a result of a call.

    Args:
        what: "result" for plain data, "space", "spec" or "generator" for what was told as such.
        value: as the worker sent it: untrusted.
        env: whose it is.

    Raises:
        ProtocolError: it is not what it is said to be.
    """
    try:
        match what:
            case "space":
                return build_space(value)
            case "spec":
                return gymnasium.envs.registration.EnvSpec.from_json(value)
            case "generator":
                return _generator(value)
            case "result":
                return value
    except (FrameError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"expected a {what}, got {error}", env=env) from error
    raise ProtocolError(f"expected the result of a call, got {what!r}", env=env)


def _generator(state: dict[str, Any]) -> np.random.Generator:
    """Returns a generator in the state that a worker told of."""
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"an unknown bit generator {name!r}")
    bit_generator = getattr(np.random, name)()
    bit_generator.state = state
    return np.random.Generator(bit_generator)
