"""The form of a value that enters the slab.

`Form` writes one value into a row of its leaves; that is where type, shape and dtype are checked,
since the slab would cast or broadcast and nobody could see it later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from vecsess.wire.leaves import (
    TRY_LENIENT,
    FormError,
    Leaf,
    all_leaves_of,
    coerce,
    field_name,
    part_at,
    pick,
    told,
)
from vecsess.wire.values import Array, Plain, Space, pack_value, unpack_value


class Form:
    """Writes values of one space into the rows of arrays, and refuses what is not of its form.

    Args:
        space: the space whose values are written.
        arrays: one array `[rows, *leaf.shape]` per leaf; `[rows]` uint64 for the digest of one
            that goes by pipe.
        name: the field to name in errors, such as "observation".
        exact: refuse another dtype of the same kind instead of casting it.
        lenient: take lists, other kinds of numbers, and dicts with more keys, too.
        warn: called with a text when a value is cast.
        pipe: called with row, leaf and msgpack for each value that has no place in an array.
    """

    def __init__(
        self,
        space: Space,
        arrays: list[Array],
        name: str,
        *,
        exact: bool,
        warn: Callable[[str], None],
        pipe: Callable[[int, int, bytes], None],
        lenient: bool = False,
    ) -> None:
        self._space, self._arrays, self._name = space, arrays, name
        self._exact, self._lenient, self._warn, self._pipe = exact, lenient, warn, pipe
        self._leaves = list(all_leaves_of(space))

    def write(self, row: int, value: Plain) -> None:
        """Writes `value` into `row`, whatever the space; see `writer` for the fast way.

        Raises:
            FormError: the value is not of the space's form.
        """
        self._check_containers(self._space, value, self._name)
        for index, leaf in enumerate(self._leaves):
            field = field_name(self._name, leaf.path)
            part = pick(value, leaf.path)
            if leaf.piped:
                self._write_piped(row, index, part, field)
            else:
                array = coerce(
                    part, leaf, field, exact=self._exact, warn=self._warn, lenient=self._lenient
                )
                self._arrays[index][row] = array

    def _write_piped(self, row: int, index: int, value: Plain, field: str) -> None:
        """Hands a value over to the pipe; its digest, for checksums to see, goes into the row."""
        space = part_at(self._space, self._leaves[index].path)
        data = pack_piped(space, value, field, exact=self._exact, warn=self._warn)
        self._arrays[index][row] = digest_of(data)
        self._pipe(row, index, data)

    def writer(self, row: int) -> Callable[[Any], None]:
        """Returns the function that the hot loop calls for a row: `write(value)`.

        A single leaf, which is what nearly every environment has, gets a path of its own: one
        look at type, dtype and shape, one copy, and `write` for all that is not exactly right.
        """
        if len(self._leaves) != 1 or self._leaves[0].path or self._leaves[0].piped:
            return partial(self.write, row)
        leaf, array, slow = self._leaves[0], self._arrays[0], self.write
        shape, dtype, ndarray = leaf.shape, leaf.dtype, np.ndarray
        if leaf.discrete:
            int_like = (int, dtype.type)
            low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)

            def write_integer(value: Plain) -> None:
                if type(value) in int_like and low <= value <= high:
                    array[row] = value
                else:
                    slow(row, value)

            return write_integer
        target: Plain = array[row, ...]
        if target.ndim == 1 and target.size:
            return self._vector_writer(row, target.data)

        def write_array(value: Plain) -> None:
            # NumPy has one object for each of its own dtypes; `write` takes an equal one, too.
            if type(value) is ndarray and value.dtype is dtype and value.shape == shape:
                target[...] = value
            else:
                slow(row, value)

        return write_array

    def _vector_writer(self, row: int, target: Plain) -> Callable[[Any], None]:
        """Returns the `writer` of arrays with one axis."""
        slow, ndarray = self.write, np.ndarray

        def write_vector(value: Plain) -> None:
            if type(value) is ndarray:
                try:
                    target[:] = value  # refuses another format or length: quicker than to look
                except (ValueError, NotImplementedError):
                    slow(row, value)
            else:
                slow(row, value)

        return write_vector

    def _check_containers(self, space: Space, value: Plain, field: str) -> None:
        if isinstance(space, spaces.Dict):
            more = isinstance(value, dict) and value.keys() >= space.spaces.keys()
            if not more or (value.keys() != space.spaces.keys() and not self._lenient):
                got = list(value)[:40] if isinstance(value, dict) else told(value)
                got = f"{got}{TRY_LENIENT if more else ''}"
                raise FormError(field, f"expected a dict with {list(space.spaces)}, got {got}")
            for key, part in space.spaces.items():
                self._check_containers(part, value[key], f"{field}[{key!r}]")
        elif isinstance(space, spaces.Tuple):
            kinds = (tuple, list) if self._lenient else (tuple,)
            if not isinstance(value, kinds) or len(value) != len(space.spaces):
                raise FormError(
                    field, f"expected a tuple of {len(space.spaces)}, got {told(value)}"
                )
            for position, part in enumerate(space.spaces):
                self._check_containers(part, value[position], f"{field}[{position}]")


Warn = Callable[[str], None]
_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def pack_piped(space: Space, value: Plain, field: str, *, exact: bool, warn: Warn) -> bytes:
    """Returns a value of the space as msgpack.

    Raises:
        FormError: it is not of the space's form, or holds what can't be sent as plain data.
    """
    formed = _Former(exact, warn).form(space, value, field)
    try:
        return pack_value(formed)
    except (TypeError, ValueError) as error:
        raise FormError(
            field,
            f"{error}: values of {space} must be plain data (texts, numbers, NumPy arrays, lists, "
            "dicts) to be sent. Wrap the environment so that it shows such, or a space of arrays",
        ) from error


def unpack_piped(space: Space, data: bytes, field: str) -> Plain:
    """Returns the value that `pack_piped` packed, from untrusted bytes.

    Raises:
        FormError: it is not of the space's form.
        FrameError: not msgpack, or not what it may hold.
    """
    return _Former(exact=True, warn=_never).form(space, unpack_value(data), field)


def digest_of(data: bytes) -> int:
    """Returns 64 bits that stand for `data` in a checksum."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _never(text: str) -> None:
    raise AssertionError(f"a value that was cast before it was sent is cast again: {text}")


@dataclass(frozen=True, slots=True)
class _Former:
    """Turns values into the form that their space declares, or says why that can't be."""

    exact: bool
    warn: Warn

    def form(self, space: Space, value: Plain, field: str) -> Plain:
        match space:
            case spaces.Text():
                _require(isinstance(value, str), field, "a text", value)
                return value
            case spaces.Sequence():
                if space.stack:
                    return self._stacked(space.feature_space, value, field)
                return self._tuple(space.feature_space, value, field)
            case spaces.Graph():
                return self._graph(space, value, field)
            case spaces.OneOf():
                return self._choice(space, value, field)
            case spaces.Dict():
                return self._dict(space, value, field, self.form)
            case spaces.Tuple():
                return self._fixed_tuple(space, value, field, self.form)
            case _:
                leaf = next(all_leaves_of(space))
                if leaf.piped:
                    return value  # of a custom space: whatever is plain data
                return self._array(leaf, value, field)

    def _array(self, leaf: Leaf, value: Plain, field: str) -> Plain:
        array = coerce(value, leaf, field, exact=self.exact, warn=self.warn)
        return np.asarray(array)[()] if leaf.discrete else array

    def _tuple(self, feature_space: Space, value: Plain, field: str) -> Plain:
        _require(isinstance(value, tuple), field, "a tuple", value)
        if isinstance(feature_space, spaces.Discrete) and _are_integers(value, feature_space.dtype):
            return tuple(np.array(value, feature_space.dtype))  # at once: it may be a million
        form = partial(self.form, feature_space)
        if isinstance(feature_space, _ARRAYS):
            form = partial(self._array, next(all_leaves_of(feature_space)))
        return tuple(form(part, f"{field}[{index}]") for index, part in enumerate(value))

    def _stacked(self, space: Space, value: Plain, field: str) -> Plain:
        """Returns a batch of the space's values, of any length."""
        if isinstance(space, spaces.Dict):
            return self._dict(space, value, field, self._stacked)
        if isinstance(space, spaces.Tuple):
            return self._fixed_tuple(space, value, field, self._stacked)
        leaf = next(all_leaves_of(space))
        if leaf.piped:
            return self._tuple(space, value, field)
        _require(isinstance(value, np.ndarray) and value.ndim > 0, field, "an array", value)
        batch = replace(leaf, shape=(len(value), *leaf.shape), discrete=False)
        return coerce(value, batch, field, exact=self.exact, warn=self.warn)

    def _graph(self, space: spaces.Graph, value: Plain, field: str) -> Plain:
        _require(isinstance(value, tuple) and len(value) == 3, field, "a GraphInstance", value)
        nodes, edges, links = value
        nodes = self._stacked(space.node_space, nodes, f"{field}.nodes")
        if edges is not None:
            _require(space.edge_space is not None, field, "no edges", value)
            edges = self._stacked(space.edge_space, edges, f"{field}.edges")  # type: ignore[arg-type]
        if links is not None:
            fits = isinstance(links, np.ndarray) and links.dtype.kind in "iu"
            fits = fits and links.ndim == 2 and links.shape[1] == 2
            _require(fits, f"{field}.edge_links", "an array of integers [edges, 2]", links)
        return spaces.GraphInstance(nodes, edges, links)

    def _choice(self, space: spaces.OneOf[Any], value: Plain, field: str) -> Plain:
        whole = isinstance(value, tuple) and len(value) == 2
        whole = whole and isinstance(value[0], int | np.integer)
        whole = whole and 0 <= value[0] < len(space.spaces)
        _require(whole, field, f"(index below {len(space.spaces)}, value)", value)
        return value[0], self.form(space.spaces[int(value[0])], value[1], f"{field}[1]")

    def _dict(self, space: spaces.Dict, value: Plain, field: str, form: Plain) -> Plain:
        whole = isinstance(value, dict) and value.keys() == space.spaces.keys()
        _require(whole, field, f"a dict with {list(space.spaces)}", value)
        parts = space.spaces.items()
        return {key: form(part, value[key], f"{field}[{key!r}]") for key, part in parts}

    def _fixed_tuple(
        self, space: spaces.Tuple[Any], value: Plain, field: str, form: Plain
    ) -> Plain:
        whole = isinstance(value, tuple) and len(value) == len(space.spaces)
        _require(whole, field, f"a tuple of {len(space.spaces)}", value)
        pairs = enumerate(zip(space.spaces, value, strict=True))
        return tuple(form(part, one, f"{field}[{index}]") for index, (part, one) in pairs)


def _are_integers(values: tuple[Plain, ...], dtype: Plain) -> bool:
    """Whether they are plain integers that the dtype can hold."""
    kind, bounds = np.dtype(dtype).type, np.iinfo(dtype)
    if not all(type(value) in (int, bool, kind) for value in values):
        return False
    return not values or bool(bounds.min <= min(values) and max(values) <= bounds.max)


def _require(fits: bool, field: str, expected: str, value: Plain) -> None:
    if not fits:
        raise FormError(field, f"expected {expected}, got {told(value)}")
