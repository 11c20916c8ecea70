"""A wrong word is an error of mypy's: `make check` fails where one of these ignores is not needed.

What is right stands beside it, without an ignore. Running it asks what mypy can't: that each is
refused with a sentence at run time, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess import Contract, RandomPolicy, VecCheckedSession, autotune, collect_rollout, evaluate


class Nested(gymnasium.Env[Any, Any]):
    """Observes what `nest` makes of two numbers; an episode has one step."""

    def __init__(self, nest: Callable[[Any], Any]) -> None:
        self.nest = nest
        self.action_space = spaces.Discrete(2)
        parts = nest(spaces.Box(0, 1, (2,), np.float32))
        nested: Any = spaces.Dict if isinstance(parts, dict) else spaces.Tuple
        self.observation_space = nested(parts)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.nest(np.zeros(2, np.float32)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.nest(np.zeros(2, np.float32)), 1.0, True, False, {}


LOGITS = (lambda obs: np.zeros((len(obs), 2)), lambda obs: np.zeros(len(obs)))


class Methods:
    """Has the two methods of a policy for Discrete actions."""

    def predict_logits(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.zeros((len(observations), 2))

    def predict_value(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.zeros(len(observations))


class NoValue:
    """Lacks `predict_value`."""

    def predict_logits(self, observations: Any) -> Any:
        return np.zeros((len(observations), 2))


class OfText:
    """Is written for what no environment gives."""

    def predict_logits(self, observations: str) -> Any:
        return np.zeros((len(observations), 2))

    def predict_value(self, observations: str) -> Any:
        return np.zeros(len(observations))


class OfDicts:
    """Decides at random from a Dict observation, as a `Policy` with types."""

    noise_size = 1

    def act(
        self,
        observations: dict[str, NDArray[np.float32]],
        *,
        noise: NDArray[np.float64],
        episode_start: NDArray[np.bool_],
        envs: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        values = self.value(observations, envs=envs)
        return (noise[:, 0] < 0.5).astype(np.int64), values, values

    def value(
        self, observations: dict[str, NDArray[np.float32]], *, envs: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        return observations["a"][:, 0]


def logits_of_dict(observations: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return observations["a"]


def value_of_dict(observations: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return observations["a"][:, 0]


def logits_of_tuple(observations: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    return observations[0]


def value_of_tuple(observations: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    return observations[0][:, 0]


def logits_of_text(observations: str) -> NDArray[np.float64]:
    return np.zeros((len(observations), 2))


class NoNoise:
    """Lacks `noise_size`."""

    def act(self, observations: Any, **where: Any) -> Any:
        raise NotImplementedError

    def value(self, observations: Any, **where: Any) -> Any:
        raise NotImplementedError


def test_words_of_a_rollout() -> None:
    with VecCheckedSession("CartPole-v1", n=2, workers=0) as vec:
        collect_rollout(vec, LOGITS, 2, pace="free", inference="workers", seed=0)
        with pytest.raises(ValueError, match="pace: expected one of"):
            collect_rollout(vec, LOGITS, 2, pace="fast")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="inference: expected one of"):
            collect_rollout(vec, LOGITS, 2, inference="worker")  # type: ignore[arg-type]


def test_policies() -> None:
    with VecCheckedSession("CartPole-v1", n=2, workers=0) as vec:
        collect_rollout(vec, Methods(), 2, seed=0)
        collect_rollout(vec, RandomPolicy(spaces.Discrete(2)), 2)
        evaluate(vec, LOGITS[0], 2, max_steps=1000)
        with pytest.raises(TypeError, match="without predict_value"):
            collect_rollout(vec, NoValue(), 2)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="without noise_size"):
            collect_rollout(vec, NoNoise(), 2)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a pair"):
            collect_rollout(vec, "random", 2)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a pair"):
            collect_rollout(vec, (LOGITS[0],), 2)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a pair"):
            evaluate(vec, 7, 2)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a pair"):
            autotune("CartPole-v1", 2, policy=7, workers=[0], rounds=1)  # type: ignore[arg-type]


def test_observations() -> None:
    with VecCheckedSession("CartPole-v1", n=2, workers=0) as vec:
        given, _ = vec.reset(seed=0)
        named: NDArray[np.float32] = given
        assert given.shape == named.shape == given[:, 2:].repeat(2, axis=1).shape
        with pytest.raises(AttributeError):
            given.shpae  # type: ignore[union-attr]  # noqa: B018
        stepped, rewards, terminated, truncated, _ = vec.step(np.zeros(2, np.int64))
        assert stepped.shape == (2, 4)
        assert (rewards * (terminated | truncated)).shape == (2,)
        with pytest.raises(AttributeError):
            stepped.cuda()  # type: ignore[union-attr]
        with pytest.raises(AttributeError):
            rewards.cuda()  # type: ignore[attr-defined]
        transition = vec.step_checked([0, 0])
        with pytest.raises(AttributeError):
            transition.next_observation.cuda()  # type: ignore[union-attr]


def test_fields_of_a_rollout() -> None:
    with VecCheckedSession("CartPole-v1", n=2, workers=0) as vec:
        rollout = collect_rollout(vec, LOGITS, 2, seed=0)
        assert rollout.observations.reshape(-1, 4).shape == (rollout.rewards.size, 4)
        for field in (rollout.observations, rollout.actions, rollout.last_observations):
            with pytest.raises(AttributeError):
                field.cuda()  # type: ignore[union-attr]
        with pytest.raises(AttributeError):
            rollout.rewards.cuda()  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            rollout.reward  # type: ignore[attr-defined]  # noqa: B018


def test_what_a_policy_may_be_written_for() -> None:
    with VecCheckedSession(lambda: Nested(lambda box: {"a": box}), n=2, workers=0) as vec:
        given, _ = vec.reset(seed=0)
        assert given["a"].shape == (2, 2)
        assert list(given.keys()) == ["a"]
        rollout = collect_rollout(vec, (logits_of_dict, value_of_dict), 2, seed=0)
        assert rollout.observations["a"].shape == (2, 2, 2)
        collect_rollout(vec, (lambda obs: obs["a"], lambda obs: obs["a"][:, 0]), 2)
        collect_rollout(vec, OfDicts(), 2)
        evaluate(vec, logits_of_dict, 2, max_steps=1000)
    with VecCheckedSession(lambda: Nested(lambda box: (box, box)), n=2, workers=0) as vec:
        given, _ = vec.reset(seed=0)
        assert given[0].shape == (2, 2)
        collect_rollout(vec, (logits_of_tuple, value_of_tuple), 2, seed=0)
    with VecCheckedSession("CartPole-v1", n=2, workers=0) as vec:  # runs: each has a length
        collect_rollout(vec, OfText(), 2, seed=0)  # type: ignore[arg-type]
        collect_rollout(vec, (logits_of_text, LOGITS[1]), 2)  # type: ignore[arg-type]
        evaluate(vec, logits_of_text, 2)  # type: ignore[arg-type]


def test_words_of_a_session() -> None:
    with pytest.raises(ValueError, match="workers: expected"):
        VecCheckedSession("CartPole-v1", n=2, workers="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="autoreset_mode: expected one of"):
        VecCheckedSession("CartPole-v1", n=2, autoreset_mode="same")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start_method: expected"):
        VecCheckedSession("CartPole-v1", n=2, start_method="forkserver")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="infos: expected"):
        VecCheckedSession("CartPole-v1", n=2, infos="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_crash: expected"):
        VecCheckedSession("CartPole-v1", n=2, on_crash="restart")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="affinity: expected"):
        VecCheckedSession("CartPole-v1", n=2, affinity="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="action_range"):
        Contract(action_range="cut")  # type: ignore[arg-type]
