"""A 64-bit checksum of a step: observation, reward, flags, and the final observation if any.

A row's bytes are read as 64-bit words and multiplied with fixed odd random weights, modulo 2^64
(the multilinear family of Carter and Wegman, 1979), so that all rows of a lockstep take one call.
It tells whether a replay reproduced a step; it is no defence against an adversary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vecsess.wire.slab import Views

_FINAL_SALT = np.uint64(0x9E3779B97F4A7C15)


def _weights(count: int, seed: int) -> npt.NDArray[np.uint64]:
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.integers(0, 1 << 64, count, np.uint64) | np.uint64(1)


class Checksum:
    """Checksums of the rows of some views.

    Args:
        views: the fields of the ranges, `[workers, rows, ...]`.
    """

    def __init__(self, views: Views) -> None:
        self._words, self._final_words = views.words, views.final_words
        self._weights = _weights(views.words.shape[-1], 1)
        self._final_weights = _weights(views.final_words.shape[-1], 2)

    def of_all(self) -> npt.NDArray[np.uint64]:
        """Returns `[workers, rows]`, final observations left out."""
        return self._words @ self._weights

    def of_final(self, worker: int, row: int) -> Any:
        """Returns what a final observation adds to its row's checksum."""
        return (self._final_words[worker, row] @ self._final_weights) * _FINAL_SALT

    def of_row(self, worker: int, row: int, *, ended: bool) -> int:
        """Returns the checksum of one row."""
        total = self._words[worker, row] @ self._weights
        if ended:
            with np.errstate(over="ignore"):
                total = total + self.of_final(worker, row)
        return int(total)
