"""Sessions as the tests of failures open them: what goes wrong is raised, not repaired."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from vecsess import VecCheckedSession

# The arguments that make a session raise what it could repair.
RAISING: dict[str, Any] = (
    {"on_crash": "raise"} if "on_crash" in inspect.signature(VecCheckedSession).parameters else {}
)


def open_session(env: Any, n: int, **arguments: Any) -> VecCheckedSession:
    """Returns a session that raises when a worker dies."""
    return VecCheckedSession(env, n, **{**RAISING, **arguments})


def zeros(n: int) -> Any:
    """Returns the plainest batch of discrete actions."""
    return np.zeros(n, np.int64)
