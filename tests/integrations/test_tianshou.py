"""tianshou's vector environment over sessions: the same as its own, steps of some included."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.envs import CountingEnv
from vecsess.errors import WorkerDied

pytest.importorskip("tianshou", reason="needs tianshou", exc_type=ImportError)

from tianshou.env import DummyVectorEnv

from vecsess.integrations.tianshou import SessionVectorEnv

pytestmark = pytest.mark.usefixtures("no_process_left")


def make() -> Any:
    return gymnasium.make("CartPole-v1")


def played(envs: Any) -> list[Any]:
    """Returns what comes of 100 steps, in the end of two environments of three."""
    envs.seed(3)
    found, rng, live = list(envs.reset()), np.random.default_rng(0), [0, 1, 2]
    for t in range(100):
        live = [0, 2] if t == 50 else live
        observations, *rest, infos = envs.step(rng.integers(0, 2, len(live)), live)
        found += [observations, *rest, [info["env_id"] for info in infos]]
        ended = [live[row] for row in np.flatnonzero(rest[1] | rest[2])]
        if ended:
            found.append(envs.reset(ended)[0])
    envs.close()
    return found


def test_steps_and_resets_of_some_are_those_of_tianshous_own() -> None:
    ours, theirs = SessionVectorEnv([make] * 3), DummyVectorEnv([make] * 3)
    assert len(ours) == len(theirs) == 3
    assert ours.action_space == theirs.action_space
    assert [spec.id for spec in ours.spec] == ["CartPole-v1"] * 3
    for one, other in zip(played(ours), played(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


class Dying(CountingEnv):
    def step(self, action: Any) -> Any:
        import os

        os._exit(1)


def test_a_crash_is_an_error_of_its_own_session_only() -> None:
    envs = SessionVectorEnv([CountingEnv, Dying], on_crash="raise")
    envs.reset()
    actions = [space.sample() for space in envs.action_space]
    with pytest.raises(WorkerDied):
        envs.step(np.array(actions))
    assert envs.step(np.array(actions[:1]), id=[0])[0].shape[0] == 1
    envs.close()
