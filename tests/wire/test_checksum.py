"""A checksum stands for what a step gave out: observation, reward and flags of one row."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.strategies import array_spaces
from vecsess.wire.slab import Checksum, Layout, Views


def views_of(space: Any, workers: int, rows: int) -> Views:
    layout = Layout(space, spaces.Discrete(2), rows)
    return layout.views(mmap.mmap(-1, layout.stride_bytes * workers), workers)


@given(array_spaces(), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_it_sees_observation_reward_and_flags_of_its_row_alone(space: Any, rows: int) -> None:
    views = views_of(space, 1, rows)
    checksum = Checksum(views)
    for array in (*views.observations, views.rewards, views.terminated, views.truncated):
        before = [checksum.of_row(0, row) for row in range(rows)]
        array[0, rows - 1] = np.where(array[0, rows - 1] == 0, 1, 0).astype(array.dtype)
        after = [checksum.of_row(0, row) for row in range(rows)]
        assert after[-1] != before[-1]
        assert after[:-1] == before[:-1]
    settled = checksum.of_row(0, rows - 1)
    for array in (*views.finals, views.rng, *views.actions):
        array[...] = np.ones((), array.dtype)
        assert checksum.of_row(0, rows - 1) == settled


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_all_at_once_is_each_by_itself(workers: int, rows: int, seed: int) -> None:
    views = views_of(spaces.Box(-1, 1, (5,), np.float32), workers, rows)
    rng = np.random.default_rng(seed)
    views.observations[0][...] = rng.normal(size=(workers, rows, 5))
    views.rewards[...] = rng.normal(size=(workers, rows))
    checksum = Checksum(views)
    out = np.zeros((workers, rows), np.uint64)
    checksum.of_all(out)
    each = [[checksum.of_row(worker, row) for row in range(rows)] for worker in range(workers)]
    np.testing.assert_array_equal(out, np.array(each, np.uint64))
    assert np.unique(out).size == out.size, "different steps have different checksums"


def test_the_order_of_numbers_matters() -> None:
    views = views_of(spaces.Box(-1, 1, (2,), np.float64), 1, 2)
    views.observations[0][0] = [[1, 2], [2, 1]]
    checksum = Checksum(views)
    assert checksum.of_row(0, 0) != checksum.of_row(0, 1)
