"""Gymnasium space <-> plain data <-> array layout, and the form of a value that enters the slab.

A space is cut into *leaves*: arrays of a fixed shape and dtype, each found along a path of dict
keys and tuple positions. `Form` writes one value into a row of its leaves; that is where type,
shape and dtype are checked, since the slab would cast or broadcast and nobody could see it later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from vecsess.wire.values import FrameError, array_from

Array = npt.NDArray[Any]
Space = spaces.Space[Any]
Path = tuple[str | int, ...]

MAX_LEAF_BYTES = 1 << 31
_NUMERIC = "biuf"
_REFUSAL = (
    "{} has no fixed shape; supported are Box, Discrete, MultiDiscrete, MultiBinary, and Dict and "
    "Tuple of these. Wrap the environment, for instance with gymnasium.wrappers.FlattenObservation "
    "or TransformObservation"
)


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

    @property
    def size_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def leaves_of(space: Space, path: Path = ()) -> Iterator[Leaf]:
    """Yields the leaves of a space, in the order of its keys and positions.

    Raises:
        UnsupportedSpaceError: it holds a space without a fixed shape.
    """
    match space:
        case spaces.Dict():
            for key, part in space.spaces.items():
                yield from leaves_of(part, (*path, key))
        case spaces.Tuple():
            for position, part in enumerate(space.spaces):
                yield from leaves_of(part, (*path, position))
        case spaces.Discrete():
            yield Leaf(path, (), np.dtype(space.dtype), discrete=True)
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            leaf = Leaf(path, tuple(space.shape or ()), np.dtype(space.dtype), discrete=False)
            if leaf.dtype.kind not in _NUMERIC or leaf.size_bytes > MAX_LEAF_BYTES:
                raise UnsupportedSpaceError(f"{space} has a dtype or a size that can't be shared")
            yield leaf
        case _:
            raise UnsupportedSpaceError(_REFUSAL.format(type(space).__name__))


def pick(value: Any, path: Path) -> Any:
    """Returns the part of a nested value that lies at `path`."""
    for key in path:
        value = value[key]
    return value


def assemble(space: Space, arrays: Iterator[Array]) -> Any:
    """Returns the nested value whose leaves are `arrays`, in the order of `leaves_of`."""
    match space:
        case spaces.Dict():
            return {key: assemble(part, arrays) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(assemble(part, arrays) for part in space.spaces)
        case _:
            return next(arrays)


# --- form ----------------------------------------------------------------------------------------

_SAME_KIND = {"b": "b", "i": "iu", "u": "iu", "f": "f"}


def coerce(value: Any, leaf: Leaf, field: str, *, exact: bool, warn: Callable[[str], None]) -> Any:
    """Returns `value` as the leaf holds it, or says why it can't be.

    Accepted are arrays of the leaf's shape, NumPy scalars and 0-d arrays for a scalar leaf, and
    integers for a discrete one. Another dtype of the same kind is cast with a warning, and only
    where no integer changes by it.

    Raises:
        FormError: wrong type, shape or dtype.
    """
    expected = f"expected {'an integer' if leaf.discrete else 'an array'} of {leaf.dtype}"
    expected += "" if leaf.discrete else f" {list(leaf.shape)}"
    plain_scalar = type(value) in (int, float, bool) and leaf.shape == ()
    if not isinstance(value, np.ndarray | np.generic) and not plain_scalar:
        raise FormError(field, f"{expected}, got {_told(value)}")
    array = np.asarray(value)
    if array.shape != leaf.shape:
        raise FormError(field, f"{expected}, got shape {list(array.shape)}")
    if array.dtype == leaf.dtype:
        return array
    free_width = leaf.discrete or plain_scalar
    if array.dtype.kind not in _SAME_KIND[leaf.dtype.kind] or (exact and not free_width):
        raise FormError(field, f"{expected}, got {array.dtype}")
    with np.errstate(over="ignore"):  # what overflows is inf, and the value check says so
        cast = array.astype(leaf.dtype)
    if leaf.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise FormError(field, f"{expected}, got {array.dtype} values that do not fit: {array}")
    if not free_width:
        warn(f"{field}: cast from {array.dtype} to {leaf.dtype}, as its space declares")
    return cast


def _told(value: Any) -> str:
    """Returns a short account of a wrong value, safe to print."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


class Form:
    """Writes values of one space into the rows of arrays, and refuses what is not of its form.

    Args:
        space: the space whose values are written.
        arrays: one array `[rows, *leaf.shape]` per leaf.
        name: the field to name in errors, such as "observation".
        exact: refuse another dtype of the same kind instead of casting it.
        warn: called with a text the first time that a value is cast.
    """

    def __init__(
        self,
        space: Space,
        arrays: list[Array],
        name: str,
        *,
        exact: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._space, self._arrays, self._name = space, arrays, name
        self._exact, self._warn = exact, warn
        self._leaves = list(leaves_of(space))

    def write(self, row: int, value: Any) -> None:
        """Writes `value` into `row`, whatever the space; see `writer` for the fast way.

        Raises:
            FormError: the value is not of the space's form.
        """
        self._check_containers(self._space, value, self._name)
        for leaf, array in zip(self._leaves, self._arrays, strict=True):
            field = field_name(self._name, leaf.path)
            part = pick(value, leaf.path)
            array[row] = coerce(part, leaf, field, exact=self._exact, warn=self._warn)

    def writer(self) -> Callable[[int, Any], None]:
        """Returns the function that the hot loop calls: `writer(row, value)`.

        A single leaf, which is what nearly every environment has, gets a path of its own: one
        look at type, dtype and shape, one copy, and `write` for all that is not exactly right.
        """
        if len(self._leaves) != 1 or self._leaves[0].path:
            return self.write
        leaf, array, slow = self._leaves[0], self._arrays[0], self.write
        shape, dtype, ndarray = leaf.shape, leaf.dtype, np.ndarray
        if leaf.discrete:
            int_like = (int, dtype.type)
            low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)

            def write_integer(row: int, value: Any) -> None:
                if type(value) in int_like and low <= value <= high:
                    array[row] = value
                else:
                    slow(row, value)

            return write_integer

        def write_array(row: int, value: Any) -> None:
            if type(value) is ndarray and value.dtype == dtype and value.shape == shape:
                array[row] = value
            else:
                slow(row, value)

        return write_array

    def _check_containers(self, space: Space, value: Any, field: str) -> None:
        if isinstance(space, spaces.Dict):
            if not isinstance(value, dict) or value.keys() != space.spaces.keys():
                got = list(value) if isinstance(value, dict) else _told(value)
                raise FormError(field, f"expected a dict with {list(space.spaces)}, got {got}")
            for key, part in space.spaces.items():
                self._check_containers(part, value[key], f"{field}[{key!r}]")
        elif isinstance(space, spaces.Tuple):
            if not isinstance(value, tuple) or len(value) != len(space.spaces):
                raise FormError(
                    field, f"expected a tuple of {len(space.spaces)}, got {_told(value)}"
                )
            for position, part in enumerate(space.spaces):
                self._check_containers(part, value[position], f"{field}[{position}]")


def field_name(name: str, path: Path) -> str:
    """Returns the field as errors name it, such as `observation['image']`."""
    return name + "".join(f"[{key!r}]" for key in path)


# --- plain data ----------------------------------------------------------------------------------


def describe(space: Space) -> dict[str, Any]:
    """Returns a space as plain data for the wire.

    Raises:
        UnsupportedSpaceError: not one of Gymnasium's own spaces.
    """
    match space:
        case spaces.Dict():
            return {"type": "Dict", "parts": [[k, describe(s)] for k, s in space.spaces.items()]}
        case spaces.Tuple():
            return {"type": "Tuple", "parts": [describe(part) for part in space.spaces]}
        case spaces.Box():
            bounds = [_compact(space.low), _compact(space.high)]
            return {"type": "Box", "bounds": bounds, "shape": list(space.shape), **_dtype(space)}
        case spaces.Discrete():
            n, start = int(space.n), int(space.start)
            return {"type": "Discrete", "n": n, "start": start, **_dtype(space)}
        case spaces.MultiDiscrete():
            bounds = {"nvec": space.nvec, "start": space.start}
            return {"type": "MultiDiscrete", **bounds, **_dtype(space)}
        case spaces.MultiBinary():
            n = space.n if isinstance(space.n, int) else [int(side) for side in space.n]
            return {"type": "MultiBinary", "n": n}
        case _:
            raise UnsupportedSpaceError(_REFUSAL.format(type(space).__name__))


def _dtype(space: Space) -> dict[str, str]:
    return {"dtype": np.dtype(space.dtype).str}


def _compact(bound: Array) -> Array:
    """Returns a bound as one element where all are equal: an image's would be 28 KB otherwise."""
    flat = bound.reshape(-1)
    return flat[:1] if flat.size and (flat == flat[0]).all() else bound


def build_space(plain: Any) -> Space:
    """Returns the space that `describe` told of, from untrusted plain data.

    Raises:
        FrameError: not the description of a space.
    """
    try:
        return _build(plain)
    except FrameError:
        raise
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise FrameError(f"not the description of a space: {error!r}") from error


def _build(plain: Any) -> Space:
    match plain["type"]:
        case "Dict":
            return spaces.Dict([(key, _build(part)) for key, part in plain["parts"]])
        case "Tuple":
            return spaces.Tuple([_build(part) for part in plain["parts"]])
        case "Box":
            shape, dtype = tuple(plain["shape"]), _checked_dtype(plain["dtype"])
            low, high = (_expand(bound, shape, dtype) for bound in plain["bounds"])
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            dtype = _checked_dtype(plain["dtype"])
            return spaces.Discrete(int(plain["n"]), start=int(plain["start"]), dtype=dtype.type)
        case "MultiDiscrete":
            dtype = _checked_dtype(plain["dtype"])
            return spaces.MultiDiscrete(plain["nvec"], dtype.type, start=plain["start"])
        case "MultiBinary":
            return spaces.MultiBinary(plain["n"])
        case other:
            raise FrameError(f"unknown space {other!r}")


def _checked_dtype(text: Any) -> np.dtype[Any]:
    dtype = array_from(text, [0], b"").dtype
    if dtype.kind not in _NUMERIC:
        raise FrameError(f"a space can't have the dtype {text!r}")
    return dtype


def _expand(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size = 1
    for side in shape:
        if type(side) is not int or side < 0:
            raise FrameError(f"bad shape {shape!r}")
        size *= side
    if size * dtype.itemsize > MAX_LEAF_BYTES or len(shape) > 8 or bound.dtype != dtype:
        raise FrameError(f"a Box of {shape} {dtype} is too large, or its bounds do not fit")
    return np.broadcast_to(bound.reshape(-1), shape) if bound.size == 1 else bound.reshape(shape)
