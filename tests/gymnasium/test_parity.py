"""The environments that trainers use, step by step as over SyncVectorEnv, in every grouping.

2,000 locksteps of 16 environments each, a share of them in every grouping, each with seeds and
actions of its own. With `VECSESS_PARITY=full` every grouping has all 2,000.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode

from tests.gymnasium.comparison import Twins

N = 16
STEPS = 2_000
GROUPINGS = [None, 0, 1, 2, 3, 5, 16, "auto"]
FULL = os.environ.get("VECSESS_PARITY") == "full"

IDS = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "Taxi-v4",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "HalfCheetah-v5",
]
# Where episodes are long, a limit lets some of them end.
LIMITS = {
    "Acrobot-v1": 150,
    "MountainCarContinuous-v0": 130,
    "CliffWalking-v1": 70,
    "HalfCheetah-v5": 90,
}
SEEDS: list[Any] = [0, [None, *range(1, N)], None, list(range(100, 100 + N))]


def makers(env_id: str) -> list[Any]:
    return [partial(gymnasium.make, env_id, max_episode_steps=LIMITS.get(env_id))] * N


@pytest.mark.parametrize("grouping", range(len(GROUPINGS)), ids=map(str, GROUPINGS))
@pytest.mark.parametrize("env_id", IDS)
def test_observations_rewards_flags_finals_and_infos(env_id: str, grouping: int) -> None:
    steps = STEPS if FULL else STEPS // len(GROUPINGS)
    seed = SEEDS[grouping % len(SEEDS)]
    with Twins(makers(env_id), AutoresetMode.SAME_STEP, workers=GROUPINGS[grouping]) as twins:
        twins.reset(0)  # so that seeds of None go on from something
        episodes = twins.run(steps, seed, action_seed=grouping)
    assert episodes > 0


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_two_thousand_locksteps_in_one_run(env_id: str) -> None:
    with Twins(makers(env_id), AutoresetMode.SAME_STEP, workers=2) as twins:
        assert twins.run(STEPS, 0) >= N * STEPS // 500


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("workers", GROUPINGS)
def test_the_other_modes(mode: AutoresetMode, workers: Any) -> None:
    with Twins(makers("CartPole-v1"), mode, workers=workers) as twins:
        assert twins.run(150, 3) > N
