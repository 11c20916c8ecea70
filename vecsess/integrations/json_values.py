"""Values of a space from plain JSON, without any silent change of a number's kind."""

from __future__ import annotations

import json
import math

import numpy as np
from gymnasium import spaces

from vecsess.errors import SpaceError
from vecsess.tree import Tree, object_array
from vecsess.wire.leaves import FormError, Leaf, all_leaves_of, field_name, part_at
from vecsess.wire.values import Array, Given, Space


def require_plain(space: Space) -> None:
    """Refuses a space whose values have no form in these files.

    Raises:
        SpaceError: names the part.
    """
    for leaf in all_leaves_of(space):
        part = part_at(space, leaf.path)
        if isinstance(part, spaces.Sequence | spaces.Graph | spaces.OneOf):
            raise SpaceError(
                f"{field_name('space', leaf.path)}: expected arrays, numbers and texts, which JSON "
                f"rollouts can hold, got {part}"
            )


def value_from(space: Space, plain: Given, field: str) -> Tree:
    """Returns plain data as a value of the space.

    Raises:
        FormError: names the field, what was expected, and what came.

    Example:
        >>> value_from(spaces.Discrete(3), 2.0, "action")
        np.int64(2)
    """
    match space:
        case spaces.Dict():
            if not isinstance(plain, dict) or plain.keys() != space.spaces.keys():
                keys = list(space.spaces)
                raise FormError(field, f"expected an object with {keys}, got {in_short(plain)}")
            return {
                key: value_from(part, plain[key], f"{field}[{key!r}]")
                for key, part in space.spaces.items()
            }
        case spaces.Tuple():
            if not isinstance(plain, list) or len(plain) != len(space.spaces):
                size = len(space.spaces)
                raise FormError(field, f"expected a list of {size}, got {in_short(plain)}")
            pairs = zip(space.spaces, plain, strict=True)
            return tuple(value_from(part, p, f"{field}[{i}]") for i, (part, p) in enumerate(pairs))
        case _:
            (leaf,) = all_leaves_of(space)
            if leaf.piped:
                return _text(space, plain, field)
            array = _array(leaf, plain, field)
            return array[()] if leaf.discrete else array


def _text(space: Space, plain: Given, field: str) -> str:
    if not isinstance(plain, str) or not space.contains(plain):
        raise FormError(field, f"expected a text in {space}, got {in_short(plain)}")
    return plain


def number_from(plain: Given, field: str) -> float:
    """Returns a finite number as a float."""
    return float(_array(_FLOAT, plain, field))


def flag_from(plain: Given, field: str) -> bool:
    """Returns true or false as they stand there, and nothing else."""
    if not isinstance(plain, bool):
        raise FormError(field, f"expected true or false, got {in_short(plain)}")
    return plain


_FLOAT = Leaf((), (), np.dtype(np.float64), discrete=False)
_WORDS = {"b": "true or false", "i": "an integer", "u": "an integer", "f": "a finite number"}


def _array(leaf: Leaf, plain: Given, field: str) -> Array:
    """Returns nested lists of numbers as an array, without any silent change of a number's kind."""
    found = object_array([plain]) if not leaf.shape else np.array(plain, dtype=object)
    # What is empty ends where its lists do: `[]` may be of the shape [0, 3].
    shape = leaf.shape[: found.ndim] if 0 in leaf.shape else leaf.shape
    if leaf.shape and found.shape != shape:
        wanted, got = list(leaf.shape), list(found.shape)
        raise FormError(field, f"expected shape {wanted}, got {got}: {in_short(plain)}")
    kind = leaf.dtype.kind
    numbers = [_number(kind, number, field) for number in found.ravel()]
    try:
        with np.errstate(over="raise"):
            wide = np.dtype(np.float64) if kind == "f" else leaf.dtype
            return np.array(numbers, wide).astype(leaf.dtype).reshape(leaf.shape)
    except (OverflowError, FloatingPointError) as error:
        raise FormError(field, f"expected numbers that fit {leaf.dtype}: {error}") from error


def _number(kind: str, plain: Given, field: str) -> Given:
    """Returns a number of the dtype's kind; json reads NaN, Infinity and 1e999 as floats."""
    if type(plain) is float:
        good = plain.is_integer() if kind in "iu" else kind == "f" and math.isfinite(plain)
    else:  # by type, as a bool is an int
        good = type(plain) is (bool if kind == "b" else int)
    if not good:
        raise FormError(field, f"expected {_WORDS[kind]}, got {in_short(plain)}")
    return int(plain) if kind in "iu" else plain


def in_short(plain: Given) -> str:
    """Returns a value as it stands in the file, shortened."""
    text = json.dumps(plain)
    return text if len(text) <= 80 else text[:77] + "..."
