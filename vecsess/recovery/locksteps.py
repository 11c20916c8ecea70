"""What was sent in each lockstep, and the checksums of what came of it; bounded in bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vecsess.recovery.accounts import join_pieces
from vecsess.wire.slab import Layout
from vecsess.wire.values import Array, Plain

CHUNK_STEPS = 256


@dataclass(slots=True)
class _Chunk:
    """The actions and checksums of `CHUNK_STEPS` locksteps."""

    actions: list[Array]  # [CHUNK_STEPS, N, *leaf] per leaf
    checksums: Array  # [CHUNK_STEPS, workers, rows] uint64

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for array in self.actions) + self.checksums.nbytes

    @property
    def piped_bytes(self) -> int:
        return sum(_sizes(array) for array in self.actions if array.dtype == object)


class Locksteps:
    """The locksteps of a session, in chunks; the oldest give way.

    Args:
        layout: of a worker's range.
        n: how many environments.
        grid: workers, and rows of each.
        limit_bytes: past it the oldest locksteps are forgotten.
        beside: returns how many of these bytes are taken by something else.
        under_way: returns the first lockstep that some worker has not completed: from there on
            nothing is forgotten.
    """

    def __init__(
        self,
        layout: Layout,
        n: int,
        grid: tuple[int, int],
        limit_bytes: int,
        beside: Callable[[], int],
        under_way: Callable[[], int],
    ) -> None:
        self._layout, self._n, self._grid = layout, n, grid
        self._limit_bytes, self._beside, self._under_way = limit_bytes, beside, under_way
        self._chunks: dict[int, _Chunk] = {}  # by t // CHUNK_STEPS
        self._piped_bytes = 0  # of actions that go by pipe: no array knows their size

    @property
    def size_bytes(self) -> int:
        """What the chunks take, without the texts of actions that go by pipe."""
        return sum(chunk.size_bytes for chunk in self._chunks.values())

    # --- writing ---------------------------------------------------------------------------------

    def note(self, t: int, envs: slice, actions: list[Array]) -> None:
        """Notes actions, `[n, *leaf]` per leaf."""
        chunk = self._chunks.get(t // CHUNK_STEPS) or self._new_chunk(t // CHUNK_STEPS)
        place = t % CHUNK_STEPS
        for column, batch in zip(chunk.actions, actions, strict=True):
            self._put(column, (place, envs), batch)

    def checksums(self, t: int) -> Array:
        """Returns where those of lockstep `t` lie, `[workers, rows]` uint64."""
        found: Array = self._chunks[t // CHUNK_STEPS].checksums[t % CHUNK_STEPS]
        return found

    def add(
        self,
        begin: int,
        worker: int,
        envs: slice,
        actions: list[Array],
        checksums: Array,
    ) -> None:
        """Takes many steps of one worker, from lockstep `begin` on: `[T, n, ...]`."""
        end, rows = begin + len(checksums), envs.stop - envs.start
        for index in range(begin // CHUNK_STEPS, (end - 1) // CHUNK_STEPS + 1):
            at = index * CHUNK_STEPS
            chunk = self._chunks.get(index) or self._new_chunk(index)
            source = slice(max(at - begin, 0), min(at + CHUNK_STEPS, end) - begin)
            target = slice(max(begin - at, 0), min(end - at, CHUNK_STEPS))
            for column, batch in zip(chunk.actions, actions, strict=True):
                self._put(column, (target, envs), batch[source])
            chunk.checksums[target, worker, :rows] = checksums[source]

    def _put(self, column: Array, place: tuple[int | slice, slice], batch: Array) -> None:
        """Writes actions; what goes by pipe takes its own size, and the oldest of it gives way."""
        if column.dtype != object:
            column[place] = batch
            return
        self._piped_bytes -= _sizes(column[place])
        column[place] = batch
        self._piped_bytes += _sizes(column[place])
        if self._piped_bytes > self._limit_bytes:
            self._forget_piped(self._under_way())

    # --- reading ---------------------------------------------------------------------------------

    def action(self, t: int, env: int) -> list[Array]:
        """Returns what an environment was sent in lockstep `t`, per leaf."""
        return [column[t % CHUNK_STEPS, env] for column in self._chunks[t // CHUNK_STEPS].actions]

    def holds(self, t: int, env: int) -> bool:
        """Whether what an environment was sent in lockstep `t` is still known."""
        chunk = self._chunks.get(t // CHUNK_STEPS)
        place = t % CHUNK_STEPS, env
        return chunk is not None and all(
            bool(column[place]) for column in chunk.actions if column.dtype == object
        )

    def between(
        self, begin: int, end: int, env: int, place: tuple[int, int]
    ) -> tuple[list[Plain], list[int]]:
        """Returns an environment's actions and checksums from one lockstep to another."""
        pieces: list[list[Array]] = []
        checksums: list[int] = []
        for index in range(begin // CHUNK_STEPS, (end - 1) // CHUNK_STEPS + 1):
            low = max(begin - index * CHUNK_STEPS, 0)
            high = min(end - index * CHUNK_STEPS, CHUNK_STEPS)
            chunk = self._chunks[index]
            pieces.append([column[low:high, env] for column in chunk.actions])
            checksums += chunk.checksums[low:high, *place].tolist()
        return join_pieces(pieces), checksums

    # --- plain data ------------------------------------------------------------------------------

    def dump(self, workers: Array, rows: Array) -> list[Plain]:
        """Returns all of it as plain data; see `Journal.dump`."""
        return [
            # What goes by pipe is msgpack already, in an array of objects.
            [
                index,
                [each.tolist() if each.dtype == object else each for each in chunk.actions],
                chunk.checksums[:, workers, rows],
            ]
            for index, chunk in self._chunks.items()
        ]

    def load(self, plain: list[Plain], workers: Array, rows: Array) -> None:
        """Takes what `dump` returned as its own.

        Raises:
            ValueError: it holds actions of another shape.
        """
        self.clear()
        lead = (CHUNK_STEPS, self._n)
        for index, actions, checksums in plain:
            arrays = [np.array(e, object) if isinstance(e, list) else e for e in actions]
            if [array.shape for array in arrays] != [
                (*lead, *leaf.shape) for leaf in self._layout.actions
            ]:
                raise ValueError(f"expected actions of {lead} steps and environments in the log")
            chunk = self._chunks[index] = _Chunk(arrays, self._no_checksums())
            chunk.checksums[:, workers, rows] = checksums
            self._piped_bytes += chunk.piped_bytes

    # --- bounds ----------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forgets all."""
        self._chunks.clear()
        self._piped_bytes = 0

    def forget_before(self, t: int) -> None:
        """Drops the chunks that lie before lockstep `t` as a whole."""
        for index in [index for index in self._chunks if (index + 1) * CHUNK_STEPS <= t]:
            self._drop(index)

    def _new_chunk(self, index: int) -> _Chunk:
        lead = (CHUNK_STEPS, self._n)
        actions = [np.zeros((*lead, *leaf.shape), leaf.dtype) for leaf in self._layout.actions]
        chunk = self._chunks[index] = _Chunk(actions, self._no_checksums())
        rest = self._beside()
        while len(self._chunks) > 2 and (
            len(self._chunks) * chunk.size_bytes + self._piped_bytes + rest > self._limit_bytes
        ):
            self._drop(min(self._chunks))
        return chunk

    def _no_checksums(self) -> Array:
        return np.zeros((CHUNK_STEPS, *self._grid), np.uint64)

    def _drop(self, index: int) -> None:
        self._piped_bytes -= self._chunks.pop(index).piped_bytes

    def _forget_piped(self, under_way: int) -> None:
        """Forgets the oldest actions by pipe, but none of a lockstep under way."""
        for index in sorted(self._chunks):
            if self._piped_bytes > self._limit_bytes // 2:  # half: seldom, not each time
                self._forget_until(index, under_way - index * CHUNK_STEPS)

    def _forget_until(self, index: int, end: int) -> None:
        if end >= CHUNK_STEPS:
            self._drop(index)
            return
        for column in self._chunks[index].actions:
            if column.dtype == object and end > 0:
                self._piped_bytes -= _sizes(column[:end])
                column[:end] = b""


def _sizes(actions: Array) -> int:
    """Returns how much memory actions by pipe take; what is not there, or forgotten, none."""
    return sum(sys.getsizeof(each) for each in actions.flat if each)
