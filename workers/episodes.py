"""With which seed and options an episode begins that nobody asked for: an auto-reset's."""

from __future__ import annotations

import ctypes
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import BitGenerator

from vecsess.wire.episode_seeds import EpisodeSeed, episode_seed
from vecsess.wire.generators import state_from, words_of
from vecsess.wire.values import Env, Fields, Given
from vecsess.workers.particulars import shown

Options = Fields | None


class Episodes:
    """Counts the episodes of a worker's environments, and says how each begins.

    All of it follows from the last reset that was asked for, so that a replay gets the same.

    Args:
        rows: how many environments.
        first_env: index of the first row's environment.
        seeds: "continue", "per_episode", or a pickle of a function `(seed, env, episode)`.
        options: a pickle of a function `(env, episode)`, of a dict, or empty for none.
    """

    def __init__(
        self,
        rows: int,
        first_env: int = 0,
        seeds: str | bytes = "continue",
        options: bytes = b"",
    ) -> None:
        self._first_env = first_env
        self._seed_of: EpisodeSeed | None = None
        if isinstance(seeds, bytes):
            self._seed_of = pickle.loads(seeds)  # noqa: S301  # from the manager
        elif seeds == "per_episode":
            self._seed_of = episode_seed
        self._options: Given = pickle.loads(options) if options else None  # noqa: S301
        self._seeds: list[int | None] = [None] * rows
        self._numbers = [0] * rows

    def asked(self, row: int, seed: int | None, options: bytes) -> tuple[int | None, Options]:
        """Begins an episode that was asked for; returns its seed and options.

        Args:
            row: which environment.
            seed: what the manager says; the seeds of the next episodes follow from it.
            options: a pickle, empty where none were given: then those of the session count.
        """
        self._seeds[row], self._numbers[row] = seed, 0
        return seed, pickle.loads(options) if options else self._options_of(row)  # noqa: S301

    def next(self, row: int) -> tuple[int | None, Options]:
        """Begins an episode that nobody asked for; returns its seed and options."""
        self._numbers[row] += 1
        seed = self._seeds[row]
        if self._seed_of is not None and seed is not None:
            seed = self._seed_of(seed, self._first_env + row, self._numbers[row])
        else:
            seed = None
        return seed, self._options_of(row)

    def go_to(self, row: int, number: int, seed: int | None) -> None:
        """Sets the count so that `next` begins episode `number` after a reset with `seed`."""
        self._seeds[row], self._numbers[row] = seed, number - 1

    def _options_of(self, row: int) -> Options:
        if callable(self._options):
            return self._options(self._first_env + row, self._numbers[row])  # type: ignore[no-any-return]
        return None if self._options is None else dict(self._options)


Words = npt.NDArray[np.uint64]


class RngRecord:
    """Where the state of one environment's generator is kept.

    Args:
        words: `[6]`, of the slab.
    """

    def __init__(self, words: Words) -> None:
        self._words: Given = words.data
        self._generator: Given = None
        self._source: Given = None

    def save(self, env: Env) -> None:
        """Writes the state; leaves 0 as the flag where it is no PCG64, Gymnasium's own."""
        generator = shown(lambda: env.unwrapped.np_random.bit_generator, BitGenerator, None)
        if generator is None:
            self._words[0] = 0
            return
        if generator is not self._generator:
            self._generator, self._source = generator, _memory_of(generator)
        words = self._words
        if self._source is not None:
            words[1:5], words[5] = self._source[0], self._source[1].value
            words[0] = 1
            return
        known = words_of(generator)
        words[0] = 0
        if known is not None:
            for index, word in enumerate(known, 1):
                words[index] = word
            words[0] = 1


def load_rng(env: Env, words: Words) -> None:
    """Puts the state back that `RngRecord.save` wrote."""
    env.unwrapped.np_random.bit_generator.state = state_from(words[1:])


def _memory_of(generator: Given) -> tuple[memoryview, Any] | None:
    """Returns the four words and the spare one where NumPy keeps them, None where that is not so.

    `state` builds dicts of Python integers: 2 us at each episode's start, five times what it
    takes to copy these words. How NumPy lays them out is its own affair, so they are compared.
    """
    known = words_of(generator)
    if known is None:
        return None
    address = generator.ctypes.state_address
    where = ctypes.c_uint64.from_address(address).value
    words = memoryview((ctypes.c_uint64 * 4).from_address(where)).cast("B").cast("L")
    spare = ctypes.c_uint64.from_address(address + ctypes.sizeof(ctypes.c_void_p))
    return (words, spare) if [*words, spare.value] == known else None
