"""The seeds of episodes that begin by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vecsess.wire.values import Plain

# Takes (seed, env, episode) like `episode_seed`; None lets the environment's stream go on.
EpisodeSeed = Callable[[int, int, int], int | None]


def episode_seed(seed: int, env: int, episode: int) -> int:
    """Returns the seed of an episode, 32 bits: the hash of NumPy's `SeedSequence`.

    Args:
        seed: what the environment was last reset with.
        env: index of the environment.
        episode: counted from that reset, whose own episode is 0.

    Example:
        >>> episode_seed(0, env=3, episode=1) == episode_seed(0, env=3, episode=1)
        True
        >>> episode_seed(0, env=3, episode=1) == episode_seed(0, env=3, episode=2)
        False
    """
    sequence = np.random.SeedSequence(abs(seed), spawn_key=(env, episode))
    return int(sequence.generate_state(1)[0])


def of_part(function: Callable[..., Any], first_env: int, *place: int) -> Plain:
    """Calls a function of `(..., env, episode)` for a session that is a part of a larger one.

    Args:
        function: counts environments in the larger one.
        first_env: the index there of the part's first environment.
        place: the arguments, with the index in the part.

    Example:
        >>> of_part(lambda env, episode: (env, episode), 4, 1, 7)
        (5, 7)
    """
    *before, env, episode = place
    return function(*before, env + first_env, episode)
