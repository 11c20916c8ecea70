"""Plain data on the wire: all of it comes back, and nothing that is code."""

from __future__ import annotations

import collections
import contextlib
import datetime
import enum
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.strategies import plain_data
from vecsess.wire.values import ARRAY, TUPLE, FrameError, array_from, pack_value, unpack_value


def assert_same(one: Any, other: Any) -> None:
    """Compares types and values, NaN included, all the way down."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray | np.generic):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    elif isinstance(one, dict):
        assert_same(list(one), list(other))
        assert_same(list(one.values()), list(other.values()))
    else:
        assert one == other or (one != one and other != other)


@given(plain_data())
def test_what_is_packed_comes_back(value: Any) -> None:
    assert_same(unpack_value(pack_value(value)), value)


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Choice(enum.Enum):
    X = "x"
    ODD = object


class Metres(float):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Number.ONE, 1),
        (Word.A, "a"),
        (Choice.X, "x"),
        ({Number.ONE: 1, Word.A: Word.A, Choice.X: [Number.ONE]}, {1: 1, "a": "a", "x": [1]}),
        (Metres(1.5), 1.5),
        (collections.OrderedDict(a=1), {"a": 1}),
    ],
    ids=repr,
)
def test_what_derives_from_plain_data_arrives_as_that(value: Any, plain: Any) -> None:
    assert_same(unpack_value(pack_value(value)), plain)


@pytest.mark.parametrize(
    "shape",
    [(), (1,) * 9, (1,) * 64, (0,), (0, 10**6), (10**6, 0, 10**6), (0,) * 64, (2, 3)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["f8", "?", "U3", "S1"])
def test_an_array_of_any_shape_that_numpy_has_arrives(shape: Any, dtype: str) -> None:
    assert_same(unpack_value(pack_value(np.zeros(shape, dtype))), np.zeros(shape, dtype))


def test_what_would_lose_something_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="masked array"):
        pack_value({"a": np.ma.array([1, 2], mask=[True, False])})


def test_arrays_that_come_back_belong_to_the_receiver() -> None:
    data = pack_value(np.arange(3))
    array = unpack_value(data)
    array[0] = 9
    assert unpack_value(data)[0] == 0


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        len,
        int,
        datetime.timedelta(1),
        np.array([object()]),
        np.array(["2020-01-01"], "M8[D]"),
        {"deep": [({"er": object()},)]},
        ValueError("x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="can't send a"):
        pack_value(value)


class Point(NamedTuple):
    x: int
    y: int


def test_what_derives_from_plain_data_arrives_as_such() -> None:
    ordered = collections.OrderedDict(a=Point(1, 2))
    assert_same(unpack_value(pack_value(ordered)), {"a": (1, 2)})


def test_what_is_nested_too_deeply_is_refused() -> None:
    value: Any = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(ValueError, match="recursion"):
        pack_value(value)


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes_are_plain_data_or_a_frame_error(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        unpack_value(data)


@given(st.binary(max_size=60), st.integers(0, 127))
@settings(max_examples=500)
def test_so_are_any_extensions(data: bytes, code: int) -> None:
    with contextlib.suppress(FrameError):
        unpack_value(msgpack.packb(msgpack.ExtType(code, data)))


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("O", [1], b"12345678"),
        ("V8", [1], b"12345678"),
        ("M8[s]", [1], b"12345678"),
        ("(2,)f4", [1], b"12345678"),
        ("f4,f4", [1], b"12345678"),
        ("nonsense", [1], b""),
        ("", [1], b""),
        ("f4", [3], b"1234"),
        ("f4", [-1], b""),
        ("f4", [1.0], b"1234"),
        ("f4", [True], b"1234"),
        ("f4", ["1"], b"1234"),
        ("f4", [1] * 9, b"1234"),
        ("f4", [1 << 40, 0], b""),
        ("f4", [65536] * 7 + [0], b""),
        ("S0", [4], b""),
        ("U0", [1 << 30], b""),
        ("S2147483648", [0], b""),
    ],
)
def test_an_array_that_lies_is_refused(dtype: str, shape: list[Any], data: bytes) -> None:
    packed = msgpack.packb(msgpack.ExtType(ARRAY, msgpack.packb([dtype, shape, data])))
    with pytest.raises(FrameError):
        unpack_value(packed)


@pytest.mark.parametrize("text", [None, 4, b"f4", ["f4"], "f4\0", "=f4" * 1000])
def test_a_dtype_must_be_one(text: Any) -> None:
    with pytest.raises(FrameError):
        array_from(text, [0], b"")


def test_lengths_are_bounded_by_what_has_come() -> None:
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"):  # array, map, str, bin, ext: 32 bit
        with pytest.raises(FrameError):
            unpack_value(head + b"\xff\xff\xff\xff" + b"\x01")


def test_tuples_within_tuples_end_somewhere() -> None:
    data = msgpack.packb([])
    for _ in range(3000):
        data = msgpack.packb(msgpack.ExtType(TUPLE, msgpack.packb([0]) and b"\x91" + data))
    with pytest.raises(FrameError):
        unpack_value(data)
