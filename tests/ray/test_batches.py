"""The same batch as on one machine, whatever the shards; and what else a session can do."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.collect.mlps import Mlp, Recurrent
from tests.collect.test_paced import assert_same
from tests.envs import CountingEnv
from tests.session.test_parts import ToldEnv, options_of, seed_of
from vecsess import RandomPolicy, VecCheckedSession, collect_rollout, evaluate
from vecsess.bench.nodes import Nodes
from vecsess.collect.rollout import Rollout
from vecsess.errors import ClosedError, StateError

pytest.importorskip("ray")
from vecsess.integrations.ray import RaySession

PATIENT: dict[str, Any] = {"answer_s": 60.0, "start_s": 90.0, "race": None}


class Nested(CountingEnv):
    """Observes a text, a number, and an image, in a Dict."""

    def __init__(self) -> None:
        super().__init__()
        image = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {"text": spaces.Text(8), "number": spaces.Discrete(100), "image": image}
        )

    def _observe(self, action: float) -> Any:
        image = self.np_random.integers(0, 256, (8, 8, 3), np.uint8)
        return {"text": f"s{self.steps}", "number": np.int64(self.steps), "image": image}


def collect(vec: Any, policy: Any = None, **how: Any) -> list[Rollout]:
    policy = policy or RandomPolicy(spaces.Discrete(2))
    vec.start(7)
    seeds = (5, None, None)
    return [collect_rollout(vec, policy, 48, seed=seed, **how) for seed in seeds]


def on_one_machine(env: Any, n: int = 6, policy: Any = None, **settings: Any) -> list[Rollout]:
    with VecCheckedSession(env, n, workers=0, **settings) as vec:
        return collect(vec, policy)


@pytest.mark.parametrize(
    ("shards", "workers", "how"),
    [(1, 2, {}), (3, 1, {"inference": "workers"}), (2, 2, {"pace": "free"})],
)
def test_any_number_of_shards_and_workers(
    nodes: Nodes, shards: int, workers: int, how: dict[str, str]
) -> None:
    with RaySession("CartPole-v1", 7, shards=shards, workers=workers, **PATIENT) as vec:
        assert_same(collect(vec, **how), on_one_machine("CartPole-v1", 7))


def test_policies_of_matrix_products_that_remember(nodes: Nodes) -> None:
    ours, theirs = (Recurrent(4, 2, envs=8, act_rows=4) for _ in range(2))
    with RaySession("CartPole-v1", 6, shards=2, workers=1, **PATIENT) as vec:
        assert_same(collect(vec, ours), on_one_machine("CartPole-v1", 6, theirs))
        np.testing.assert_array_equal(ours.sums[:6], theirs.sums[:6])
        plain = Mlp(4, 2, act_rows=4)
        assert_same(collect(vec, plain), on_one_machine("CartPole-v1", 6, plain))


class Net:
    """Two layers of PyTorch's, always asked for the same number of rows."""

    noise_size, act_rows = 1, 4

    def __init__(self) -> None:
        torch = pytest.importorskip("torch", reason="a policy of PyTorch's needs it")
        torch.manual_seed(1)
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh())
        self.actor, self.critic = torch.nn.Linear(64, 1), torch.nn.Linear(64, 1)

    def act(self, observations: Any, *, noise: Any, **_: Any) -> Any:
        import torch

        with torch.no_grad():
            hidden = self.body(torch.from_numpy(observations))
            share = torch.sigmoid(self.actor(hidden))[:, 0].numpy()
            value = self.critic(hidden)[:, 0].numpy()
        ones = noise[:, 0] < share
        return ones.astype(np.int64), np.log(np.where(ones, share, 1 - share)), value

    def value(self, observations: Any, **_: Any) -> Any:
        import torch

        with torch.no_grad():
            return self.critic(self.body(torch.from_numpy(observations)))[:, 0].numpy()


def test_policies_of_pytorch(nodes: Nodes) -> None:
    policy = Net()
    with RaySession("CartPole-v1", 6, shards=2, workers=1, **PATIENT) as vec:
        got = collect(vec, policy)
        assert_same(got, on_one_machine("CartPole-v1", policy=policy))
        assert len(np.unique(got[0].values)) > 48


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        (ToldEnv, {"episode_seeds": seed_of, "episode_options": options_of}),
        (ToldEnv, {"episode_seeds": "per_episode", "episode_options": {"told": 3}}),
        ([partial(CountingEnv, length=length) for length in range(3, 9)], {}),
    ],
)
def test_seeds_options_and_environments_of_every_kind(
    nodes: Nodes, env: Any, settings: dict[str, Any]
) -> None:
    with RaySession(env, 6, shards=2, workers=1, **settings, **PATIENT) as vec:
        assert_same(collect(vec), on_one_machine(env, **settings))


def only_here(**_: Any) -> Any:
    return CountingEnv(length=7)


def test_an_id_that_only_the_driver_knows(nodes: Nodes) -> None:
    gymnasium.register("OnlyHere-v0", entry_point=only_here, disable_env_checker=True)
    try:
        with RaySession("OnlyHere-v0", 4, shards=2, workers=1, **PATIENT) as vec:
            assert_same(collect(vec), on_one_machine("OnlyHere-v0", 4))
            assert list(vec.incidents) == []
    finally:
        del gymnasium.registry["OnlyHere-v0"]


def test_spaces_of_every_kind(nodes: Nodes) -> None:
    with RaySession(Nested, 4, shards=2, workers=1, **PATIENT) as vec:
        for one, other in zip(collect(vec), on_one_machine(Nested, 4), strict=True):
            for key in ("text", "number", "image"):
                for name in ("observations", "last_observations", "final_observations"):
                    np.testing.assert_array_equal(
                        getattr(one, name)[key], getattr(other, name)[key]
                    )


def test_what_else_a_session_does(nodes: Nodes) -> None:
    with VecCheckedSession("CartPole-v1", 4, workers=0) as one:
        one.start([3, 1, 4, 1])
        steps = [one.step_checked(np.array([0, 1, 1, 0])) for _ in range(12)]
        found = evaluate(one, lambda obs: obs[:, 2:] * [-1, 0], 9, seed=1)
    with RaySession("CartPole-v1", 4, shards=2, workers=1, **PATIENT) as vec:
        with pytest.raises(StateError, match="start"):
            vec.observe()
        vec.start([3, 1, 4, 1])
        for step in steps:
            np.testing.assert_array_equal(vec.observe(), step.observation)
            got = vec.step_checked(np.array([0, 1, 1, 0]))
            np.testing.assert_array_equal(got.next_observation, step.next_observation)
            np.testing.assert_array_equal(got.terminated, step.terminated)
        assert evaluate(vec, lambda obs: obs[:, 2:] * [-1, 0], 9, seed=1).mean == found.mean
        shards = vec.health()
        assert [(each.shard, list(each.envs)) for each in shards] == [(0, [0, 1]), (1, [2, 3])]
        assert all(each.node.startswith("127.0.0.") for each in shards)
        assert [len(each.workers or []) for each in shards] == [1, 1]
    with pytest.raises(ClosedError):
        vec.start()


class Weighted(RandomPolicy):
    def __init__(self, space: spaces.Space[Any], size: int) -> None:
        super().__init__(space)
        self.weights = np.zeros(size, np.uint8)

    def act(self, observations: Any, **how: Any) -> Any:
        self.weights += 1  # it may write to itself
        return super().act(observations, **how)


def test_a_policy_travels_once_a_rollout_and_parts_are_handed_out(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    puts: list[Any] = []
    handed: list[Any] = []
    put = ray.put

    def counted(value: Any) -> Any:
        puts.append(value)
        return put(value)

    monkeypatch.setattr(ray, "put", counted)
    with RaySession("CartPole-v1", 6, shards=3, workers=0, **PATIENT) as vec:
        policy = Weighted(vec.single_action_space, 1 << 20)
        out = vec.collect(policy, 8, seed=1, on_part=lambda envs, part: handed.append((envs, part)))
        assert len(puts) == 1
        assert sorted(envs.start for envs, _ in handed) == [0, 2, 4]
        assert all(part is out for _, part in handed)
        again = vec.collect(policy, 8, out=out)
        assert again is out
        assert again.counter == 16
