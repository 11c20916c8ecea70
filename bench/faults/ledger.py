"""An environment in whose observations a lost, repeated, torn or mixed-up row can't hide.

What lives here is imported by workers: nothing but gymnasium and numpy.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Row = NDArray[np.int64]

WORDS = 64
ENV, EPISODE, STEP, HASH, DRAWN, HEAD = range(6)
ACTIONS = 1000
_LIMITS = np.iinfo(np.int64)
_MASK = (1 << 62) - 1
_TAIL = np.arange(1, WORDS - HEAD + 1, dtype=np.int64) * 0x9E3779B1


class LedgerEnv(gymnasium.Env[Row, np.int64]):
    """Observes `[env, episode, step, hash of the episode's actions, a random number, ...]`.

    The other words all follow from these, so that a row put together from two is seen. Episodes
    have random lengths, and the number of an episode is drawn, or counted.

    Args:
        index: which environment this is.
        counted: number episodes from 0. That is state which outlives an episode, so a replay has
            to begin at the seeded reset.
        longest: no episode has more steps.
        on_step: called before each step, with its action.
    """

    def __init__(
        self,
        index: int,
        *,
        counted: bool = False,
        longest: int = 40,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.observation_space = spaces.Box(_LIMITS.min, _LIMITS.max, (WORDS,), np.int64)
        self.action_space = spaces.Discrete(ACTIONS)
        self._index, self._counted, self._longest = index, counted, longest
        self._on_step = on_step
        self._episodes = -1
        self._row = np.zeros(WORDS, np.int64)  # given out again and again, as many do

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Row, dict[str, Any]]:
        """Begins an episode of a length of its own."""
        super().reset(seed=seed, options=options)
        self._episodes = 0 if seed is not None else self._episodes + 1
        self._episode = self._episodes if self._counted else int(self.np_random.integers(_MASK))
        self._length = int(self.np_random.integers(1, self._longest + 1))
        self._steps, self._hash = 0, 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        """Adds the action to the hash; the reward tells of it, too."""
        if self._on_step is not None:
            self._on_step(int(action))
        self._steps += 1
        self._hash = (self._hash * 1_000_003 + int(action) + 1) & _MASK
        ended = self._steps >= self._length
        terminated = ended and self._length % 2 == 0
        reward = float(self._hash % 1009)
        return self._observe(), reward, terminated, ended and not terminated, {}

    def _observe(self) -> Row:
        row = self._row
        drawn = int(self.np_random.integers(_MASK))
        row[:HEAD] = self._index, self._episode, self._steps, self._hash, drawn
        row[HEAD:] = _tail(row)
        return row


def _tail(row: Row) -> Row:
    """Returns the words that follow from the first five; they wrap around."""
    mixed = np.bitwise_xor.reduce(row[:HEAD] * np.array([3, 5, 7, 11, 13], np.int64))
    words: Row = _TAIL * (mixed | 1)
    return words


class Verdict(enum.Enum):
    """What is wrong with a row."""

    LOST = "lost"
    REPEATED = "repeated"
    TORN = "torn"
    MIXED_UP = "mixed up"
    OTHER = "different"


def judge(got: Row, expected: Row) -> Verdict:
    """Says what is wrong with a ledger's row that is not the expected one."""
    if not np.array_equal(got[HEAD:], _tail(got)):
        return Verdict.TORN
    if got[ENV] != expected[ENV]:
        return Verdict.MIXED_UP
    if got[EPISODE] == expected[EPISODE] and got[STEP] != expected[STEP]:
        return Verdict.LOST if got[STEP] > expected[STEP] else Verdict.REPEATED
    if got[EPISODE] == expected[EPISODE] and got[HASH] != expected[HASH]:
        return Verdict.MIXED_UP  # another's action, or the same twice
    return Verdict.OTHER


class Once:
    """Does something in the first step with a certain action, and never again, in any process.

    Args:
        action: which one.
        act: what to do.
        mark: a file that says when it was done, on the monotonic clock; made before.
    """

    def __init__(self, action: int, act: Callable[[], None], mark: Path) -> None:
        self._action, self._act, self._mark = action, act, mark

    def __call__(self, action: int) -> None:
        """Looks at an action."""
        if action != self._action:
            return
        try:
            fd = os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.write(fd, repr(time.monotonic()).encode())
        os.close(fd)
        self._act()
