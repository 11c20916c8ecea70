"""The rows of all workers as one batch: between `[N, ...]` and `[workers, rows, ...]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


class Blocks:
    """Copies between `[N, ...]` and `[workers, rows, ...]`, in one piece, or two where n % workers.

    Args:
        counts: how many environments each worker holds; larger ones come first.
        rows: how many rows there is room for in each worker's range.
    """

    def __init__(self, counts: list[int], rows: int) -> None:
        larger = counts.count(counts[0])
        self._even = larger == len(counts) and counts[0] == rows
        self._split = larger * counts[0]
        self._large = (larger, counts[0])
        self._small = (len(counts) - larger, counts[-1])

    def gather(self, field: Array, out: Array) -> None:
        """Copies `field [workers, rows, ...]` into `out [N, ...]`."""
        if self._even:
            out.reshape(field.shape)[...] = field
            return
        for part, target in self._pieces(field, out):
            target[...] = part

    def scatter(self, batch: Array, field: Array) -> None:
        """Copies `batch [N, ...]` into `field [workers, rows, ...]`."""
        if self._even:
            field[...] = batch.reshape(field.shape)
            return
        for part, source in self._pieces(field, batch):
            part[...] = source

    def _pieces(self, field: Array, flat: Array) -> Iterator[tuple[Array, Array]]:
        """Yields the larger workers' part of both, then that of the others."""
        shape = field.shape[2:]
        (larger, most), (_, rows) = self._large, self._small
        yield field[:larger, :most], flat[: self._split].reshape(self._large + shape)
        yield field[larger:, :rows], flat[self._split :].reshape(self._small + shape)
