"""The shared memory: no two fields overlap, every row is its own, nobody can cut it short."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.strategies import array_spaces
from vecsess.wire.slab import LINE, Layout, Slab, Views, create_memfd, seal

BOX = spaces.Box(-1, 1, (4,), np.float32)


def fields_of(views: Views) -> list[tuple[str, Any]]:
    """Returns every field that lies in memory, but the words, which are there to cover others."""
    named: list[tuple[str, Any]] = [
        (name, getattr(views, name))
        for name in ("command", "reply", "running", "told", "histogram", "rewards", "terminated")
    ]
    named += [
        (name, getattr(views, name)) for name in ("truncated", "rng", "infos", "info_numbers")
    ]
    for name in ("observations", "finals", "actions"):
        named += [(f"{name}[{i}]", array) for i, array in enumerate(getattr(views, name))]
    return named


def addresses(array: Any, base: int) -> Any:
    """Returns the offset of every byte of an array."""
    offsets = np.zeros((1,), np.int64)
    for size, stride in zip(array.shape, array.strides, strict=True):
        offsets = (offsets[:, None] + np.arange(size) * stride).reshape(-1)
    start = array.__array_interface__["data"][0] - base
    return (offsets[:, None] + np.arange(array.itemsize) + start).reshape(-1)


@given(array_spaces(), array_spaces(), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_two_fields_share_a_byte(
    observation_space: Any, action_space: Any, rows: int, workers: int
) -> None:
    layout = Layout(observation_space, action_space, rows)
    buffer = mmap.mmap(-1, layout.stride_bytes * workers)
    views = layout.views(buffer, workers)
    base = np.frombuffer(buffer, np.uint8).ctypes.data
    taken = np.zeros(layout.stride_bytes * workers, np.bool_)
    for name, array in fields_of(views):
        own = addresses(array, base)
        assert own.min(initial=0) >= 0
        assert own.max(initial=0) < taken.size
        assert not taken[own].any(), f"{name} lies over another field"
        assert np.unique(own).size == own.size
        taken[own] = True
        assert array.flags.aligned


@given(array_spaces(), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_rows_and_hints_do_not_share_cache_lines(space: Any, rows: int) -> None:
    layout = Layout(space, spaces.Discrete(2), rows)
    assert layout.stride_bytes % mmap.PAGESIZE == 0
    views = layout.views(mmap.mmap(-1, layout.stride_bytes))
    blocks = ("command", "reply", "running", "histogram", "words", "rng")
    places = [getattr(views, name).ctypes.data for name in blocks]
    places += [array.ctypes.data for array in views.actions]
    assert all(place % LINE == 0 for place in places)
    assert len(set(places)) == len(places)


def test_both_flags_are_one_look() -> None:
    layout = Layout(BOX, spaces.Discrete(2), 2)
    views = layout.views(mmap.mmap(-1, layout.stride_bytes))
    views.truncated[0, 1] = 1
    assert np.flatnonzero(views.flags).tolist() == [1]
    views.flags[...] = 0
    assert not views.truncated.any()


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = create_memfd("test")
    yield fd
    os.close(fd)


class TestSeal:
    def test_a_sealed_slab_grows_but_can_t_be_cut(self, memfd: int) -> None:
        seal(memfd, 8192)
        os.ftruncate(memfd, 16384)  # for a rollout behind it
        for size in (0, 4096, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(memfd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memfd, 1033, 0x8)  # nor may another seal be put on it

    def test_it_can_be_written(self, memfd: int) -> None:
        seal(memfd, 4096)
        with mmap.mmap(memfd, 4096) as memory:
            memory[0] = 7
            assert os.pread(memfd, 1, 0) == b"\7"

    def test_a_slab_that_was_sealed_before_is_refused(self, memfd: int) -> None:
        fcntl.fcntl(memfd, 1033, 0x4)  # grow
        with pytest.raises(ValueError, match="sealed its shared memory before"):
            seal(memfd, 4096)

    def test_one_that_was_sealed_against_writing_is_refused(self, memfd: int) -> None:
        os.ftruncate(memfd, 4096)
        fcntl.fcntl(memfd, 1033, 0x8)
        with pytest.raises(ValueError, match="shared memory"):
            seal(memfd, 4096)


class TestMap:
    LAYOUT = Layout(BOX, spaces.Discrete(2), 2)

    def attach(self, slab: Slab, worker: int, value: float) -> None:
        fd = create_memfd("range")
        seal(fd, self.LAYOUT.stride_bytes)
        slab.attach(worker, fd)
        own = self.LAYOUT.views(mmap.mmap(fd, self.LAYOUT.stride_bytes))
        own.observations[0][...] = value
        os.close(fd)

    def test_the_ranges_lie_side_by_side_in_one_array(self) -> None:
        slab = Slab(self.LAYOUT, 3)
        for worker in range(3):
            self.attach(slab, worker, worker + 1)
        observations = slab.views.observations[0]
        assert observations.shape == (3, 2, 4)
        np.testing.assert_array_equal(observations[:, 0, 0], [1, 2, 3])

    def test_a_successor_takes_its_predecessors_place_and_no_other(self) -> None:
        slab = Slab(self.LAYOUT, 2)
        self.attach(slab, 0, 1)
        self.attach(slab, 1, 2)
        self.attach(slab, 0, 9)
        np.testing.assert_array_equal(slab.views.observations[0][:, 0, 0], [9, 2])

    def test_a_view_outlives_the_slab(self) -> None:
        slab = Slab(self.LAYOUT, 1)
        self.attach(slab, 0, 5)
        view = slab.views.observations[0]
        del slab
        np.testing.assert_array_equal(view[0, 0], 5)
