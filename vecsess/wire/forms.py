"""The form of a value that enters the slab.

`Form` writes one value into a row of its leaves; that is where type, shape and dtype are checked,
since the slab would cast or broadcast and nobody could see it later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from vecsess.wire.coercion import coerce, told
from vecsess.wire.leaves import Array, FormError, Space, all_leaves_of, field_name, part_at, pick
from vecsess.wire.piped import digest_of, pack_piped


class Form:
    """Writes values of one space into the rows of arrays, and refuses what is not of its form.

    Args:
        space: the space whose values are written.
        arrays: one array `[rows, *leaf.shape]` per leaf; `[rows]` uint64 for the digest of one
            that goes by pipe.
        name: the field to name in errors, such as "observation".
        exact: refuse another dtype of the same kind instead of casting it.
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
    ) -> None:
        self._space, self._arrays, self._name = space, arrays, name
        self._exact, self._warn, self._pipe = exact, warn, pipe
        self._leaves = list(all_leaves_of(space))

    def write(self, row: int, value: Any) -> None:
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
                array = coerce(part, leaf, field, exact=self._exact, warn=self._warn)
                self._arrays[index][row] = array

    def _write_piped(self, row: int, index: int, value: Any, field: str) -> None:
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

            def write_integer(value: Any) -> None:
                if type(value) in int_like and low <= value <= high:
                    array[row] = value
                else:
                    slow(row, value)

            return write_integer
        target: Any = array[row, ...]
        if target.ndim == 1 and target.size:
            return self._vector_writer(row, target.data)

        def write_array(value: Any) -> None:
            # NumPy has one object for each of its own dtypes; `write` takes an equal one, too.
            if type(value) is ndarray and value.dtype is dtype and value.shape == shape:
                target[...] = value
            else:
                slow(row, value)

        return write_array

    def _vector_writer(self, row: int, target: Any) -> Callable[[Any], None]:
        """Returns the `writer` of arrays with one axis."""
        slow, ndarray = self.write, np.ndarray

        def write_vector(value: Any) -> None:
            if type(value) is ndarray:
                try:
                    target[:] = value  # refuses another format or length: quicker than to look
                except (ValueError, NotImplementedError):
                    slow(row, value)
            else:
                slow(row, value)

        return write_vector

    def _check_containers(self, space: Space, value: Any, field: str) -> None:
        if isinstance(space, spaces.Dict):
            if not isinstance(value, dict) or value.keys() != space.spaces.keys():
                got = list(value) if isinstance(value, dict) else told(value)
                raise FormError(field, f"expected a dict with {list(space.spaces)}, got {got}")
            for key, part in space.spaces.items():
                self._check_containers(part, value[key], f"{field}[{key!r}]")
        elif isinstance(space, spaces.Tuple):
            if not isinstance(value, tuple) or len(value) != len(space.spaces):
                raise FormError(
                    field, f"expected a tuple of {len(space.spaces)}, got {told(value)}"
                )
            for position, part in enumerate(space.spaces):
                self._check_containers(part, value[position], f"{field}[{position}]")
