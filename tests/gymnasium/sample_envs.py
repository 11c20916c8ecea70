"""Environments whose observations are samples of any space, for workers to import."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Result = tuple[Any, float, bool, bool, dict[str, Any]]


class SampleEnv(gymnasium.Env[Any, Any]):
    """Gives samples of its observation space, and tells in its info which action it got.

    Args:
        observation_space: any.
        action_space: any.
        length: an episode is truncated after this many steps.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any] | None = None,
        length: int = 3,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)
        self.length, self.steps = length, 0
        self._source = deepcopy(observation_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._source.seed(seed)
        self.steps = 0
        return self._source.sample(), {"options": str(options)}

    def step(self, action: Any) -> Result:
        self.steps += 1
        told = {"action": told_of(action)}
        return self._source.sample(), 0.5, False, self.steps >= self.length, told


def told_of(value: Any) -> str:
    """Returns a text that two equal values share, types included."""
    if isinstance(value, dict):
        return str({key: told_of(value[key]) for key in sorted(value)})
    if isinstance(value, tuple):
        return f"{type(value).__name__}{[told_of(part) for part in value]}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tolist()}"
    return f"{type(value).__name__}:{value}"


class NamedSpace(spaces.Space[Any]):
    """A space of a class of its own, with plain attributes: names of one length.

    Args:
        length: of each name.
    """

    def __init__(self, length: int = 3) -> None:
        super().__init__()
        self.length = length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "".join(self.np_random.choice(list("abcd"), self.length))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) == self.length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedSpace) and other.length == self.length

    def __hash__(self) -> int:
        return hash(self.length)


class FunctionSpace(NamedSpace):
    """One that holds a function, which can't come back as plain data."""

    def __init__(self, length: int = 3) -> None:
        super().__init__(length)
        self.function = lambda: "a"


class OpaqueSpace(NamedSpace):
    """One whose values are no plain data."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return object()
