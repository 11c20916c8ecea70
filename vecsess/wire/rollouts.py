"""The memory of a rollout that a worker fills by itself, behind its range of the slab.

One field after the other, each contiguous over the steps, so that the policy acts on rows that lie
side by side and the manager copies a field at once. The final observations come last: there is room
for one a step, of which only what is written takes memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vecsess.wire.slab import LINE, Layout
from vecsess.wire.values import Array, Plain

Shape = tuple[tuple[int, ...], np.dtype[Any]]

_WORD, _FLOAT = np.dtype(np.uint64), np.dtype(np.float64)


@dataclass(frozen=True, slots=True)
class RolloutViews:
    """The fields of one worker's part: `T` steps of `n` environments.

    Attributes:
        observations: `[T + 1, n, *leaf]` per leaf; the first are what is acted on first.
        actions: `[T, n, *leaf]` per leaf, as the policy gave them.
        rewards: `[T, n]` float64.
        flags: `[T, n]` uint16, as in the slab.
        log_probs: `[T, n]` float64, whatever the policy's dtype: that takes any exactly.
        values: `[T, n]` float64, likewise.
        checksums: `[T, n]` uint64, of the slab's rows after each step.
        firsts: `[n, words]` uint64, the slab's row as it was when the last episode began.
        state: `[n, ...]` per array of the policy's state, as it is at the end.
        finals: `[T * n, *leaf]` per leaf, the final observations in the order of their steps.
        final_values: `[T * n]` float64, the policy's values of those.
        last_values: `[n]` float64, its values of the observations after the last step.
    """

    observations: list[Array]
    actions: list[Array]
    rewards: Array
    flags: Array
    log_probs: Array
    values: Array
    checksums: Array
    firsts: Array
    state: list[Array]
    finals: list[Array]
    final_values: Array
    last_values: Array


class RolloutLayout:
    """Where each field lies; both sides compute the same.

    Args:
        layout: of the slab.
        rows: how many environments the worker holds.
        horizon: how many steps.
        state: shape and dtype of one environment's part of each array of the policy's state.
    """

    def __init__(self, layout: Layout, rows: int, horizon: int, state: list[Shape]) -> None:
        seen = [(leaf.shape, leaf.dtype) for leaf in layout.observations]
        done = [(leaf.shape, leaf.dtype) for leaf in layout.actions]
        lead, scalar = (horizon, rows), ((horizon, rows), _FLOAT)
        self._shapes: list[list[Shape]] = [
            [((horizon + 1, rows, *shape), dtype) for shape, dtype in seen],
            [((*lead, *shape), dtype) for shape, dtype in done],
            [scalar, (lead, np.dtype(np.uint16)), scalar, scalar, (lead, _WORD)],
            [((rows, layout.span_bytes // 8), _WORD)],
            [((rows, *shape), dtype) for shape, dtype in state],
            [((horizon * rows, *shape), dtype) for shape, dtype in seen],
            [((horizon * rows,), _FLOAT), ((rows,), _FLOAT)],
        ]
        self._offsets, end = [], 0
        for shape, dtype in (each for group in self._shapes for each in group):
            self._offsets.append(end)
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            end = -(-(end + size) // LINE) * LINE
        self.size_bytes = max(-(-end // mmap.PAGESIZE), 1) * mmap.PAGESIZE

    def views(self, buffer: Plain) -> RolloutViews:
        """Returns the fields in a buffer of `size_bytes`."""
        offsets = iter(self._offsets)
        groups = [list(_arrays(group, offsets, buffer)) for group in self._shapes]
        observations, actions, scalars, firsts, state, finals, ends = groups
        rewards, flags, log_probs, values, checksums = scalars
        return RolloutViews(
            observations,
            actions,
            rewards,
            flags,
            log_probs,
            values,
            checksums,
            firsts[0],
            state,
            finals,
            *ends,
        )


def _arrays(shapes: list[Shape], offsets: Iterator[int], buffer: Plain) -> Iterator[Array]:
    for shape, dtype in shapes:
        offset = next(offsets)
        yield np.ndarray(shape, dtype, buffer, offset) if 0 not in shape else np.empty(shape, dtype)
