"""The generators of spaces, told as words."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from tests.gymnasium.comparison import assert_same
from tests.gymnasium.test_spaces import ALL_SPACES
from vecsess.wire.generators import seed_space, space_generators, state_from, words_of
from vecsess.wire.spaces import CustomSpace, build_space, describe
from vecsess.wire.values import FrameError


@pytest.mark.parametrize("name", ALL_SPACES)
def test_a_space_samples_on_as_the_one_that_was_told(name: str) -> None:
    space = deepcopy(ALL_SPACES[name])
    space.seed(3)
    space.sample()
    other = build_space(describe(space))
    seed_space(other, space_generators(space))
    if not isinstance(other, CustomSpace):
        for _ in range(3):
            assert_same(other.sample(), space.sample())


@pytest.mark.parametrize("name", ["Discrete", "Tuple", "image"])
def test_what_was_never_seeded_stays_so(name: str) -> None:
    space = build_space(describe(ALL_SPACES[name]))
    told = space_generators(space)
    assert set(map(type, told)) == {type(None)}
    seed_space(space, told)
    assert space._np_random is None


def test_another_generator_is_not_told() -> None:
    space = build_space(describe(ALL_SPACES["Discrete"]))
    space._np_random = np.random.Generator(np.random.MT19937(0))
    assert space_generators(space) == [None]


@pytest.mark.parametrize("words", [[0] * 5, [2**64 - 1] * 5, list(range(5))])
def test_any_words_are_a_state(words: list[int]) -> None:
    generator = np.random.PCG64()
    generator.state = state_from(words)
    np.random.Generator(generator).integers(9, size=99, dtype=np.uint8)
    again = np.random.PCG64()
    again.state = state_from(words_of(generator) or [])
    assert again.random_raw() == generator.random_raw()


@pytest.mark.parametrize(
    "told", [[], [None, None], [3], [[1] * 4], [[-1] * 5], [[2**64] * 5], [[1.0] * 5], [[True] * 5]]
)
def test_what_are_no_words_is_refused(told: list[Any]) -> None:
    with pytest.raises(FrameError, match="expected"):
        seed_space(build_space(describe(ALL_SPACES["Discrete"])), told)
