"""Other numbers of shards, other machines, slow ones: the same batch goes on."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import msgpack
import numpy as np
import pytest
from gymnasium import spaces

from tests.collect.test_paced import assert_same
from tests.envs import CountingEnv
from vecsess import RandomPolicy, VecCheckedSession, collect_rollout
from vecsess.bench.nodes import Nodes
from vecsess.errors import StateError

pytest.importorskip("ray")

import ray

from tests.ray.test_batches import PATIENT, collect, on_one_machine
from vecsess.integrations.ray import RaySession

POLICY = RandomPolicy(spaces.Discrete(2))


def through_msgpack(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(msgpack.packb(data))
    return found


def test_a_session_goes_on_in_other_shards_and_on_one_machine(nodes: Nodes) -> None:
    settings: dict[str, Any] = {"episode_seeds": "per_episode"}
    with RaySession("CartPole-v1", 6, shards=2, workers=1, **settings, **PATIENT) as vec:
        with pytest.raises(StateError, match="nothing to keep"):
            vec.checkpoint()
        vec.start(7)
        added: list[str] = []

        def add(*_: Any) -> None:
            if not added:
                added.append(nodes.add())

        got = [vec.collect(POLICY, 48, seed=5, on_part=add)]
        vec.reshard(3)
        assert len(vec.health()) == 3
        got.append(collect_rollout(vec, POLICY, 48))
        data = through_msgpack(vec.checkpoint())
    with VecCheckedSession.restore(data, workers=2) as one:
        got.append(collect_rollout(one, POLICY, 48))
    assert_same(got, on_one_machine("CartPole-v1", **settings))


def test_a_session_of_one_machine_goes_on_in_shards(nodes: Nodes) -> None:
    with VecCheckedSession("CartPole-v1", 6, workers=0) as one:
        one.start(7)
        got = [collect_rollout(one, POLICY, 48, seed=5)]
        data = one.checkpoint()
    with RaySession.restore(data, shards=2, workers=1, **PATIENT) as vec:
        got += [collect_rollout(vec, POLICY, 48) for _ in range(2)]
    assert_same(got, on_one_machine("CartPole-v1"))


class Straggler(CountingEnv):
    """From some step on, one of all is slow; a copy of it is not."""

    def __init__(self, mark: str) -> None:
        super().__init__(length=9)
        self.mark, self.taken = Path(mark), 0

    def step(self, action: Any) -> Any:
        self.taken += 1
        if self.taken == 60:
            try:
                self.mark.touch(exist_ok=False)
                self.duration_s = 0.5
            except FileExistsError:
                pass
        return super().step(action)


def test_a_straggler_is_outrun(nodes: Nodes, tmp_path: Path) -> None:
    mark = tmp_path / "slow"
    waits = {**PATIENT, "race": 2.0}
    with RaySession(partial(Straggler, str(mark)), 6, shards=3, workers=1, **waits) as vec:
        assert_same(collect(vec), on_one_machine(partial(Straggler, str(mark))))
        assert mark.exists()
        assert "Outrun" in [each.incident.kind for each in vec.incidents]


def normalized() -> Any:
    """Its running mean is state that no seed of an episode brings back: all episodes do."""
    return gymnasium.wrappers.NormalizeObservation(CountingEnv(length=7))


def test_environments_that_remember_earlier_episodes_are_brought_back(nodes: Nodes) -> None:
    with RaySession(normalized, 4, shards=2, workers=1, **PATIENT) as vec:
        vec.start(7)
        got = [collect_rollout(vec, POLICY, 300, seed=5)]
        ray.kill(vec._shards.slots[0].copies[0].actor)
        got.append(collect_rollout(vec, POLICY, 20))
        ray.kill(vec._shards.slots[1].copies[0].actor)
        got.append(collect_rollout(vec, POLICY, 20))
        vec.reshard(3)
        got.append(collect_rollout(vec, POLICY, 20))
        assert {each.incident.kind for each in vec.incidents} == {"ActorDiedError"}
    with VecCheckedSession(normalized, 4, workers=0) as one:
        one.start(7)
        horizons = (300, 20, 20, 20)
        seeds = (5, None, None, None)
        alone = [
            collect_rollout(one, POLICY, horizon, seed=seed)
            for horizon, seed in zip(horizons, seeds, strict=True)
        ]
    assert_same(got, alone)


class Unsteady(CountingEnv):
    """Its randomness is its own, so that no replay brings it back."""

    def _observe(self, action: float) -> Any:
        self.buffer[:] = self.episode, self.steps, action, np.random.default_rng().random()
        return self.buffer


MASKS = ("valid", "truncated", "terminated", "rewards", "episode_start")


@pytest.mark.parametrize("how", [{}, {"inference": "workers"}])
def test_environments_that_do_not_reproduce_are_cut_off_as_on_one_machine(
    nodes: Nodes, how: Any
) -> None:
    with RaySession(partial(Unsteady, 50), 4, shards=2, workers=1, **PATIENT) as vec:
        vec.start(7)
        before = collect_rollout(vec, POLICY, 8, seed=5).last_observations.copy()
        ray.kill(vec._shards.slots[1].copies[0].actor)
        rollout = collect_rollout(vec, POLICY, 8, **how)
        unrestored = [e.incident for e in vec.incidents if e.incident.kind == "Unrestored"]
        assert [sorted(incident.outcomes) for incident in unrestored] == [[2, 3]]
        assert collect_rollout(vec, POLICY, 8).valid.all()
    with VecCheckedSession(partial(Unsteady, 50), 4, workers=2) as one:
        one.start(7)
        collect_rollout(one, POLICY, 8, seed=5)
        os.kill(one.pids[2], signal.SIGKILL)
        with pytest.warns(UserWarning, match="a replay did not reproduce"):
            alone = collect_rollout(one, POLICY, 8)
    for name in MASKS:
        np.testing.assert_array_equal(getattr(rollout, name), getattr(alone, name), name)
    assert rollout.valid[0].tolist() == [True, True, False, False]
    assert rollout.final_envs.tolist() == alone.final_envs.tolist() == [2, 3]
    np.testing.assert_array_equal(rollout.final_observations, before[2:])
