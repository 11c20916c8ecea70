"""The seeds of episodes that begin by themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
