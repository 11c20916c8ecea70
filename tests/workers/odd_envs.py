"""Environments that show odd things, or nothing, beyond what every environment must."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.envs import CountingEnv


class NotOne:
    """What a wrapper of a foreign kind calls its unwrapped environment."""


class UnreadableSpec:
    """Looks like a spec, and writes what nobody can read."""

    id = "Odd-v0"

    def to_json(self) -> str:
        return "{"


class OddEnv(CountingEnv):
    """Shows one odd thing; its own randomness is no `np_random`.

    Args:
        name: of the attribute.
        look: what reading it gives, or raises.
    """

    def __init__(self, name: str, look: Callable[[], Any]) -> None:
        super().__init__(length=3)
        self.__dict__["odd"] = (name, look)
        self.own = np.random.Generator(np.random.PCG64(0))

    def __getattribute__(self, name: str) -> Any:
        odd = super().__getattribute__("__dict__").get("odd")
        return odd[1]() if odd and odd[0] == name else super().__getattribute__(name)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.own = np.random.Generator(np.random.PCG64(seed))
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(0.0), {}

    def _observe(self, action: float) -> Any:
        self.buffer[:] = self.episode, self.steps, action, self.own.random()
        return self.buffer


def fail() -> Any:
    raise RuntimeError("not before the first reset")


class _Rng(np.random.Generator):
    """A generator whose state is of a kind of its own."""

    @property
    def bit_generator(self) -> Any:
        return NotOne()


ODD: dict[str, tuple[str, Callable[[], Any]]] = {
    "a RandomState": ("np_random", lambda: np.random.RandomState(0)),
    "a random.Random": ("np_random", lambda: random.Random(0)),
    "no bit generator": ("np_random", lambda: _Rng(np.random.PCG64(0))),
    "no np_random": ("np_random", lambda: None),
    "another generator": ("np_random", lambda: np.random.Generator(np.random.MT19937(0))),
    "np_random raises": ("np_random", fail),
    "unwrapped is no Env": ("unwrapped", NotOne),
    "unwrapped is None": ("unwrapped", lambda: None),
    "unwrapped raises": ("unwrapped", fail),
    "spec is no spec": ("spec", NotOne),
    "spec can't be read": ("spec", UnreadableSpec),
    "spec raises": ("spec", fail),
    "no metadata": ("metadata", lambda: None),
    "metadata is no dict": ("metadata", lambda: 3),
    "metadata holds objects": ("metadata", lambda: {"a": NotOne(), NotOne(): 2, 4: "b"}),
    "metadata raises": ("metadata", fail),
    "render_mode is no text": ("render_mode", lambda: 3),
    "render_mode raises": ("render_mode", fail),
}
