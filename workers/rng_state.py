"""An environment's `np_random` as six words in the slab, so that an episode can begin again.

A flag, then PCG64's state and increment, each with its low half first, then its spare 32 bits.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from vecsess.workers.env_source import Env

Words = npt.NDArray[np.uint64]
_LOW = (1 << 64) - 1


class RngRecord:
    """Where the state of one environment's generator is kept.

    Args:
        words: `[6]`, of the slab.
    """

    def __init__(self, words: Words) -> None:
        self._words: Any = words.data
        self._generator: Any = None
        self._source: Any = None

    def save(self, env: Env) -> None:
        """Writes the state; leaves 0 as the flag where it is no PCG64, Gymnasium's own."""
        generator = env.unwrapped.np_random.bit_generator
        if generator is not self._generator:
            self._generator, self._source = generator, _memory_of(generator)
        words = self._words
        if self._source is not None:
            words[1:5], words[5] = self._source[0], self._source[1].value
            words[0] = 1
            return
        known = _words_of(generator)
        words[0] = 0
        if known is not None:
            for index, word in enumerate(known, 1):
                words[index] = word
            words[0] = 1


def load_rng(env: Env, words: Words) -> None:
    """Puts the state back that `RngRecord.save` wrote."""
    low, high, inc_low, inc_high, spare = (int(word) for word in words[1:])
    env.unwrapped.np_random.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": spare & 0xFFFFFFFF,
        "uinteger": spare >> 32,
    }


def _words_of(generator: Any) -> list[int] | None:
    """Returns the five words of a PCG64, None for another generator."""
    state = generator.state
    if state["bit_generator"] != "PCG64":
        return None
    now, increment = state["state"]["state"], state["state"]["inc"]
    spare = state["has_uint32"] | state["uinteger"] << 32
    return [now & _LOW, now >> 64, increment & _LOW, increment >> 64, spare]


def _memory_of(generator: Any) -> tuple[memoryview, Any] | None:
    """Returns the four words and the spare one where NumPy keeps them, None where that is not so.

    `state` builds dicts of Python integers: 2 us at each episode's start, five times what it
    takes to copy these words. How NumPy lays them out is its own affair, so they are compared.
    """
    known = _words_of(generator)
    if known is None:
        return None
    address = generator.ctypes.state_address
    where = ctypes.c_uint64.from_address(address).value
    words = memoryview((ctypes.c_uint64 * 4).from_address(where)).cast("B").cast("L")
    spare = ctypes.c_uint64.from_address(address + ctypes.sizeof(ctypes.c_void_p))
    return (words, spare) if [*words, spare.value] == known else None
