"""The same batch as on one machine, whatever the shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.collect.test_paced import assert_same
from tests.ray.clusters import Nodes
from vecsess import RandomPolicy, VecCheckedSession, collect_rollout
from vecsess.collect.rollout import Rollout

pytest.importorskip("ray")
from vecsess.integrations.ray import RaySession

POLICY = RandomPolicy(spaces.Discrete(2))
PATIENT: dict[str, Any] = {"answer_s": 60.0, "start_s": 90.0, "race": None}


def collect(vec: Any, policy: Any = POLICY, **how: Any) -> list[Rollout]:
    vec.start(7)
    seeds = (5, None, None)
    return [collect_rollout(vec, policy, 48, seed=seed, **how) for seed in seeds]


def on_one_machine(
    env: Any = "CartPole-v1", n: int = 6, policy: Any = POLICY, **settings: Any
) -> Any:
    with VecCheckedSession(env, n, workers=0, **settings) as vec:
        return collect(vec, policy)


@pytest.mark.parametrize("shards", [1, 3])
def test_any_number_of_shards_gives_the_same_batch(nodes: Nodes, shards: int) -> None:
    with RaySession("CartPole-v1", 6, shards=shards, workers=1, **PATIENT) as vec:
        assert_same(collect(vec), on_one_machine())
