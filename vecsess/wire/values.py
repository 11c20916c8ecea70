"""Plain data on the wire: what an info may hold, as msgpack, and nothing that is code.

None, bool, int, float, str, bytes, lists, tuples and dicts as they are; NumPy arrays and scalars
as extensions whose dtype and size are checked before an array is made. What derives from a dict,
a list or a tuple arrives as one, without its class.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import msgpack
import numpy as np

ARRAY, SCALAR, TUPLE, WIDE_INT = 1, 2, 3, 4
MAX_NDIM = 8
MAX_TUPLES = 32  # within each other; each one costs 40 KB of the C stack when it is unpacked
_KINDS = frozenset("biufcSU")  # bool, integers, floats, complex, bytes, text: no objects
_DTYPE = re.compile("[<>|][biufcSU][1-9][0-9]{0,9}")  # as `dtype.str` writes them


class FrameError(ValueError):
    """A frame that does not hold what the protocol allows there."""


class EncodingError(FrameError):
    """Bytes that are not msgpack."""


class FieldCountError(FrameError):
    """A message with a field missing, or with one too many."""


class FieldTypeError(FrameError):
    """A message with a field of another type than its class declares."""


def _encode(depth: int, value: Any) -> Any:
    """Turns what msgpack does not know into what it does; `TypeError` where that is impossible."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS:
        code = ARRAY if isinstance(value, np.ndarray) else SCALAR
        if not value.dtype.itemsize:  # an empty text: NumPy pads it to one character anyway
            value = np.asarray(value).astype(f"{value.dtype.kind}1")
        parts = [value.dtype.str, list(value.shape), value.tobytes()]
        return msgpack.ExtType(code, msgpack.packb(parts))
    if isinstance(value, tuple):
        return msgpack.ExtType(TUPLE, pack_value(list(value), depth + 1))
    if type(value) is int:  # msgpack's end at 64 bits; seeds that NumPy draws have 128
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return msgpack.ExtType(WIDE_INT, data)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list):
        return list(value)
    raise TypeError(f"can't send a {type(value).__module__}.{type(value).__qualname__}")


def pack_value(value: Any, depth: int = 0) -> bytes:
    """Returns `value` as msgpack, `depth` tuples within each other.

    Raises:
        TypeError: it holds an object that is not plain data.
        ValueError: it is nested too deeply.
    """
    if depth > MAX_TUPLES:
        raise ValueError(f"can't send more than {MAX_TUPLES} tuples within each other")
    return msgpack.packb(value, default=_ENCODE[depth], strict_types=True)  # type: ignore[no-any-return]


def _decode(depth: int, code: int, data: bytes) -> Any:
    if code == TUPLE:
        items = unpack_value(data, depth + 1)
        if type(items) is not list:
            raise FrameError("a tuple must hold a list")
        return tuple(items)
    if code == WIDE_INT:
        return int.from_bytes(data, "little", signed=True)
    if code not in (ARRAY, SCALAR):
        raise FrameError(f"unknown extension {code}")
    parts = _unpack(data)
    if type(parts) is not list or [type(part) for part in parts] != [str, list, bytes]:
        raise FrameError("an array must be [dtype, shape, bytes]")
    array = array_from(*parts)
    return array if code == ARRAY else array[()]


def array_from(dtype_text: str, shape: list[Any], data: bytes) -> np.ndarray[Any, Any]:
    """Returns a writeable array made from untrusted parts.

    Raises:
        FrameError: an unknown dtype, a bad shape, or bytes that do not fill it exactly.
    """
    if type(dtype_text) is not str or not _DTYPE.fullmatch(dtype_text):
        raise FrameError(f"dtype {dtype_text!r} is not allowed")
    try:
        dtype = np.dtype(dtype_text)
    except (TypeError, ValueError) as error:
        raise FrameError(f"unknown dtype {dtype_text!r}") from error
    # A side beside a 0 takes no bytes, so it needs a bound of its own.
    sides_fit = all(type(side) is int and 0 <= side <= max(len(data), 65536) for side in shape)
    if not sides_fit or len(shape) > MAX_NDIM:
        raise FrameError(f"bad shape {shape!r}")
    count = 1
    for side in shape:
        count *= side
    if count * dtype.itemsize != len(data):
        raise FrameError(f"{len(data)} bytes do not fill {shape} of {dtype}")
    if not data:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _unpack(data: bytes | memoryview, **options: Any) -> Any:
    try:
        return msgpack.unpackb(data, **options)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.BufferFull) as error:
        if isinstance(error, FrameError):
            raise
        raise EncodingError(f"not valid msgpack: {error}") from error


_ENCODE = [partial(_encode, depth) for depth in range(MAX_TUPLES + 1)]
_DECODE = [partial(_decode, depth) for depth in range(MAX_TUPLES + 1)]


def unpack_value(data: bytes | memoryview, depth: int = 0) -> Any:
    """Returns what `pack_value` packed; the lengths in it are bounded by `len(data)`.

    Raises:
        FrameError: the bytes are not msgpack, or hold an array that does not fit its shape.
    """
    if depth > MAX_TUPLES:
        raise FrameError(f"expected at most {MAX_TUPLES} tuples within each other")
    return _unpack(data, strict_map_key=False, ext_hook=_DECODE[depth])
