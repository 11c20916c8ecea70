"""The shared memory: one sealed memfd per worker and generation, and the layout of its rows.

A worker's range begins with a header of hints, each on a cache line of its own, then come four
blocks of rows. What a step gives is one record, so that one checksum covers it, and records lie
close together, so that both sides touch few cache lines; what only an episode's end needs lies
apart from it:

    [ observation | reward | flags ] ...      `words`: what a checksum sees
    [ final observation ] ...
    [ RNG state ] ...
    [ action ] ...
    [ info | final info ] ...         what of infos has a place, behind their numbers

What goes by pipe, having no fixed shape, has a digest of 8 bytes in its row, for the checksum.

The manager maps all ranges side by side into one reservation, so a field is one strided array
`[workers, rows, *shape]` over all of them. Hints only save time: what counts came by pipe.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vecsess.wire.columns import INFO_BYTES
from vecsess.wire.leaves import Leaf, all_leaves_of
from vecsess.wire.values import Array, Fields, Plain, Space

_Block: TypeAlias = Callable[[int, tuple[int, ...], np.dtype[Any]], Array]

LINE = 64
COMMAND, REPLY, RUNNING, REPLAYED, TOLD = range(5)  # the header's words, a cache line each
HEADER_BYTES = 5 * LINE + 64 * 8  # the words, then the histogram of step times
RNG_WORDS = 6  # a flag, then PCG64's state, its increment and its spare 32 bits

REWARD_WORD = -2  # of a row's words: the last two are reward and flags

_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEALS = 0x1 | 0x2  # seal, shrink; it grows where a rollout needs memory behind the range
_MAP_FIXED = 0x10


def _aligned(offset: int, to: int = 8) -> int:
    return -(-offset // to) * to


@dataclass(frozen=True, slots=True)
class Views:
    """The fields of some ranges, each `[workers, rows, *shape]`, hints `[workers]`."""

    command: Array  # uint64: the number of the last command sent
    reply: Array  # uint64: the number of the last command answered
    running: Array  # int64: which environment is being called, as `EnvHost` writes it
    replayed: Array  # uint64: how many commands of its last replay are done
    told: Array  # uint64: the number of the command whose infos lie in the rows
    histogram: Array  # [workers, 64] uint64: locksteps by log2 of their nanoseconds
    observations: list[Array]
    rewards: Array  # float64
    terminated: Array  # uint8, not bool: whatever a worker writes there is still a valid byte
    truncated: Array
    flags: Array  # uint16: `terminated` and `truncated`, which lie side by side, at one look
    finals: list[Array]
    rng: Array  # [workers, rows, RNG_WORDS] uint64
    words: Array  # uint64: observation, reward and flags, for the checksum
    written: list[Array]  # `observations`, but the digests of those that go by pipe
    written_finals: list[Array]
    actions: list[Array]
    info_numbers: Array  # [workers, rows, 2] uint64: an info's and a final info's schema
    infos: Array  # [workers, rows, 2, INFO_BYTES] uint8

    def of_workers(self, own: slice) -> Views:
        """Returns the same fields of only these workers."""
        cut: Fields = {}
        for part in fields(self):
            value = getattr(self, part.name)
            one = isinstance(value, np.ndarray)
            cut[part.name] = value[own] if one else [array[own] for array in value]
        return Views(**cut)


class Layout:
    """Where each field of a worker's range lies; both sides compute the same one.

    Args:
        observation_space: the space of one environment's observation.
        action_space: the space of one environment's action.
        rows: how many environments the largest worker holds.
    """

    def __init__(self, observation_space: Space, action_space: Space, rows: int) -> None:
        self.rows = rows
        self.observation_space = observation_space
        self.observations = list(all_leaves_of(observation_space))
        self.actions = list(all_leaves_of(action_space))
        self._observation_offsets, end = _place(self.observations, 0)
        self._reward = _aligned(end)
        self._flags = self._reward + 8
        self.span_bytes = _aligned(self._flags + 2)  # a checksum covers this much
        self._final_offsets, final_bytes = _place(self.observations, 0)
        self._action_offsets, self.action_bytes = _place(self.actions, 0)
        self._final_bytes = _aligned(final_bytes)
        self._finals = HEADER_BYTES + _aligned(rows * self.span_bytes, LINE)
        self._rng = self._finals + _aligned(rows * self._final_bytes, LINE)
        self._actions = self._rng + _aligned(rows * RNG_WORDS * 8, LINE)
        end = self._actions + rows * _aligned(self.action_bytes)
        self._info_numbers = _aligned(end, LINE)
        self._infos = self._info_numbers + _aligned(rows * 16, LINE)
        end = self._infos + rows * 2 * INFO_BYTES
        self.stride_bytes = _aligned(end, mmap.PAGESIZE)

    def views(self, buffer: Plain, workers: int = 1) -> Views:
        """Returns the fields of `workers` ranges that lie side by side in `buffer`."""
        word, byte = np.dtype(np.uint64), np.dtype(np.uint8)
        view = _View(buffer, workers, self.stride_bytes)

        def block(base: int, row_bytes: int) -> _Block:
            return partial(view.field, base, (self.rows, row_bytes))

        def leaves(field: _Block, offsets: list[int]) -> list[Array]:
            pairs = zip(offsets, self.observations, strict=True)
            return [
                field(offset, leaf.shape, word if leaf.piped else leaf.dtype)
                for offset, leaf in pairs
            ]

        def read(written: list[Array]) -> list[Array]:
            pairs = zip(written, self.observations, strict=True)
            return [np.empty(array.shape, object) if leaf.piped else array for array, leaf in pairs]

        row = block(HEADER_BYTES, self.span_bytes)
        action = block(self._actions, _aligned(self.action_bytes))
        written = leaves(row, self._observation_offsets)
        finals = leaves(block(self._finals, self._final_bytes), self._final_offsets)
        return Views(
            command=view.hint(COMMAND, word),
            reply=view.hint(REPLY, word),
            running=view.hint(RUNNING, np.dtype(np.int64)),
            replayed=view.hint(REPLAYED, word),
            told=view.hint(TOLD, word),
            histogram=view.field(5 * LINE, (64, 8), 0, (), word),
            observations=read(written),
            rewards=row(self._reward, (), np.dtype(np.float64)),
            terminated=row(self._flags, (), byte),
            truncated=row(self._flags + 1, (), byte),
            flags=row(self._flags, (), np.dtype(np.uint16)),
            finals=read(finals),
            rng=block(self._rng, RNG_WORDS * 8)(0, (RNG_WORDS,), word),
            words=row(0, (self.span_bytes // 8,), word),
            written=written,
            written_finals=finals,
            actions=[
                action(offset, leaf.shape, leaf.dtype)
                if not leaf.piped
                else np.empty((workers, self.rows), object)
                for offset, leaf in zip(self._action_offsets, self.actions, strict=True)
            ],
            info_numbers=block(self._info_numbers, 16)(0, (2,), word),
            infos=block(self._infos, 2 * INFO_BYTES)(0, (2, INFO_BYTES), byte),
        )


def _place(leaves: list[Leaf], start: int) -> tuple[list[int], int]:
    """Returns each leaf's offset, aligned for its dtype, and where the last one ends."""
    offsets, end = [], start
    for leaf in leaves:
        offset = _aligned(end, leaf.dtype.alignment)
        offsets.append(offset)
        end = offset + leaf.size_bytes
    return offsets, end


@dataclass(frozen=True, slots=True)
class _View:
    """Cuts strided arrays out of a buffer."""

    buffer: Plain
    workers: int
    stride_bytes: int

    def hint(self, line: int, dtype: np.dtype[Any]) -> Array:
        strides = (self.stride_bytes,)
        return np.ndarray((self.workers,), dtype, self.buffer, line * LINE, strides)

    def field(
        self,
        base: int,
        rows: tuple[int, int],
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> Array:
        """Returns `[workers, rows, *shape]`.

        Args:
            base: where the block of rows begins.
            rows: how many, and the bytes from one to the next.
            offset: of the field in its row.
            shape: of one row's value.
            dtype: of its numbers.
        """
        count, row_bytes = rows
        if 0 in shape:  # it takes no bytes, and lies perhaps where the buffer ends
            return np.empty((self.workers, count, *shape), dtype)
        inner = np.empty(shape, dtype).strides
        strides = (self.stride_bytes, row_bytes, *inner)
        return np.ndarray((self.workers, count, *shape), dtype, self.buffer, base + offset, strides)


# --- memory --------------------------------------------------------------------------------------


def create_memfd(name: str) -> int:
    """Returns a memfd of size 0 that can be sealed: no name on disk, freed with its last user."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal(fd: int, size: int) -> None:
    """Gives the memfd its final size; a worker that cut it would kill the manager by SIGBUS.

    Raises:
        ValueError: somebody else changed the size or sealed it first.
    """
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
    except PermissionError as error:
        raise ValueError("the worker sealed its shared memory before it was asked to") from error
    if os.fstat(fd).st_size != size or fcntl.fcntl(fd, _GET_SEALS) != _SEALS:
        raise ValueError("the worker changed its shared memory while it started")


class Slab:
    """The manager's map of all ranges, side by side; also the worker-less one of `workers=0`.

    The reservation is freed when the last array into it is gone, so that a view which outlives
    the session reads old bytes instead of ending the process.
    """

    def __init__(self, layout: Layout, workers: int) -> None:
        size = layout.stride_bytes * workers
        self._reservation = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._stride_bytes = layout.stride_bytes
        self.views = layout.views(self._reservation, workers)

    def attach(self, worker: int, fd: int) -> None:
        """Maps a worker's memfd over its range, or with -1 memory that nobody else has."""
        begin, size = worker * self._stride_bytes, self._stride_bytes
        _lay_over(self._reservation, begin, size, fd, 0)
        self.views.running[worker] = -1  # none yet: no environment is to blame for its end


def map_behind(fd: int, offset: int, size_bytes: int) -> mmap.mmap:
    """Returns the memory that lies in a worker's memfd behind `offset`; it grows where it must.

    Like a slab it is freed with the last array into it, and keeps no descriptor.
    """
    if os.fstat(fd).st_size < offset + size_bytes:
        os.ftruncate(fd, offset + size_bytes)
    reservation = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _lay_over(reservation, 0, size_bytes, fd, offset)
    return reservation


def _lay_over(reservation: mmap.mmap, begin: int, size_bytes: int, fd: int, offset: int) -> None:
    """Maps a part of a memfd over a part of a reservation, or with -1 memory of its own."""
    address = np.frombuffer(reservation, np.uint8).ctypes.data + begin
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_SHARED | _MAP_FIXED | (mmap.MAP_ANONYMOUS if fd < 0 else 0)
    if LIBC.mmap(address, size_bytes, protection, flags, fd, offset) != address:
        code = ctypes.get_errno()
        raise OSError(code, f"can't map {size_bytes} bytes: {os.strerror(code)}")


def _load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


LIBC = _load_libc()


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
        np.dot(self._words, self._weights, out=out)

    def of_some(self, own: slice, out: npt.NDArray[np.uint64]) -> None:
        """Writes the checksums of some workers' rows into `out [n, rows]`."""
        np.matmul(self._words[own], self._weights, out=out)

    def of_steps(self, words: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
        """Writes the checksums of rows that were copied, `[t, n, words]`, into `out [t, n]`."""
        np.matmul(words, self._weights, out=out)

    def of_row(self, worker: int, row: int) -> int:
        """Returns the checksum of one row."""
        return int(self._words[worker, row] @ self._weights)

    def of_first(self, words: npt.NDArray[np.uint64]) -> int:
        """Returns the checksum of a row, given as `[words]`, as if reward and flags were 0.

        That is what a row's checksum is after a reset.
        """
        return int(words[:REWARD_WORD] @ self._weights[:REWARD_WORD])
