"""The seeds of environments."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Sequence

import numpy as np

from vecsess.wire.episode_seeds import EpisodeSeed

Seed = int | Sequence[int | None] | None


def spread(seed: Seed, n: int) -> list[int | None]:
    """Returns a seed for each environment, as Gymnasium's vector environments do.

    Args:
        seed: an int gives environment i the seed `seed + i`; a sequence one each; None none.
        n: how many environments.

    Raises:
        ValueError: too few, or too many.
        TypeError: not integers.

    Example:
        >>> spread(7, 3)
        [7, 8, 9]
    """
    if seed is None:
        return [None] * n
    if isinstance(seed, int | np.integer):
        return [int(seed) + env for env in range(n)]
    if len(seed) != n:
        raise ValueError(
            f"If seeds are passed as a list the length must match num_envs={n} but got "
            f"length={len(seed)}."
        )
    return [None if part is None else operator.index(part) for part in seed]


class SeedChain:
    """The seeds of resets, where each episode has one of its own.

    A reset with a seed begins a chain, from which the workers derive the seeds of the episodes
    that follow; a reset without one takes the seed that the next episode would have had.

    Args:
        seed_of: derives an episode's seed.
        n: how many environments.
    """

    def __init__(self, seed_of: EpisodeSeed, n: int) -> None:
        self._seed_of = seed_of
        self._seeds: list[int | None] = [None] * n

    def asked(
        self, envs: list[int], seeds: list[int | None], episodes: list[int]
    ) -> list[int | None]:
        """Returns the seeds to reset with.

        Args:
            envs: which environments are reset.
            seeds: what the trainer said, for every environment.
            episodes: `[N]`, how many each has finished since its last reset.
        """
        chosen = seeds.copy()
        for env in envs:
            last = self._seeds[env]
            if chosen[env] is None:
                chosen[env] = (
                    secrets.randbits(32)
                    if last is None
                    else self._seed_of(last, env, episodes[env] + 1)
                )
            self._seeds[env] = chosen[env]
        return chosen
