"""Plain data on the wire: what an info may hold, as msgpack, and nothing that is code.

None, bool, int, float, str, bytes, lists, tuples and dicts as they are; NumPy arrays and scalars
as extensions whose dtype and size are checked before an array is made. What derives from one of
these arrives as one, without its class; an enum's member as its value. Keys are texts, bytes or
numbers of 64 bits: of others many with the same hash can be made, and a dict of those takes hours
to build.
"""

from __future__ import annotations

import enum
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import msgpack
import numpy as np
import numpy.typing as npt

# What is `Any` at Gymnasium's edge, by its name: types there depend on the environment.
Array = npt.NDArray[Any]  # of whatever dtype a space has
Space = gymnasium.Space[Any]
Env = gymnasium.Env[Any, Any]
Fields = dict[str, Any]  # infos, options, arguments: values of any type, by name
Plain = Any  # what msgpack carries: None, bools, numbers, texts, bytes, arrays, lists, dicts
Given = Any  # what an environment, a policy or a user gives: anything, until it is checked

ARRAY, SCALAR, TUPLE, WIDE_INT = 1, 2, 3, 4
MAX_NDIM = 64  # NumPy's own
MAX_INT_BYTES = 128
_MAX_SIDE = 1 << 31  # of an array without elements: it takes no bytes, so nothing else bounds it
_MAX_EMPTY_ITEM = 65536  # likewise one of its elements
# Of what one reply holds. A byte may become an object of 100, so bytes alone are no bound.
MAX_OBJECTS = int(os.environ.get("VECSESS_MAX_OBJECTS", str(1 << 20)))
MAX_TUPLES = 32  # within each other; each one costs 40 KB of the C stack when it is unpacked
_PLAIN: tuple[Any, ...] = (dict, list, str, bytes, int, float)
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


def _encode(depth: int, keylike: list[Any], value: Any) -> Any:
    """Turns what msgpack does not know into what it does; `TypeError` where that is impossible.

    What can be a key of a dict is put into `keylike` too: only few of these may be one.
    """
    if _is_masked(value):
        raise TypeError("can't send a masked array, whose masked values would be lost: fill it")
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS:
        code = ARRAY if isinstance(value, np.ndarray) else SCALAR
        if not value.dtype.itemsize:  # an empty text: NumPy pads it to one character anyway
            value = np.asarray(value).astype(f"{value.dtype.kind}1")
        check_shape(list(value.shape), value.dtype)
        parts = [value.dtype.str, list(value.shape), value.tobytes()]
        keylike += [value] if code == SCALAR else []
        return msgpack.ExtType(code, msgpack.packb(parts))
    if isinstance(value, tuple):
        keylike.append(value)
        return msgpack.ExtType(TUPLE, pack_value(list(value), depth + 1))
    if type(value) is int:  # msgpack's end at 64 bits; seeds that NumPy draws have 128
        keylike.append(value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if len(data) > MAX_INT_BYTES:
            raise ValueError(f"can't send an integer of more than {MAX_INT_BYTES} bytes")
        return msgpack.ExtType(WIDE_INT, data)
    if isinstance(value, enum.Enum):
        return value.value
    for plain in _PLAIN:  # what derives from one arrives as one
        if isinstance(value, plain):
            return plain(value)
    raise TypeError(f"can't send a {type(value).__module__}.{type(value).__qualname__}")


def _is_masked(value: Given) -> bool:
    """Whether it is a masked array; looks without `np.ma`, which each worker would import first."""
    module = sys.modules.get("numpy.ma")
    return module is not None and isinstance(value, module.MaskedArray)


def pack_value(value: Any, depth: int = 0) -> bytes:
    """Returns `value` as msgpack, `depth` tuples within each other.

    Raises:
        TypeError: it holds an object that is not plain data, or a key that is none.
        ValueError: it is nested too deeply, or an integer in it is too wide.
    """
    if depth > MAX_TUPLES:
        raise ValueError(f"can't send more than {MAX_TUPLES} tuples within each other")
    keylike: list[Any] = []
    packed: bytes = msgpack.packb(
        value, default=partial(_encode, depth, keylike), strict_types=True
    )
    if not all(map(_is_key, keylike)):
        _check_keys(value)
    return packed


def _is_key(value: Any) -> bool:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, int):
        return value.bit_length() <= 64
    return isinstance(value, _KEYS)


_KEYS = (str, bytes, float, bool, type(None), np.integer, np.bool_, np.float32, np.float16)


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key in value:
            if not _is_key(key):
                raise TypeError(f"can't send a key of type {type(key).__qualname__}")
        value = list(value.values())
    if isinstance(value, list):  # tuples were packed, and looked at, for themselves
        for part in value:
            _check_keys(part)


def _decode(depth: int, code: int, data: bytes) -> Any:
    if code == TUPLE:
        items = unpack_value(data, depth + 1)
        if type(items) is not list:
            raise FrameError("a tuple must hold a list")
        return tuple(items)
    if code == WIDE_INT:
        if len(data) > MAX_INT_BYTES:
            raise FrameError(f"expected an integer of at most {MAX_INT_BYTES} bytes")
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
    if check_shape(shape, dtype) != len(data):
        raise FrameError(f"{len(data)} bytes do not fill {shape} of {dtype}")
    if not data:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape).copy()


def check_shape(shape: list[Any], dtype: np.dtype[Any]) -> int:
    """Returns how many bytes an array of this shape has; what one side sends the other takes.

    Raises:
        FrameError: it has too many axes, or too long ones.
    """
    if len(shape) > MAX_NDIM:
        raise FrameError(f"expected at most {MAX_NDIM} axes, got {len(shape)}")
    count, most = 1, 1
    for side in shape:
        if type(side) is not int or not 0 <= side <= _MAX_SIDE:
            raise FrameError(f"expected sides from 0 to {_MAX_SIDE}, got the shape {shape!r:.80}")
        count *= side
        most *= side or 1
    if most * dtype.itemsize > sys.maxsize:
        raise FrameError(f"expected a size that NumPy can hold, got the shape {shape!r:.80}")
    if not count and dtype.itemsize > _MAX_EMPTY_ITEM:
        raise FrameError(f"expected elements of at most {_MAX_EMPTY_ITEM} bytes, got {dtype}")
    return count * dtype.itemsize


def _unpack(data: bytes | memoryview, **options: Any) -> Any:
    try:
        return msgpack.unpackb(data, object_pairs_hook=_dict, strict_map_key=False, **options)
    except FrameError:
        raise
    except Exception as error:  # whatever it is, no memory left included, the bytes are to blame
        raise EncodingError(f"not valid msgpack: {error!s:.200}") from error


def _dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    for key, _ in pairs:
        if type(key) is not str and not _is_key(key):
            raise FrameError(f"expected a text or a number as a key, got {type(key).__name__}")
    return dict(pairs)


_DECODE = [partial(_decode, depth) for depth in range(MAX_TUPLES + 1)]


def unpack_value(
    data: bytes | memoryview, depth: int = 0, *, max_objects: int | None = MAX_OBJECTS
) -> Any:
    """Returns what `pack_value` packed; the lengths in it are bounded by `len(data)`.

    Args:
        data: untrusted.
        depth: how many tuples this lies in.
        max_objects: how many objects may be made of it; None for any number.

    Raises:
        FrameError: the bytes are not msgpack, or hold an array that does not fit its shape, or
            too many objects.
    """
    if depth > MAX_TUPLES:
        raise FrameError(f"expected at most {MAX_TUPLES} tuples within each other")
    if depth == 0 and max_objects is not None:
        check_objects([data], max_objects)
    return _unpack(data, ext_hook=_DECODE[depth])


def check_objects(parts: Sequence[bytes | memoryview], most: int = MAX_OBJECTS) -> None:
    """Refuses msgpack of which more objects would be made than that, before any is.

    Raises:
        FrameError: there are too many.
    """
    left = most
    if sum(map(len, parts)) <= left:
        return  # no object takes less than a byte
    for part in parts:
        left -= count_objects(part, left)
        if left < 0:
            raise FrameError(
                f"expected at most {most} objects, got more; the variable VECSESS_MAX_OBJECTS "
                "raises the bound"
            )


def count_objects(data: bytes | memoryview, most: int) -> int:
    """Returns how many objects are made of this msgpack; stops where it is more than `most`.

    Malformed bytes are counted as far as they would be decoded.

    Example:
        >>> count_objects(pack_value([1, "two", {"three": (4.0,)}]), 100)
        8
    """
    at, end, count = 0, len(data), 0
    while at < end and count <= most:
        head = data[at]
        count += 1
        at += 1
        width, rest = _LENGTHS[head]
        length = rest
        if width:
            length += int.from_bytes(data[at : at + width], "big")
            at += width
        if head in _EXTENSIONS and data[at : at + 1] in _NESTED:
            length = 1  # its parts follow
        at += length
    return count


def _lengths() -> list[tuple[int, int]]:
    """Returns for each first byte the width of the length behind it, and the bytes after that."""
    table = [(0, 0)] * 256  # small numbers, None, bools; arrays and maps, whose parts follow
    table[0xA0:0xC0] = [(0, length) for length in range(32)]
    for first, widths, rest in ((0xC4, 3, 0), (0xC7, 3, 1), (0xD9, 3, 0)):  # bin, ext, str
        table[first : first + widths] = [(1 << power, rest) for power in range(widths)]
    for first, sizes in ((0xCA, (4, 8)), (0xCC, (1, 2, 4, 8)), (0xD0, (1, 2, 4, 8))):
        table[first : first + len(sizes)] = [(0, size) for size in sizes]
    table[0xD4:0xD9] = [(0, 1 + (1 << power)) for power in range(5)]  # ext of 1 to 16 bytes
    table[0xDC:0xE0] = [(0, 2), (0, 4)] * 2  # how many parts an array or a map has
    return table


_LENGTHS = _lengths()
_EXTENSIONS = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
_NESTED = (bytes((ARRAY,)), bytes((SCALAR,)), bytes((TUPLE,)))
