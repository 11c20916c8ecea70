"""A space as a list of leaves: arrays of a fixed shape, and values that have none.

Each leaf is found along a path of dict keys and tuple positions.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from vecsess.wire.values import Array, Plain, Space

Path = tuple[str | int, ...]

MAX_LEAF_BYTES = 1 << 28  # of one row; also the most that a worker's words can make us allocate
_NUMERIC = "biuf"


class FormError(ValueError):
    """A value is not of the form that its space declares."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnsupportedSpaceError(TypeError):
    """A space that can't be carried in shared memory."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of a space: where it is, and what it looks like."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    discrete: bool  # its values are bare integers rather than arrays
    piped: bool = False  # it has no fixed shape: its values go by pipe, as objects

    @property
    def size_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def leaves_of(space: Space) -> Iterator[Leaf]:
    """Yields the leaves of a space of arrays, in the order of its keys and positions.

    Raises:
        UnsupportedSpaceError: it holds a space without a fixed shape.
    """
    for leaf in all_leaves_of(space):
        if leaf.piped:
            raise UnsupportedSpaceError(
                f"{type(part_at(space, leaf.path)).__name__} has no fixed shape; expected Box, "
                "Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these. Wrap the "
                "environment, for instance with gymnasium.wrappers.FlattenObservation or "
                "TransformObservation"
            )
        yield leaf


def all_leaves_of(space: Space, path: Path = ()) -> Iterator[Leaf]:
    """Yields the leaves of any space; those without a fixed shape are `piped`.

    Raises:
        UnsupportedSpaceError: an array of a dtype or a size that can't be shared.
    """
    match space:
        case spaces.Dict():
            for key, part in space.spaces.items():
                yield from all_leaves_of(part, (*path, key))
        case spaces.Tuple():
            for position, part in enumerate(space.spaces):
                yield from all_leaves_of(part, (*path, position))
        case spaces.Discrete():
            yield Leaf(path, (), np.dtype(space.dtype), discrete=True)
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            leaf = Leaf(path, tuple(space.shape or ()), np.dtype(space.dtype), discrete=False)
            if leaf.dtype.kind not in _NUMERIC or leaf.size_bytes > MAX_LEAF_BYTES:
                raise UnsupportedSpaceError(f"{space} has a dtype or a size that can't be shared")
            yield leaf
        case _:
            yield Leaf(path, (), np.dtype(object), discrete=False, piped=True)


def part_at(space: Space, path: Path) -> Space:
    """Returns the part of a space that lies at `path`."""
    for key in path:
        space = space.spaces[key]  # type: ignore[attr-defined]  # only Dict and Tuple have paths
    return space


def pick(value: Plain, path: Path) -> Plain:
    """Returns the part of a nested value that lies at `path`."""
    for key in path:
        value = value[key]
    return value


def assemble(space: Space, arrays: Iterator[Array]) -> Plain:
    """Returns the nested value whose leaves are `arrays`, in the order of `leaves_of`."""
    match space:
        case spaces.Dict():
            return {key: assemble(part, arrays) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(assemble(part, arrays) for part in space.spaces)
        case _:
            return next(arrays)


def field_name(name: str, path: Path) -> str:
    """Returns the field as errors name it, such as `observation['image']`."""
    return name + "".join(f"[{key!r}]" for key in path)


# What may be cast, where no integer changes by it; a bool is 0 or 1.
_CASTS = {"b": "b", "i": "iub", "u": "iub", "f": "f"}
_LENIENT_CASTS = {"b": "biu", "i": "iub", "u": "iub", "f": "fiub"}
TRY_LENIENT = "; with Contract(form='lenient') it is taken"


def coerce(
    value: Plain,
    leaf: Leaf,
    field: str,
    *,
    exact: bool,
    warn: Callable[[str], None],
    lenient: bool = False,
) -> Plain:
    """Returns `value` as the leaf holds it, or says why it can't be.

    Accepted are arrays of the leaf's shape, NumPy scalars and 0-d arrays for a scalar leaf, and
    integers for a discrete one. Another dtype of the same kind, and a bool for an integer, is cast
    with a warning, and only where no integer changes by it. If `lenient`, lists are taken too,
    and other kinds of numbers, without a warning.

    Raises:
        FormError: wrong type, shape or dtype.
    """
    plain_scalar = type(value) in (int, float, bool) and leaf.shape == ()
    if not isinstance(value, np.ndarray | np.generic) and not plain_scalar:
        listed = isinstance(value, list | tuple)
        if not (lenient and listed):
            hint = TRY_LENIENT if listed else ""
            raise FormError(field, f"{_expected(leaf)}, got {told(value)}{hint}")
    array = _as_array(value, field)
    if array.shape != leaf.shape:
        raise FormError(field, f"{_expected(leaf)}, got shape {list(array.shape)}")
    if array.dtype == leaf.dtype:
        return array
    free_width = leaf.discrete or plain_scalar or lenient
    kind, given = leaf.dtype.kind, array.dtype.kind
    if given not in (_LENIENT_CASTS if lenient else _CASTS)[kind] or (exact and not free_width):
        hint = TRY_LENIENT if given in _LENIENT_CASTS[kind] else ""
        raise FormError(field, f"{_expected(leaf)}, got {array.dtype}{hint}")
    with np.errstate(over="ignore"):  # what overflows is inf, and the value check says so
        cast = array.astype(leaf.dtype)
    if kind in "iub" and not np.array_equal(cast, array):
        what = f"{array.dtype} values that do not fit: {array}"
        raise FormError(field, f"{_expected(leaf)}, got {what}")
    if not free_width:
        warn(f"{field}: cast from {array.dtype} to {leaf.dtype}, as its space declares")
    return cast


def _expected(leaf: Leaf) -> str:
    if leaf.discrete:
        return f"expected an integer of {leaf.dtype}"
    return f"expected an array of {leaf.dtype} {list(leaf.shape)}"


def _as_array(value: Plain, field: str) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise FormError(field, f"expected an array, got {told(value)}: {error}") from error


def told(value: Plain) -> str:
    """Returns a short account of a wrong value, safe to print and quick to make."""
    text = _REPR.repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
