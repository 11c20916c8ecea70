"""Infos in shared memory: what one holds, under which keys, and where in its row it lies.

A worker that meets an info for the second time describes it to the manager, and writes such
infos into its slab from then on: a row's word says which description holds, 0 that the row has
no info there. What can't be described, or has no room, goes by pipe.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from vecsess.wire.values import Array, Fields, FrameError, Plain, pack_value

INFO_BYTES = 960  # of one info; an odd number of cache lines, so that rows do not share few sets
MAX_SCHEMAS = 16  # that one worker may describe
MAX_DEPTH = 8
_MAX_LEAVES, _MAX_AXES = 128, 8
# Gymnasium treats the first of these in its own way, and puts them where infos of ended episodes go
_RESERVED = ("final_obs", "_final_obs", "final_info", "_final_info")
_OWN = {"bool": "|b1", "int": "<i8", "float": "<f8"}  # Python's numbers, and as which they lie
_NUMBERS = ("b1", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8")
_CODES = dict(zip(_NUMBERS, "?bBhHeiIfqQd", strict=True))  # as `struct` calls them
_ARRAY_CODES = (*_CODES, "c8", "c16")
_PYTHON: dict[str, type[Any]] = {"bool": bool, "int": int, "float": float}


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of an info.

    Attributes:
        key: as it is in the info.
        kind: "bool", "int" or "float" for Python's own, "scalar" or "array" for NumPy's, "dict".
        dtype: of the number or of the array.
        shape: of the array.
        offset: where in the row.
        entries: of a dict.
    """

    key: str
    kind: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    entries: tuple[Entry, ...] = ()

    @property
    def boxed(self) -> bool:
        """Whether Gymnasium's array of it holds objects."""
        return self.kind == "scalar" and self.dtype.kind == "b"

    def view(self, rows: Array) -> Array:
        """Returns where this entry lies in some rows `[K, bytes]`, `[K, *shape]`."""
        if not self.shape:
            return rows[:, self.offset : self.offset + self.dtype.itemsize].view(self.dtype)[:, 0]
        shape = (len(rows), *self.shape)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        width = self.dtype.itemsize * math.prod(self.shape)
        view = rows[:, self.offset : self.offset + width].view(self.dtype)
        return view if len(shape) == 2 else view.reshape(shape)

    def column(self, rows: Array) -> Array:
        """Returns a copy of this entry in some rows `[K, bytes]`, `[K, *shape]`."""
        view = self.view(rows)
        # A worker may have written anything: as a bool it is True or False here.
        return view.view(np.uint8) != 0 if self.dtype.kind == "b" else view.copy()

    def values(self, rows: Array) -> list[Plain]:
        """Returns this entry in each of some rows, of the type that it had in its info."""
        if self.kind == "dict":
            return records(self.entries, rows)
        column = self.column(rows)
        if self.kind in _PYTHON:
            return list(column.tolist())
        if self.kind == "array":  # one without axes is another thing than a number
            return [column[index, ...] for index in range(len(column))]
        return list(column)


def records(entries: tuple[Entry, ...], rows: Array) -> list[Fields]:
    """Returns the infos in some rows `[K, bytes]`, as the environments gave them."""
    keys = [entry.key for entry in entries]
    if not keys:
        return [{} for _ in rows]
    columns = [entry.values(rows) for entry in entries]
    return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]


class Schema:
    """What infos of one kind hold; both sides make the same one of a description.

    Args:
        description: for each key `[key, kind, dtype, shape]`, or `[key, "dict", description]`;
            untrusted.

    Attributes:
        packed: the description as msgpack.
        number: stands for it in the slab; never 0.
        size_bytes: of such an info.
        packer: writes the numbers of an info, and its arrays as bytes.
        flat: whether it has neither arrays nor dicts.
        arrays: of the topmost level: which, dtype, shape.
        keys: of the topmost level, each followed by that of its mask.

    Raises:
        FrameError: it is no description, or has no room in a row.
    """

    def __init__(self, description: Plain) -> None:
        _check(description, 0)
        self.packed = pack_value(description)
        digest = hashlib.blake2b(self.packed, digest_size=8).digest()
        self.number = int.from_bytes(digest, "little") | 1
        self._format, self._end = "<", 0
        self.entries = self._placed(description)
        self._leaves = list(_leaves(self.entries))
        self.size_bytes = -(-self._end // 8) * 8
        if self.size_bytes > INFO_BYTES or len(self._leaves) > _MAX_LEAVES:
            raise FrameError(f"expected {_MAX_LEAVES} numbers, {INFO_BYTES} bytes at most")
        self.packer = struct.Struct(self._format)
        self.nested = any(entry.kind == "dict" for entry in self.entries)
        self.flat = all(entry.kind not in ("dict", "array") for entry in self.entries)
        self.arrays = [
            (index, entry.dtype, entry.shape)
            for index, entry in enumerate(self.entries)
            if entry.kind == "array"
        ]
        self.boxed = any(entry.boxed for entry in self._leaves)
        self.keys = [name for entry in self.entries for name in (entry.key, f"_{entry.key}")]
        self._runs = list(self._alike())

    def _placed(self, items: list[Plain]) -> tuple[Entry, ...]:
        """Returns the entries, each behind all that came before."""
        made = []
        for key, kind, *rest in items:
            if kind == "dict":
                made.append(Entry(key, kind, np.dtype(object), (), 0, self._placed(rest[0])))
                continue
            dtype, shape = np.dtype(rest[0]), tuple(rest[1])
            size = dtype.itemsize * math.prod(shape)
            start = -(-self._end // dtype.alignment) * dtype.alignment
            pad = start - self._end
            self._format += f"{pad}x" if pad else ""
            self._format += f"{size}s" if kind == "array" else _CODES[dtype.str[1:]]
            self._end = start + size
            made.append(Entry(key, kind, dtype, shape, start))
        return tuple(made)

    def _alike(self) -> Iterator[list[Entry]]:
        """Yields runs of numbers of one dtype, which lie side by side: one copy takes each."""
        for (kind, _), run in groupby(self._leaves, lambda e: (e.kind == "array", e.dtype)):
            entries = list(run)
            yield from [[entry] for entry in entries] if kind else [entries]

    def columns(self, rows: Array) -> list[Array]:
        """Returns the numbers and arrays, those in dicts too, `[K, *shape]` each.

        Args:
            rows: `[K, bytes]`.
        """
        columns: list[Array] = []
        for run in self._runs:
            first = run[0]
            if len(run) == 1:
                columns.append(first.column(rows))
            elif first.dtype.kind == "b":
                columns.extend(entry.column(rows) for entry in run)
            else:
                end = first.offset + len(run) * first.dtype.itemsize
                columns.extend(rows[:, first.offset : end].view(first.dtype).T.copy())
        return columns


def _check(items: Plain, depth: int) -> None:
    """Refuses what does not describe an info."""
    if type(items) is not list or depth > MAX_DEPTH:
        raise FrameError(f"expected a list of the entries of an info, at most {MAX_DEPTH} deep")
    if any(type(item) is not list or len(item) not in (3, 4) for item in items):
        raise FrameError("expected [key, kind, dtype, shape] or [key, 'dict', entries]")
    keys = [item[0] for item in items]
    if any(type(key) is not str for key in keys) or len(set(keys)) < len(keys):
        raise FrameError("expected keys that are different texts")
    if not {f"_{key}" for key in keys}.union(_RESERVED).isdisjoint(keys):
        raise FrameError("expected keys that are not those of masks")
    for item in items:
        if len(item) == 3:
            if item[1] != "dict":
                raise FrameError(f"expected a dict, got {item[1]!r}")
            _check(item[2], depth + 1)
        else:
            _check_leaf(*item[1:])


def _check_leaf(kind: Plain, dtype: Plain, shape: Plain) -> None:
    if type(dtype) is not str or dtype[:1] not in ("<", ">", "|"):
        raise FrameError(f"expected a dtype, got {dtype!r}")
    codes = _ARRAY_CODES if kind == "array" else _CODES
    own = kind in _OWN and dtype == _OWN[kind]
    scalar = kind == "scalar" and dtype[0] != ">"
    if not (own or scalar or kind == "array") or dtype[1:] not in codes:
        raise FrameError(f"expected a number or an array, got {kind!r} of {dtype!r}")
    sides = type(shape) is list and all(type(s) is int and 0 <= s <= INFO_BYTES for s in shape)
    if not sides or len(shape) > _MAX_AXES or (shape and kind != "array"):
        raise FrameError(f"expected the shape of {kind!r}, got {shape!r}")


def _leaves(entries: tuple[Entry, ...]) -> Iterator[Entry]:
    """Yields the numbers and arrays, in the order in which a worker writes them."""
    for entry in entries:
        if entry.kind == "dict":
            yield from _leaves(entry.entries)
        else:
            yield entry
