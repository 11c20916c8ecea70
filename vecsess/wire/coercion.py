"""One array as its leaf holds it: where dtype and shape are checked, and nothing is broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vecsess.wire.leaves import FormError, Leaf

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
        raise FormError(field, f"{expected}, got {told(value)}")
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


def told(value: Any) -> str:
    """Returns a short account of a wrong value, safe to print."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
