"""The state of a generator as five words: of a PCG64, Gymnasium's own; others' stay where they are.

Any five words make a state, so those of a worker can be taken as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from gymnasium import spaces

from vecsess.wire.values import FrameError, Plain, Space

WORDS = 5
_LOW = (1 << 64) - 1


def words_of(generator: np.random.BitGenerator) -> list[int] | None:
    """Returns the words of a PCG64, None for another generator.

    Example:
        >>> len(words_of(np.random.PCG64(0)))
        5
    """
    state: Plain = generator.state
    if type(generator) is not np.random.PCG64:
        return None
    now, increment = state["state"]["state"], state["state"]["inc"]
    spare = state["has_uint32"] | state["uinteger"] << 32
    return [now & _LOW, now >> 64, increment & _LOW, increment >> 64, spare]


def state_from(words: Iterable[Plain]) -> Plain:
    """Returns the state whose words these are, as `BitGenerator.state` takes it."""
    low, high, inc_low, inc_high, spare = (int(word) for word in words)
    return {
        "bit_generator": "PCG64",
        # An even increment, which no PCG64 has, could make every number the same: draws never end.
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low | 1},
        "has_uint32": spare & 1,
        "uinteger": spare >> 32,
    }


def space_generators(space: Space) -> list[list[int] | None]:
    """Returns the state of a space's generator and of each of its parts', None where unseeded."""
    generators: list[Plain] = [part._np_random for part in _parts(space)]  # None until it is seeded
    return [
        None if generator is None else words_of(generator.bit_generator) for generator in generators
    ]


def seed_space(space: Space, states: list[Plain]) -> None:
    """Gives a space's generators the states that `space_generators` told, from untrusted data.

    Raises:
        FrameError: not the states of such a space.
    """
    parts = list(_parts(space))
    if len(parts) != len(states):
        raise FrameError(f"expected the generators of {len(parts)} spaces, got {len(states)}")
    for part, words in zip(parts, states, strict=True):
        if words is None:
            continue
        fits = type(words) is list and len(words) == WORDS
        if not fits or not all(type(word) is int and 0 <= word <= _LOW for word in words):
            raise FrameError(f"expected {WORDS} words of a generator")
        generator = np.random.PCG64()
        generator.state = state_from(words)
        part._np_random = np.random.Generator(generator)


def _parts(space: Space) -> Iterator[Space]:
    """Yields a space and all that it is made of, in an order that its description keeps."""
    yield space
    match space:
        case spaces.Dict():
            below = list(space.spaces.values())
        case spaces.Tuple() | spaces.OneOf():
            below = list(space.spaces)
        case spaces.Sequence():
            below = [space.feature_space]
        case spaces.Graph():
            below = [part for part in (space.node_space, space.edge_space) if part is not None]
        case _:
            below = []
    for part in below:
        yield from _parts(part)
