"""What hypothesis draws: plain data, and spaces of every kind that lies in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

KINDS = ["?", "i1", "i4", "i8", "u1", "u8", "f2", "f4", "f8", "c8", "c16", "S3", "U4", ">i4", ">f8"]


def numpy_arrays() -> st.SearchStrategy[Any]:
    """Returns arrays of every dtype that the wire knows, empty and 0-d ones too."""
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    return st.sampled_from(KINDS).flatmap(lambda kind: arrays.arrays(np.dtype(kind), shapes))


def numpy_scalars() -> st.SearchStrategy[Any]:
    return st.sampled_from(KINDS).flatmap(lambda kind: arrays.arrays(kind, ())).map(lambda a: a[()])


def plain_data() -> st.SearchStrategy[Any]:
    """Returns what an info may hold."""
    keys = st.text(max_size=4) | st.integers(-5, 5)
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(1 << 130), 1 << 130)
        | st.floats()
        | st.text(max_size=8)
        | st.binary(max_size=8)
        | numpy_arrays()
        | numpy_scalars()
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=8,
    )


def boxes() -> st.SearchStrategy[spaces.Box]:
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)
    dtypes = st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int8, np.int64])
    return st.builds(_box, shapes, dtypes, st.booleans(), st.integers(0, 5))


def _box(shape: tuple[int, ...], dtype: Any, even: bool, low: int) -> spaces.Box:
    lows = np.full(shape, low, dtype)
    spread = 1 if even else np.arange(1, lows.size + 1).reshape(shape)
    highs = (lows + spread).astype(dtype)
    if np.dtype(dtype).kind == "f" and not even:
        highs = np.where(highs > 3, np.inf, highs).astype(dtype)
    return spaces.Box(lows, highs, shape, dtype)


def array_spaces() -> st.SearchStrategy[Any]:
    """Returns spaces of a fixed shape, also nested ones."""
    ints = st.integers(1, 5)
    simple = (
        boxes()
        | st.builds(lambda n, start: spaces.Discrete(n, start=start), ints, st.integers(-3, 3))
        | st.builds(
            lambda nvec, dtype: spaces.MultiDiscrete(nvec, dtype, start=[1] * len(nvec)),
            st.lists(ints, min_size=1, max_size=3),
            st.sampled_from([np.int64, np.int32, np.uint8]),
        )
        | st.builds(spaces.MultiBinary, ints | st.lists(ints, min_size=1, max_size=3))
    )
    names = st.text("abcxyz_0'", min_size=1, max_size=3)
    return st.recursive(
        simple,
        lambda inner: (
            st.dictionaries(names, inner, min_size=1, max_size=3).map(spaces.Dict)
            | st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
        ),
        max_leaves=5,
    )


def any_spaces() -> st.SearchStrategy[Any]:
    """Returns spaces of all kinds, those without a fixed shape too."""
    return (
        array_spaces()
        | st.builds(lambda n: spaces.Text(n, charset="abcü"), st.integers(1, 9))
        | st.builds(lambda part, stack: spaces.Sequence(part, stack=stack), boxes(), st.booleans())
        | st.builds(spaces.Graph, boxes(), st.none() | st.just(spaces.Discrete(4)))
        | st.lists(array_spaces(), min_size=1, max_size=3).map(spaces.OneOf)
    )
