"""A wrong word is an error of mypy's: `make check` fails where one of these ignores is not needed.

What is right stands beside it, without an ignore. Running it asks what mypy can't: that each is
refused with a sentence at run time, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess import Contract, RandomPolicy, VecCheckedSession, autotune, collect_rollout, evaluate

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
