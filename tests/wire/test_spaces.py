"""Spaces as plain data and as leaves, and the form of what may lie in them."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.strategies import any_spaces, array_spaces
from vecsess.wire.forms import Form
from vecsess.wire.spaces import FormError, assemble, build_space, describe, leaves_of, pick
from vecsess.wire.values import FrameError, pack_value, unpack_value


@given(any_spaces())
@settings(max_examples=200, deadline=None)
def test_a_space_comes_back(space: Any) -> None:
    again = build_space(unpack_value(pack_value(describe(space))))
    assert again == space
    assert again.dtype == space.dtype
    assert again.shape == space.shape


def test_the_space_of_an_image_is_small_on_the_wire() -> None:
    assert len(pack_value(describe(spaces.Box(0, 255, (210, 160, 3), np.uint8)))) < 200


BOX = {"type": "Box", "bounds": [np.zeros(1, "f4"), np.ones(1, "f4")], "shape": [2], "dtype": "<f4"}


def nested(depth: int) -> Any:
    plain: Any = {"type": "Discrete", "n": 2, "start": 0, "dtype": "<i8"}
    for _ in range(depth):
        plain = {"type": "Tuple", "parts": [plain]}
    return plain


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        {"type": "Nonsense"},
        {"type": ["Box"]},
        {**BOX, "shape": [1 << 40]},
        {**BOX, "shape": [1 << 20, 1 << 20]},
        {**BOX, "shape": [-1]},
        {**BOX, "shape": [2.0]},
        {**BOX, "shape": [True]},
        {**BOX, "shape": None},
        {**BOX, "shape": [1] * 65},
        {**BOX, "dtype": "O"},
        {**BOX, "dtype": "<f8"},
        {**BOX, "dtype": 4},
        {**BOX, "dtype": "<U4"},
        {**BOX, "bounds": []},
        {**BOX, "bounds": [1, 2]},
        {**BOX, "bounds": [np.ones(1, "f4"), np.zeros(1, "f4")]},
        {**BOX, "bounds": [np.zeros(3, "f4"), np.ones(3, "f4")]},
        {"type": "Tuple", "parts": [{**BOX, "shape": [1 << 28]}] * 3},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "<i8"},
        {"type": "Discrete", "n": "many", "start": 0, "dtype": "<i8"},
        {"type": "Discrete", "n": 1 << 80, "start": 0, "dtype": "<i8"},
        {"type": "Discrete", "n": 2, "start": 0, "dtype": "<f4"},
        {"type": "MultiDiscrete", "nvec": None, "start": None, "dtype": "<i8"},
        {"type": "MultiDiscrete", "nvec": [0], "start": [0], "dtype": "<i8"},
        {"type": "MultiBinary", "n": -1},
        {"type": "MultiBinary", "n": "x"},
        {"type": "Dict", "parts": [["a", None]]},
        {"type": "Dict", "parts": [[["unhashable"], BOX]]},
        {"type": "Tuple", "parts": None},
        {"type": "Text", "lengths": [5, 1], "characters": "a"},
        {"type": "Sequence", "feature": None, "stack": False},
        {"type": "Graph", "node": None, "edge": None},
        {"type": "Custom", "module": None, "name": None},
        nested(40),
        nested(400),
    ],
    ids=lambda plain: repr(plain)[:40],
)
def test_what_describes_no_space_is_a_frame_error(plain: Any) -> None:
    with pytest.raises(FrameError):
        build_space(plain)


ODD: list[Any] = [
    None,
    2,
    "x",
    b"ab",
    {},
    [[2, 3]],
    np.int8(3),
    np.array(2),
    np.zeros(0, int),
    *(np.array([2, 3], code) for code in ("i8", "f4", "u1", "?", "c16", "S1", "U1", ">i8")),
]


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,)),
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Text(4),
        spaces.Dict(a=spaces.Discrete(2)),
        spaces.Tuple((spaces.Discrete(2),)),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)),
        spaces.OneOf((spaces.Discrete(2),)),
    ],
    ids=lambda space: type(space).__name__,
)
def test_whatever_stands_in_a_field_it_is_a_space_or_a_frame_error(space: Any) -> None:
    plain = describe(space)
    refused = 0
    for field, odd in itertools.product(plain, ODD):
        try:
            built = build_space({**plain, field: odd})
        except FrameError:
            refused += 1
        else:
            assert isinstance(built, spaces.Space)
    assert refused >= len(ODD), "no value is odd for `type` but the right one"


def test_a_description_names_no_code() -> None:
    """The class of a custom space is looked up among spaces, never imported or called."""
    for module, name in (("os", "system"), ("no_such_module", "Space"), ("builtins", "dict")):
        plain = {"type": "Custom", "module": module, "name": name, "shape": None, "dtype": ""}
        space = build_space({**plain, "state": {}})
        assert type(space).__name__ == "CustomSpace"


# --- form ----------------------------------------------------------------------------------------


def form_of(space: Any, rows: int = 2, *, exact: bool = False) -> tuple[Form, list[Any], list[str]]:
    warned: list[str] = []
    arrays = [np.zeros((rows, *leaf.shape), leaf.dtype) for leaf in leaves_of(space)]
    form = Form(space, arrays, "observation", exact=exact, warn=warned.append, pipe=no_pipe)
    return form, arrays, warned


def no_pipe(*_: Any) -> None:
    raise AssertionError("a space of arrays needs no pipe")


@given(array_spaces(), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_every_sample_is_of_its_spaces_form(space: Any, seed: int) -> None:
    form, arrays, warned = form_of(space, exact=True)
    space.seed(seed)
    sample = space.sample()
    for write in (partial(form.write, 1), form.writer(1)):
        for array in arrays:
            array[...] = 0
        write(sample)
        for leaf, array in zip(leaves_of(space), arrays, strict=True):
            np.testing.assert_array_equal(array[1], pick(sample, leaf.path))
            assert not array[0].any(), "the other row stays as it was"
    assert not warned
    again = assemble(space, iter(arrays))
    for leaf, array in zip(leaves_of(space), arrays, strict=True):
        assert pick(again, leaf.path) is array


IMAGE = spaces.Box(0, 255, (2, 2), np.uint8)
SCALAR = spaces.Box(-1, 1, (), np.float32)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
NESTED = spaces.Dict(a=VECTOR, b=spaces.Tuple([spaces.Discrete(3), IMAGE]))
GOOD_NESTED: dict[str, Any] = {"a": np.zeros(3, np.float32), "b": (1, np.zeros((2, 2), np.uint8))}


@pytest.mark.parametrize(
    ("space", "value", "field", "message"),
    [
        (VECTOR, np.zeros(4, np.float32), "observation", "got shape [4]"),
        (VECTOR, np.zeros((1, 3), np.float32), "observation", "got shape [1, 3]"),
        (VECTOR, np.float32(0), "observation", "got shape []"),
        (VECTOR, 0.0, "observation", "got float 0.0"),
        (VECTOR, [0.0] * 3, "observation", "got list [0.0, 0.0, 0.0]"),
        (VECTOR, np.zeros(3, np.int32), "observation", "got int32"),
        (VECTOR, np.zeros(3, np.complex64), "observation", "got complex64"),
        (VECTOR, np.zeros(3, object), "observation", "got object"),
        (IMAGE, np.full((2, 2), 256), "observation", "values that do not fit"),
        (IMAGE, np.full((2, 2), -1), "observation", "values that do not fit"),
        (IMAGE, np.zeros((2, 2), np.float32), "observation", "got float32"),
        (SCALAR, 1, "observation", "got int64"),
        (SCALAR, "1", "observation", "got str '1'"),
        (spaces.Discrete(3), 1.0, "observation", "expected an integer of int64, got float64"),
        (spaces.Discrete(3), np.array([1]), "observation", "got shape [1]"),
        (spaces.MultiBinary(2), np.array([2.0, 1.0]), "observation", "got float64"),
        (NESTED, None, "observation", "expected a dict with ['a', 'b'], got NoneType None"),
        (NESTED, {"a": 1}, "observation", "expected a dict with ['a', 'b'], got ['a']"),
        (NESTED, {**GOOD_NESTED, "c": 1}, "observation", "got ['a', 'b', 'c']"),
        (NESTED, {**GOOD_NESTED, "b": [1, 2]}, "observation['b']", "expected a tuple of 2"),
        (NESTED, {**GOOD_NESTED, "b": (1,)}, "observation['b']", "expected a tuple of 2"),
        (
            NESTED,
            {**GOOD_NESTED, "b": ("x", GOOD_NESTED["b"][1])},
            "observation['b'][0]",
            "expected an integer of int64, got str 'x'",
        ),
        (
            NESTED,
            {**GOOD_NESTED, "a": np.zeros(2, np.float32)},
            "observation['a']",
            "expected an array of float32 [3], got shape [2]",
        ),
    ],
)
def test_what_is_not_of_the_form_is_refused(
    space: Any, value: Any, field: str, message: str
) -> None:
    form, arrays, _ = form_of(space)
    for write in (partial(form.write, 0), form.writer(0)):
        with pytest.raises(FormError) as caught:
            write(value)
        assert caught.value.field == field
        assert message in str(caught.value)
    if space is not NESTED:
        assert not any(array.any() for array in arrays), "nothing was written"


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (SCALAR, 0.5),
        (SCALAR, np.float32(0.5)),
        (SCALAR, np.array(0.5, np.float32)),
        (spaces.Discrete(3), 2),
        (spaces.Discrete(3), np.int8(2)),
        (spaces.Discrete(3), np.uint64(2)),
        (spaces.Discrete(3), np.array(2)),
    ],
)
def test_scalars_of_any_sort_are_fine_without_a_warning(space: Any, value: Any) -> None:
    form, arrays, warned = form_of(space, exact=True)
    form.writer(1)(value)
    assert arrays[0][1] == value
    assert not warned


@pytest.mark.parametrize(
    ("space", "value", "warning"),
    [
        (VECTOR, np.ones(3), "observation: cast from float64 to float32"),
        (VECTOR, np.ones(3, np.float16), "observation: cast from float16 to float32"),
        (VECTOR, np.ones(3, ">f4"), "observation: cast from >f4 to float32"),
        (IMAGE, np.ones((2, 2), np.int64), "observation: cast from int64 to uint8"),
    ],
)
def test_another_width_is_cast_or_refused(space: Any, value: Any, warning: str) -> None:
    form, arrays, warned = form_of(space)
    form.writer(1)(value)
    np.testing.assert_array_equal(arrays[0][1], 1)
    assert len(warned) == 1
    assert warned[0].startswith(warning)
    strict, _, _ = form_of(space, exact=True)
    with pytest.raises(FormError, match="expected an array"):
        strict.writer(1)(value)
