"""Environments that a plain server makes by id: `tests.bridge.plain_envs:Name-v0`."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tests.envs import CountingEnv


class LoudEnv(CountingEnv):
    """Prints at every turn, in Python, in C and from a child; and tries to read stdin."""

    def __init__(self) -> None:
        super().__init__()
        self._shout()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._shout()
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self._shout()
        assert sys.stdin.read() == "", "stdin is the protocol's"
        return super().step(action)

    def close(self) -> None:
        self._shout()

    def _shout(self) -> None:
        print("printed", flush=True)  # noqa: T201  # what environments do
        libc = ctypes.CDLL(None)
        libc.puts(b"put")
        libc.fflush(None)
        subprocess.run(["echo", "echoed"], check=True)


class OddEnv(CountingEnv):
    """Gives back what its action says."""

    RESULTS: tuple[Any, ...] = (
        (np.zeros(4, np.float32), 1.0, False, False),
        (np.full(4, np.nan, np.float32), 1.0, False, False),
        (np.zeros(4, np.float32), float("inf"), False, False),
        (np.zeros(4, np.float32), None, False, False),
        (np.zeros(3, np.float32), 1.0, False, False),
        (np.zeros(4, np.float32), 1.0, 1, False),
        (np.zeros(4, np.float32), np.float64(2), np.True_, np.False_),
    )

    def __init__(self) -> None:
        super().__init__(action_space=spaces.Discrete(len(self.RESULTS)))

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return (*self.RESULTS[action], {})


class BytesEnv(gymnasium.Env[Any, Any]):
    """Observations of bytes in two axes, actions that start at 5, an episode of 3 steps."""

    observation_space = spaces.Box(0, 255, (2, 3), np.uint8)
    action_space = spaces.Discrete(3, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.full((2, 3), self.steps, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.steps += 1
        return np.full((2, 3), action, np.uint8), 0, False, self.steps == 3, {}


class TupleEnv(CountingEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])


class ContinuousEnv(CountingEnv):
    def __init__(self) -> None:
        super().__init__(action_space=spaces.Box(-1, 1, (1,)))


for _name in ("LoudEnv", "OddEnv", "BytesEnv", "TupleEnv", "ContinuousEnv"):
    # Bare: Gymnasium's own checkers would notice some faults first.
    gymnasium.register(
        f"{_name}-v0", f"{__name__}:{_name}", disable_env_checker=True, order_enforce=False
    )
