"""`vecsess.check_env`: what it raises, what it warns of, and what it leaves as it was."""

from __future__ import annotations

import warnings

import gymnasium
import pytest

import tests.cli.strange_envs  # noqa: F401  # registers them
from vecsess import ContractViolation, EnvError, check_env


@pytest.mark.parametrize("given", ["CartPole-v1", lambda: gymnasium.make("CartPole-v1")])
def test_a_sound_environment_passes_without_a_word(given: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(given, steps=60)  # type: ignore[arg-type]


def test_what_a_session_refuses_is_raised() -> None:
    with pytest.raises(ContractViolation, match="field 'reward'"):
        check_env("Lying-v0")


def test_what_it_raises_itself_is_an_env_error() -> None:
    with pytest.raises(EnvError, match="no such place"):
        check_env("Raising-v0")


def test_another_episode_from_the_same_seed_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="from step 3 on"):
        check_env("Gambling-v0")


def test_an_environment_of_the_callers_is_left_open() -> None:
    closed: list[bool] = []
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.close = lambda: closed.append(True)  # type: ignore[method-assign]
    check_env(env, steps=20)
    assert not closed
    env.close()
    assert closed
