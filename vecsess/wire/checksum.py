"""A 64-bit checksum of a step: observation, reward and flags.

A row's bytes are read as 64-bit words and multiplied with fixed odd random weights, modulo 2^64
(the multilinear family of Carter and Wegman, 1979), so that all rows of a lockstep take one call.
It tells whether a replay reproduced a step; it is no defence against an adversary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vecsess.wire.slab import Views


def _weights(count: int, seed: int) -> npt.NDArray[np.uint64]:
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.integers(0, 1 << 64, count, np.uint64) | np.uint64(1)


class Checksum:
    """Checksums of the rows of some views.

    Args:
        views: the fields of the ranges, `[workers, rows, ...]`.
    """

    def __init__(self, views: Views) -> None:
        self._words = views.words
        self._weights = _weights(views.words.shape[-1], 1)

    def of_all(self, out: npt.NDArray[np.uint64]) -> None:
        """Writes the checksums of all rows into `out [workers, rows]`."""
        np.matmul(self._words, self._weights, out=out)

    def of_some(self, own: slice, out: npt.NDArray[np.uint64]) -> None:
        """Writes the checksums of some workers' rows into `out [n, rows]`."""
        np.matmul(self._words[own], self._weights, out=out)

    def of_row(self, worker: int, row: int) -> int:
        """Returns the checksum of one row."""
        return int(self._words[worker, row] @ self._weights)

    def of_first(self, words: npt.NDArray[np.uint64]) -> int:
        """Returns the checksum of a row, given as `[words]`, as if reward and flags were 0.

        That is what a row's checksum is after a reset.
        """
        return int(words[:-2] @ self._weights[:-2])  # the last two are reward and flags
