"""The reference system's sampler: splitmix64 over (seed, counter), to repeat its rollouts.

A policy asks for it with `noise_kind = "splitmix64"`. For anything else the default is better: here
all streams of equal `seed + counter` coincide.

The generator is that of Steele, Lea and Flood, "Fast splittable pseudorandom number generators"
(OOPSLA 2014), with the constants of Vigna's splitmix64.c.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecsess.collect.sampling import softmax_parts

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_WORDS = 2**64


def splitmix64(words: ArrayLike) -> NDArray[np.uint64]:
    """Returns the mixed words, uint64, each by itself; all arithmetic is modulo 2**64.

    Example:
        >>> int(splitmix64([0])[0]) == 0xE220A8397B1DCDAF
        True
    """
    mixed = np.atleast_1d(np.asarray(words, dtype=np.uint64)) + _GAMMA
    for shift, factor in _ROUNDS:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def splitmix_noise(
    seed: int, counter: int, envs: ArrayLike, noise_size: int, steps: int
) -> NDArray[np.float64]:
    """Returns `splitmix64(splitmix64(seed + counter) + i) mod 2**32 / 2**32` for each place `i`.

    The place of column `c` of environment `e` is `e * noise_size + c`: so one environment with
    one column gets what the reference draws.

    Args:
        seed: any whole number, modulo 2**64.
        counter: of the first lockstep; the next one's is one more.
        envs: `[rows]` int, the environments that the rows belong to.
        noise_size: columns.
        steps: how many locksteps.

    Returns:
        `[steps, rows, noise_size]` float64 in [0, 1).

    Example:
        >>> splitmix_noise(seed=0, counter=0, envs=[0], noise_size=1, steps=1).round(4).tolist()
        [[[0.3012]]]
    """
    first = np.uint64((seed + counter) % _WORDS)
    keys = splitmix64(np.arange(steps, dtype=np.uint64) + first)
    rows = np.asarray(envs, dtype=np.uint64)[:, None] * np.uint64(noise_size)
    places = rows + np.arange(noise_size, dtype=np.uint64)
    words = splitmix64(keys[:, None, None] + places)
    return (words & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2.0**32


def sample_first_above(logits: ArrayLike, noise: ArrayLike) -> NDArray[np.int64]:
    """Draws one action per row as the reference does: the first whose running sum exceeds `u`.

    The sum is of normalised probabilities, from left to right; where rounding leaves all of it
    at or below `u`, the action is the last.

    Args:
        logits: `[rows, A]`.
        noise: `[rows]` in [0, 1).

    Returns:
        `[rows]` int64.

    Example:
        >>> sample_first_above([[0.0, 0.0], [0.0, 0.0]], [0.4, 0.5]).tolist()
        [0, 1]
    """
    shifted, cumulative = softmax_parts(logits)
    probabilities = np.exp(shifted) / cumulative[..., -1:]
    above = np.add.accumulate(probabilities, axis=-1) > np.asarray(noise)[..., None]
    above[..., -1] = True
    actions: NDArray[np.int64] = above.argmax(axis=-1)
    return actions
