"""An environment's `np_random` as six words in the slab, so that an episode can begin again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vecsess.workers.env_source import Env

Words = npt.NDArray[np.uint64]
_LOW = (1 << 64) - 1


def save_rng(env: Env, words: Words) -> None:
    """Writes the state into `words [6]`; leaves 0 there where it is no PCG64, Gymnasium's own."""
    words[0] = 0
    state: Any = env.unwrapped.np_random.bit_generator.state
    if state["bit_generator"] == "PCG64":
        high_low = [part for x in state["state"].values() for part in (x >> 64, x & _LOW)]
        spare = state["has_uint32"] << 32 | state["uinteger"]
        words[1:] = [*high_low, spare]
        words[0] = 1


def load_rng(env: Env, words: Words) -> None:
    """Puts the state back that `save_rng` wrote."""
    high, low, inc_high, inc_low, spare = (int(word) for word in words[1:])
    env.unwrapped.np_random.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": spare >> 32,
        "uinteger": spare & 0xFFFFFFFF,
    }
