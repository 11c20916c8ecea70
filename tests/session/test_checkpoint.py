"""A session as plain data: what a checkpoint holds, and what a restored session goes on with."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import msgpack
import numpy as np
import pytest
from gymnasium import spaces

from vecsess import Contract, RestartPolicy, Timeouts, VecCheckedSession, collect_rollout
from vecsess.collect.policies import RandomPolicy
from vecsess.errors import StateError

N = 4
pytestmark = pytest.mark.usefixtures("no_process_left")


class Speaker(gymnasium.Env[Any, Any]):
    """Observes a text and a number, and is told a text."""

    observation_space = spaces.Dict({"said": spaces.Text(20), "count": spaces.Box(0, 9e9, (1,))})
    action_space = spaces.Text(5, charset="ab")

    def __init__(self, words: Any = ("one", "two", "three")) -> None:
        self.words = list(words)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += len(action)
        return self._seen(), float(self.steps), self.steps > 12, False, {}

    def _seen(self) -> Any:
        word = self.words[int(self.np_random.integers(len(self.words)))]
        return {"said": word, "count": np.array([self.steps], np.float32)}


def through_a_file(data: dict[str, Any]) -> dict[str, Any]:
    """Returns what a checkpoint is after it was packed by msgpack and read again."""
    read: dict[str, Any] = msgpack.unpackb(msgpack.packb(data), strict_map_key=False)
    return read


def actions_of(vec: VecCheckedSession, steps: int) -> list[Any]:
    vec.action_space.seed(3)
    return [vec.action_space.sample() for _ in range(steps)]


def steps_of(vec: VecCheckedSession, actions: list[Any]) -> list[Any]:
    return [vec.step(action)[:4] for action in actions]


def assert_same(one: Any, other: Any) -> None:
    assert repr(one) == repr(other)


@pytest.mark.parametrize("env", ["CartPole-v1", Speaker], ids=["arrays", "by pipe"])
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, None), (None, 3)])
def test_a_session_goes_on_where_it_was_in_any_grouping(
    env: Any, before: int | None, after: int | None
) -> None:
    with VecCheckedSession(env, N, workers=before) as vec:
        vec.reset(seed=5)
        actions = actions_of(vec, 40)
        steps_of(vec, actions[:20])
        data, seen = through_a_file(vec.checkpoint()), vec.observe()
        expected = steps_of(vec, actions[20:])
    given = {} if isinstance(env, str) else {"env": env}
    with VecCheckedSession.restore(data, workers=after, **given) as vec:
        assert vec.unrestored == {}
        assert_same(vec.observe(), seen)
        assert_same(steps_of(vec, actions[20:]), expected)


def test_rollouts_go_on_with_the_same_noise_and_episodes() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        policy = RandomPolicy(vec.single_action_space)
        collect_rollout(vec, policy, 33, seed=1)
        data = through_a_file(vec.checkpoint())
        expected = collect_rollout(vec, policy, 33)
    with VecCheckedSession.restore(data, workers=0) as vec:
        found = collect_rollout(vec, policy, 33)
    np.testing.assert_array_equal(found.observations, expected.observations)
    assert found.episodes == expected.episodes


def by_seven(seed: int, env: int, episode: int) -> int:
    return seed + 7 * episode + env


def long_or_short(env: int, episode: int) -> dict[str, Any]:
    return {"low": -0.01 * env, "high": 0.01 * env + 0.01}


SETTINGS: dict[str, Any] = {
    "contract": Contract(reward_range=(0.0, 5.0)),
    "timeouts": Timeouts(step_s=17.0),
    "restart_policy": RestartPolicy(max_restarts=3),
    "on_error": "truncate",
    "on_violation": "restart",
    "on_limit": "quarantine",
    "episode_seeds": "per_episode",
    "episode_options": {"low": -0.02, "high": 0.02},
    "autoreset_mode": "next_step",
    "infos": "final",
    "copy": False,
    "max_episodes": 1000,
    "make_kwargs": {"sutton_barto_reward": np.bool_(True)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_plain_data_is_as_it_was(name: str) -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2, **{name: SETTINGS[name]}) as vec:
        vec.reset(seed=0)
        actions = actions_of(vec, 60)
        steps_of(vec, actions[:30])
        data = through_a_file(vec.checkpoint())
        expected, terms = steps_of(vec, actions[30:]), vec.engine.terms
    with VecCheckedSession.restore(data, workers=2) as vec:
        assert vec.engine.terms == terms
        assert_same(steps_of(vec, actions[30:]), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("episode_seeds", by_seven),
        ("episode_options", long_or_short),
        ("env", partial(gymnasium.make, "CartPole-v1")),
        ("make_kwargs", {"max_episode_steps": 20, "render_mode": None, "extra": object()}),
    ],
)
def test_what_is_not_must_be_given_again_and_is_named(name: str, value: Any) -> None:
    given = {"env": "CartPole-v1", name: value}
    if name == "make_kwargs":
        given["env"] = "tests.session.test_checkpoint:Taking-v0"
    with VecCheckedSession(n=N, workers=2, **given) as vec:
        vec.reset(seed=0)
        actions = actions_of(vec, 60)
        steps_of(vec, actions[:30])
        data = through_a_file(vec.checkpoint())
        expected = steps_of(vec, actions[30:])
    with pytest.raises(StateError, match=rf"{name}=\.\.\."):
        VecCheckedSession.restore(data, workers=2)
    with VecCheckedSession.restore(data, workers=1, **{name: value}) as vec:
        assert_same(steps_of(vec, actions[30:]), expected)


def taking(extra: Any = None, **given: Any) -> Any:
    """Makes a CartPole that is given an object."""
    del extra
    return gymnasium.make("CartPole-v1", **given).unwrapped


gymnasium.register("Taking-v0", taking, max_episode_steps=20)


def test_a_chain_of_seeds_goes_on_through_an_unseeded_reset() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2, episode_seeds="per_episode") as vec:
        vec.reset(seed=11)
        steps_of(vec, actions_of(vec, 30))
        data = through_a_file(vec.checkpoint())
        expected = vec.reset()[0]
    with VecCheckedSession.restore(data) as vec:
        np.testing.assert_array_equal(vec.reset()[0], expected)


@pytest.mark.parametrize("data", [None, {}, {"format": 1}, b"x", []])
def test_something_else_is_no_checkpoint(data: Any) -> None:
    with pytest.raises(StateError, match="expected a checkpoint of format"):
        VecCheckedSession.restore(data)


class Drifting(gymnasium.Env[Any, Any]):
    """Has randomness that nobody can seed."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.random.default_rng().random(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.random.default_rng().random(1, np.float32), 0.0, False, False, {}


@pytest.mark.filterwarnings("ignore:.*did not reproduce:UserWarning")
def test_an_environment_that_does_not_come_back_begins_anew_and_is_told_of() -> None:
    with VecCheckedSession(Drifting, N, workers=2) as vec:
        vec.reset(seed=0)
        steps_of(vec, actions_of(vec, 3))
        data = through_a_file(vec.checkpoint())
    with pytest.warns(UserWarning, match="could not be restored"):
        vec = VecCheckedSession.restore(data, Drifting, workers=2)
    with vec:
        assert sorted(vec.unrestored) == list(range(N))
        assert vec.step(np.zeros(N, np.int64))[0].shape == (N, 1)
