"""Environments whose steps are not quite of the form that they declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Step = tuple[Any, Any, Any, Any]  # observation, reward, terminated, truncated
VECTOR = spaces.Box(-np.inf, np.inf, (2,), np.float32)
PAIR = spaces.Dict(a=spaces.Discrete(3), b=VECTOR)
ONE = np.array([1, 2], np.float32)

# The space that is declared, and what a step gives.
FORMS: dict[str, tuple[spaces.Space[Any], Callable[[], Step]]] = {
    "a list": (VECTOR, lambda: ([1, 2.5], 1.0, False, False)),
    "a tuple": (VECTOR, lambda: ((1, 2), 1.0, False, False)),
    "integers": (VECTOR, lambda: (np.array([1, 2]), 1.0, False, False)),
    "bools for floats": (VECTOR, lambda: (np.array([True, False]), 1.0, False, False)),
    "more keys": (PAIR, lambda: ({"a": 1, "b": ONE, "c": "more"}, 1.0, False, False)),
    "a list in a dict": (PAIR, lambda: ({"a": 1, "b": [1.0, 2.0]}, 1.0, False, False)),
    "infinity": (VECTOR, lambda: (np.array([np.inf, -np.inf], np.float32), 1.0, False, False)),
    "a list of bits": (spaces.MultiBinary(2), lambda: ([1, 0], 1.0, False, False)),
    "a bool reward": (VECTOR, lambda: (ONE, True, False, False)),
    "a NumPy bool reward": (VECTOR, lambda: (ONE, np.bool_(True), False, False)),
    "an int flag": (VECTOR, lambda: (ONE, 1.0, 1, 0)),
    "a NumPy int flag": (VECTOR, lambda: (ONE, 1.0, np.int64(0), np.int64(1))),
    "a flag in an array of one": (VECTOR, lambda: (ONE, 1.0, np.array([True]), False)),
}
WRONG: dict[str, Callable[[], Step]] = {
    "another length": lambda: ([1, 2, 3], 1.0, False, False),
    "lists of unequal lengths": lambda: ([[1], [2, 3]], 1.0, False, False),
    "texts": lambda: (["a", "b"], 1.0, False, False),
    "None": lambda: (None, 1.0, False, False),
    "NaN": lambda: ([np.nan, 1], 1.0, False, False),
    "no reward": lambda: (ONE, None, False, False),
    "an infinite reward": lambda: (ONE, np.inf, False, False),
    "two rewards": lambda: (ONE, np.array([1.0, 2.0]), False, False),
    "a flag of 2": lambda: (ONE, 1.0, 2, False),
    "a flag of a text": lambda: (ONE, 1.0, "no", False),
}


class FormEnv(gymnasium.Env[Any, Any]):
    """Gives the same step again and again.

    Args:
        space: of observations.
        give: returns what a step gives.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any], give: Callable[[], Step]) -> None:
        self.observation_space, self._give = space, give

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._give()[0], {}

    def step(self, action: Any) -> Any:
        return *self._give(), {}


class PlainEnv(FormEnv):
    """Resets as it should."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return ONE, {}
