"""The state of an environment's random numbers, as words: what is saved begins the same episode."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vecsess.wire.generators import words_of
from vecsess.workers import episodes as rng_state
from vecsess.workers.episodes import RngRecord, load_rng


def env_with(generator: Any) -> Any:
    env = gym.make("CartPole-v1")
    env.unwrapped.np_random = np.random.Generator(generator)
    return env


def drawn(env: Any) -> Any:
    # 32-bit draws too: they leave half a word for the next.
    rng = env.unwrapped.np_random
    return [*rng.integers(0, 1 << 32, 3, np.uint32).tolist(), *rng.random(2).tolist()]


@pytest.mark.parametrize("half_a_word", [False, True])
@pytest.mark.parametrize("from_memory", [True, False])
def test_what_is_saved_draws_the_same_again(
    half_a_word: bool, from_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not from_memory:  # as with a NumPy that lays its words out in another way
        monkeypatch.setattr(rng_state, "_memory_of", lambda generator: None)
    words = np.zeros(6, np.uint64)
    env = env_with(np.random.PCG64(7))
    if half_a_word:
        env.unwrapped.np_random.integers(0, 1 << 32, 1, np.uint32)
    record = RngRecord(words)
    for _ in range(3):
        record.save(env)
        first = drawn(env)
        assert words[0] == 1
        load_rng(env, words)
        assert drawn(env) == first


def test_the_words_in_memory_are_those_of_its_state() -> None:
    generator = np.random.PCG64(3)
    np.random.Generator(generator).integers(0, 1 << 32, 1, np.uint32)
    found = rng_state._memory_of(generator)
    assert found is not None, "this NumPy keeps PCG64's words where they are looked for"
    words, spare = found
    assert [*words, spare.value] == words_of(generator)


def test_a_new_generator_is_noticed() -> None:
    words = np.zeros(6, np.uint64)
    env, record = env_with(np.random.PCG64(1)), RngRecord(words)
    record.save(env)
    before = words.copy()
    env.unwrapped.np_random = np.random.Generator(np.random.PCG64(2))
    record.save(env)
    assert not np.array_equal(words, before)


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64DXSM, np.random.SFC64])
def test_another_kind_of_generator_is_said_to_be_unknown(kind: Any) -> None:
    words = np.ones(6, np.uint64)
    RngRecord(words).save(env_with(kind(1)))
    assert words[0] == 0
