"""Gymnasium space <-> plain data, in which form a worker tells of its environments' spaces."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from vecsess.wire.leaves import MAX_LEAF_BYTES, told
from vecsess.wire.leaves import FormError as FormError
from vecsess.wire.leaves import Leaf as Leaf
from vecsess.wire.leaves import UnsupportedSpaceError as UnsupportedSpaceError
from vecsess.wire.leaves import assemble as assemble
from vecsess.wire.leaves import coerce as coerce
from vecsess.wire.leaves import field_name as field_name
from vecsess.wire.leaves import leaves_of as leaves_of
from vecsess.wire.leaves import pick as pick
from vecsess.wire.values import (
    MAX_NDIM,
    Array,
    Fields,
    FrameError,
    Plain,
    Space,
    array_from,
    pack_value,
)

_NUMERIC = "biuf"
MAX_DEPTH = 32  # of spaces within spaces
MAX_PARTS = 1 << 12  # of one space
# Of the values of all environments. The spaces of their batch have bounds: some times as much.
MAX_SPACE_BYTES = int(os.environ.get("VECSESS_MAX_SPACE_BYTES", str(1 << 28)))
_PART_BYTES, _CHARACTER_BYTES = 1024, 200  # what an object that has neither shape nor values takes


def describe(space: Space) -> Fields:
    """Returns a space as plain data for the wire."""
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
            kinds = {"nvec": space.nvec, "start": space.start}
            return {"type": "MultiDiscrete", **kinds, **_dtype(space)}
        case spaces.MultiBinary():
            sides = space.n if isinstance(space.n, int) else [int(side) for side in space.n]
            return {"type": "MultiBinary", "n": sides}
        case spaces.Text():
            lengths = [int(space.min_length), int(space.max_length)]
            return {"type": "Text", "lengths": lengths, "characters": "".join(space.character_list)}
        case spaces.Sequence():
            return {
                "type": "Sequence",
                "feature": describe(space.feature_space),
                "stack": space.stack,
            }
        case spaces.Graph():
            edge = None if space.edge_space is None else describe(space.edge_space)
            return {"type": "Graph", "node": describe(space.node_space), "edge": edge}
        case spaces.OneOf():
            return {"type": "OneOf", "parts": [describe(part) for part in space.spaces]}
        case _:
            return {"type": "Custom", **describe_custom(space)}


def _dtype(space: Space) -> dict[str, str]:
    return {"dtype": np.dtype(space.dtype).str}


def _compact(bound: Array) -> Array:
    """Returns a bound as one element where all are equal: an image's would be 28 KB otherwise."""
    flat = bound.reshape(-1)
    return flat[:1] if flat.size and (flat == flat[0]).all() else bound


def build_space(plain: Plain) -> Space:
    """Returns the space that `describe` told of, from untrusted plain data.

    Raises:
        FrameError: not the description of a space.
    """
    check_bytes([plain], MAX_LEAF_BYTES)
    try:
        return _build(plain)
    except FrameError:
        raise
    except Exception as error:  # Gymnasium's constructors say no with whatever they trip over
        raise FrameError(f"not the description of a space: {error!r:.200}") from error


def check_bytes(plains: Iterable[Plain], most: int = MAX_SPACE_BYTES) -> None:
    """Refuses descriptions of spaces that take more memory than that, before any is built.

    Raises:
        FrameError: they do, or one of them has too many parts.
    """
    left = most
    for plain in plains:
        parts = list(_parts_of(plain, 0))
        if len(parts) > MAX_PARTS:
            raise FrameError(f"expected a space of at most {MAX_PARTS} parts, got {len(parts)}")
        left -= sum(map(_bytes_of, parts))
        if left < 0:
            raise FrameError(
                f"expected spaces whose values take at most {most} bytes altogether; the variable "
                "VECSESS_MAX_SPACE_BYTES raises the bound for all environments"
            )


def _parts_of(plain: Plain, depth: int) -> Iterator[Fields]:
    """Yields every dict in a description of a space: it is one, and what it is made of are some."""
    if depth > 2 * MAX_DEPTH:  # a space and its list of parts are a level each
        raise FrameError(f"expected at most {MAX_DEPTH} spaces within each other")
    if type(plain) is dict:
        yield plain
        plain = list(plain.values())
    if type(plain) is list:
        for part in plain:
            if type(part) is dict or type(part) is list:
                yield from _parts_of(part, depth + 1)


def _bytes_of(plain: Fields) -> int:
    """Returns about how much memory a space takes, and a value of it, but for its parts."""
    kind = plain.get("type")
    match kind if type(kind) is str else "":
        case "Box":
            size = _size(plain.get("shape")) * _checked_dtype(plain.get("dtype")).itemsize
        case "MultiBinary":
            size = _size(plain.get("n"))
        case "MultiDiscrete":
            size = 8 * np.asarray(plain.get("nvec")).size
        case "Text":
            size = _CHARACTER_BYTES * len(str(plain.get("characters")))
        case _:
            size = 0
    return _PART_BYTES + size


def _size(shape: Plain) -> int:
    sides = shape if type(shape) is list else [shape]
    if (
        not all(type(side) is int and 0 <= side < 1 << 32 for side in sides)
        or len(sides) > MAX_NDIM
    ):
        raise FrameError(f"expected a shape, got {told(shape)}")
    return math.prod(sides)


def _build(plain: Plain) -> Space:
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
            _require_integers(plain["n"], plain["start"], dtype)
            return spaces.Discrete(plain["n"], start=plain["start"], dtype=dtype.type)
        case "MultiDiscrete":
            dtype = _checked_dtype(plain["dtype"])
            _require_integers(plain["nvec"], plain["start"], dtype)
            return spaces.MultiDiscrete(plain["nvec"], dtype.type, start=plain["start"])
        case "MultiBinary":
            return spaces.MultiBinary(plain["n"])
        case "Text":
            return _text(plain["lengths"], plain["characters"])
        case "Sequence":
            return spaces.Sequence(_build(plain["feature"]), stack=bool(plain["stack"]))
        case "Graph":
            edge = None if plain["edge"] is None else _build(plain["edge"])
            return spaces.Graph(_build(plain["node"]), edge)
        case "OneOf":
            return spaces.OneOf([_build(part) for part in plain["parts"]])
        case "Custom":
            return build_custom(plain)
        case other:
            raise FrameError(f"unknown space {told(other)}")


def _text(lengths: Plain, characters: Plain) -> spaces.Text:
    low, high = lengths
    if not type(low) is type(high) is int:
        raise FrameError(f"expected lengths of a text, got {told(lengths)}")
    return spaces.Text(high, min_length=low, charset=str(characters))


def _require_integers(n: Plain, start: Plain, dtype: np.dtype[Any]) -> None:
    """Refuses a range of integers whose last one the dtype can't hold: its sums would overflow."""
    counts, starts, bounds = np.asarray(n), np.asarray(start), np.iinfo(dtype)
    whole = counts.dtype.kind in "iu" and starts.dtype.kind in "iu"
    if whole and counts.size and counts.shape == starts.shape:
        last = int(starts.max()) + int(counts.max()) - 1  # of each apart: they do not wrap around
        whole = counts.min() > 0 and bounds.min <= int(starts.min()) and last <= bounds.max
    if not whole or counts.shape != starts.shape:
        raise FrameError(f"expected integers of {dtype}, got {told(n)} from {told(start)}")


def _checked_dtype(text: Plain) -> np.dtype[Any]:
    dtype: np.dtype[Any] = array_from(text, [0], b"").dtype
    if dtype.kind not in _NUMERIC:
        raise FrameError(f"a space can't have the dtype {told(text)}")
    return dtype


def _expand(bound: Plain, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if bound.dtype != dtype:
        raise FrameError(f"expected bounds of {dtype}, got {bound.dtype}")
    return np.broadcast_to(bound.reshape(()), shape) if bound.size == 1 else bound.reshape(shape)


_OWN = frozenset({"_shape", "dtype", "_np_random"})  # what `Space.__init__` sets


class CustomSpace(Space):
    """Stands for a space whose class the trainer can't build: any plain data is in it.

    Args:
        name: the class in the worker, such as "minigrid.core.mission.MissionSpace".
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def is_np_flattenable(self) -> bool:
        """No: its values have no fixed shape."""
        return False

    def sample(self, mask: Plain = None, probability: Plain = None) -> Plain:
        """Can't be done here.

        Raises:
            NotImplementedError: the class is in the worker.
        """
        raise NotImplementedError(
            f"{self} can't sample in the trainer: import {self.name} there, keep its attributes "
            "plain data, or wrap the environment so that it shows a space of Gymnasium's own"
        )

    def contains(self, x: Plain) -> bool:
        """Whether `x` is plain data."""
        try:
            pack_value(x)
        except (TypeError, ValueError):
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomSpace) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"CustomSpace({self.name})"


def describe_custom(space: Space) -> Fields:
    """Returns name, shape, dtype and the other attributes, None where they are not plain data."""
    if isinstance(space, CustomSpace):
        module, _, name = space.name.rpartition(".")
        return {"module": module, "name": name, "shape": None, "dtype": "", "state": None}
    state: Fields | None
    state = {key: value for key, value in vars(space).items() if key not in _OWN}
    try:
        pack_value(state)
    except (TypeError, ValueError):
        state = None
    return {
        "module": type(space).__module__,
        "name": type(space).__qualname__,
        "shape": None if space.shape is None else list(space.shape),
        "dtype": "" if space.dtype is None else np.dtype(space.dtype).str,
        "state": state,
    }


def build_custom(plain: Fields) -> Space:
    """Returns the space that `describe_custom` told of, from untrusted plain data.

    Raises:
        FrameError: not such a description.
    """
    module, name, state = plain["module"], plain["name"], plain["state"]
    if type(module) is not str or type(name) is not str:
        raise FrameError("a custom space is named by texts")
    kind = _find(module, name)
    if kind is None or type(state) is not dict:
        return CustomSpace(f"{module}.{name}")
    if not all(type(key) is str and _is_data(kind, key) for key in state):
        raise FrameError(f"expected the data of a {told(name)}, got what replaces its methods")
    _size(plain["shape"] or [])
    space = kind.__new__(kind)
    spaces.Space.__init__(space, plain["shape"], plain["dtype"] or None)
    vars(space).update({key: part for key, part in state.items() if key not in _OWN})
    return space


def _find(module: str, name: str) -> type[Space] | None:
    """Returns the class if the trainer has it; nothing is imported because a worker says so."""
    found: Plain = sys.modules.get(module)
    for part in name.split("."):
        try:  # not `getattr`, which would have a lazy module import what was named
            found = object.__getattribute__(found, "__dict__").get(part)
        except AttributeError:
            return None
    own = module.partition(".")[0] == "gymnasium"
    is_space = isinstance(found, type) and issubclass(found, spaces.Space)
    return found if is_space and not own else None


def _is_data(kind: type[Space], key: str) -> bool:
    """Whether an attribute is neither a method nor a property of the class, nor Python's own."""
    of_class = inspect.getattr_static(kind, key, None)
    return not (key.startswith("__") or callable(of_class) or hasattr(of_class, "__get__"))


def is_custom(space: Space) -> bool:
    """Whether a space is none of Gymnasium's own."""
    return type(space).__module__.partition(".")[0] != "gymnasium"
