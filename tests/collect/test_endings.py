"""What a rollout is checked for once it is full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vecsess import VecCheckedSession, collect_rollout
from vecsess.collect.policies import RandomPolicy
from vecsess.errors import PolicyError
from vecsess.tree import Tree

HOW: list[dict[str, Any]] = [
    {},
    {"pace": "pipelined"},
    {"pace": "free"},
    {"inference": "workers"},
]


class Diverging(RandomPolicy):
    """Says NaN or infinity of environment 2."""

    field, number = "log_probs", np.nan

    def act(self, observations: Tree, **asked: Any) -> Any:
        actions, log_probs, values = super().act(observations, **asked)
        if self.field == "log_probs":
            log_probs = np.where(asked["envs"] == 2, np.float32(self.number), log_probs)
        return actions, log_probs, values

    def value(self, observations: Tree, *, envs: Any) -> Any:
        values = super().value(observations, envs=envs)
        if self.field == "values":
            values = np.where(envs == 2, np.float32(self.number), values)
        return values


class DivergingAtTheEnd(Diverging):
    """Says it only of what is not acted on."""

    def act(self, observations: Tree, **asked: Any) -> Any:
        actions, log_probs, values = super().act(observations, **asked)
        return actions, log_probs, np.zeros_like(values)


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize(
    ("kind", "field", "number"),
    [
        (Diverging, "log_probs", np.nan),
        (Diverging, "log_probs", -np.inf),
        (Diverging, "values", np.inf),
        (DivergingAtTheEnd, "values", np.nan),
    ],
)
def test_what_a_policy_says_is_finite(
    how: dict[str, Any], kind: type[Diverging], field: str, number: float
) -> None:
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        policy = kind(vec.single_action_space)
        policy.field, policy.number = field, number
        with pytest.raises(
            PolicyError, match=f"expected finite .*{field}.* got {number}"
        ) as caught:
            collect_rollout(vec, policy, 8, seed=0, **how)
        assert caught.value.env == 2
        vec.reset(seed=0)
        assert collect_rollout(vec, RandomPolicy(vec.single_action_space), 8, **how).valid.all()
