"""Writes infos into the slab: what of them keeps its keys and its types."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from vecsess.wire.columns import INFO_BYTES, MAX_DEPTH, MAX_SCHEMAS, Schema
from vecsess.wire.slab import Views
from vecsess.wire.values import FrameError, Given

_MAX_SIGNATURES = 64
_OWN = {bool: ("bool", "|b1"), int: ("int", "<i8"), float: ("float", "<f8")}


class InfoWriter:
    """Where one worker's infos lie in its range.

    What is met for the second time gets a place; whatever does not come back takes none.

    Args:
        views: the fields of one range.
        tell: called with the description of infos that get a place.
    """

    def __init__(self, views: Views, tell: Callable[[bytes], None]) -> None:
        self._numbers, self._tell = views.info_numbers[0], tell
        self._number: Given = memoryview(self._numbers.reshape(-1))
        self._bytes = memoryview(views.infos[0].reshape(-1))
        self._known: dict[Any, Schema | None] = {}  # by signature; None where infos go by pipe
        self._met: set[Given] = set()
        self._described = 0
        self.wrote = False  # whether there are infos in the rows

    def begin(self) -> None:
        """No row has an info yet."""
        self._numbers.fill(0)  # whoever wrote there
        self.wrote = False

    def write(self, row: int, final: bool, info: dict[Given, Given]) -> bool:
        """Writes an info, or returns False where it has to go by pipe."""
        signature = (*info, *map(type, info.values()))
        schema, values = self._known.get(signature), None
        if schema is not None:
            values = info.values() if schema.flat else _with_arrays(info, schema)
        if schema is None or values is None:
            schema = self._look_closer(signature, info)
            if schema is None:
                return False
            values = _all_values(info)
        place = 2 * row + final
        try:
            schema.packer.pack_into(self._bytes, place * INFO_BYTES, *values)
        except (struct.error, OverflowError):
            return False  # an integer of more than 64 bits
        self._number[place] = schema.number
        self.wrote = True
        return True

    def _look_closer(self, signature: Given, info: dict[Given, Given]) -> Schema | None:
        """Returns the schema of an info with arrays or dicts, or of one that is not known."""
        kinds = [*map(type, info.values())]
        if dict not in kinds and np.ndarray not in kinds:
            return self._meet(signature, info)
        _look_inside(info, kinds, 0)
        inner = (*info, *kinds)
        schema = self._known.get(inner) or self._meet(inner, info)
        if schema is not None and not schema.nested:
            self._known[signature] = schema  # the one to try first, next time
        return schema

    def _meet(self, signature: Given, info: dict[Given, Given]) -> Schema | None:
        """Returns the schema of infos that are met for the second time, if they may have one."""
        if signature in self._known:
            return None
        if signature not in self._met:
            if len(self._met) == _MAX_SIGNATURES:
                self._met.clear()
            self._met.add(signature)
            return None
        if len(self._known) >= _MAX_SIGNATURES:
            return None
        self._known[signature] = schema = self._describe(info)
        return schema

    def _describe(self, info: dict[Given, Given]) -> Schema | None:
        if self._described == MAX_SCHEMAS:
            return None
        try:
            schema = Schema(_description(info))
        except (FrameError, TypeError, ValueError):
            return None
        self._described += 1
        self._tell(schema.packed)
        return schema


def _look_inside(info: dict[Given, Given], kinds: list[Given], depth: int) -> None:
    """Puts dtype and shape of arrays, and what is in dicts, in place of their types."""
    for index, value in enumerate(info.values()):
        kind = kinds[index]
        if kind is np.ndarray:
            kinds[index] = (value.dtype, value.shape)
        elif kind is dict and depth < MAX_DEPTH:
            inner = [*map(type, value.values())]
            _look_inside(value, inner, depth + 1)
            kinds[index] = (*value, *inner)


def _with_arrays(info: dict[Given, Given], schema: Schema) -> list[Given] | None:
    """Returns what `Schema.packer` takes, None where an array is of another form than its entry."""
    values = [*info.values()]
    for index, dtype, shape in schema.arrays:
        value = values[index]
        if value.dtype != dtype or value.shape != shape:
            return None
        values[index] = value.tobytes()
    return values


def _all_values(info: dict[Given, Given]) -> list[Given]:
    """Returns what `Schema.packer` takes: numbers, and arrays as bytes."""
    values: list[Given] = []
    for value in info.values():
        kind = type(value)
        if kind is np.ndarray:
            values.append(value.tobytes())
        elif kind is dict:
            values += _all_values(value)
        else:
            values.append(value)
    return values


def _description(info: dict[Given, Given], depth: int = 0) -> list[Given]:
    """Returns what `Schema` takes.

    Raises:
        TypeError: there is something that has no place in a row.
    """
    if depth > MAX_DEPTH:
        raise TypeError("an info that is nested deeper goes by pipe")
    items: list[Given] = []
    for key, value in info.items():
        kind = type(value)
        if kind in _OWN:
            items.append([key, *_OWN[kind], []])
        elif kind is dict:
            items.append([key, "dict", _description(value, depth + 1)])
        elif kind is np.ndarray:
            items.append([key, "array", value.dtype.str, list(value.shape)])
        elif issubclass(kind, np.number | np.bool_):
            items.append([key, "scalar", np.dtype(kind).str, []])
        else:
            raise TypeError(f"{kind} goes by pipe")
    return items
