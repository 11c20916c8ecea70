"""What counts as a policy, and the random one over every kind of action space."""

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess.collect.policies import CategoricalPolicy, Policy, RandomPolicy, as_policy, noise_for
from vecsess.collect.sampling import normal_noise, uniform_noise
from vecsess.errors import SpaceError


def logits(observations: Any) -> NDArray[np.float32]:
    return np.zeros((len(observations), 3), dtype=np.float32)


def value(observations: Any) -> NDArray[np.float32]:
    return np.zeros(len(observations), dtype=np.float32)


def act(policy: Policy, rows: int = 1, noise: Any = None) -> tuple[Any, Any, Any]:
    if noise is None:
        noise = uniform_noise(0, 0, np.arange(rows), policy.noise_size)
    envs, start = np.arange(len(noise)), np.zeros(len(noise), dtype=bool)
    return policy.act(
        np.zeros((len(noise), 1)), noise=np.asarray(noise), episode_start=start, envs=envs
    )


class TestAsPolicy:
    def test_a_pair_or_an_object_with_its_two_methods_samples_from_logits(self) -> None:
        class Network:
            predict_logits = staticmethod(logits)
            predict_value = staticmethod(value)

        either: list[Any] = [(logits, value), [logits, value], Network(), Network]
        for given in either:
            policy = as_policy(given, spaces.Discrete(3))
            assert isinstance(policy, CategoricalPolicy)
            assert act(policy, noise=[[0.1], [0.5], [0.9]])[0].tolist() == [0, 1, 2]

    def test_an_object_that_acts_is_taken_as_it_is(self) -> None:
        policy = RandomPolicy(spaces.Discrete(3))
        assert as_policy(policy, spaces.Box(-1, 1)) is policy

    @pytest.mark.parametrize(
        ("given", "missing"),
        [
            (None, "NoneType without predict_logits and predict_value"),
            ((logits,), "tuple without predict_logits and predict_value"),
            ((logits, 3), "tuple without predict_logits and predict_value"),
            (type("Half", (), {"predict_logits": logits}), "type without predict_value"),
            (type("Actor", (), {"act": logits})(), "Actor without value and noise_size"),
        ],
    )
    def test_anything_else_is_told_what_is_missing(self, given: Any, missing: str) -> None:
        with pytest.raises(TypeError, match=f"expected a pair .*got {missing}"):
            as_policy(given, spaces.Discrete(3))

    def test_a_kind_of_noise_that_there_is_not_is_refused(self) -> None:
        policy = RandomPolicy(spaces.Discrete(3))
        policy.noise_kind = "gaussian"  # type: ignore[attr-defined]  # optional in the protocol
        with pytest.raises(ValueError, match=r"noise_kind: expected one of .*got 'gaussian'"):
            as_policy(policy, spaces.Discrete(3))


class TestNoiseFor:
    class Asking(RandomPolicy):
        def __init__(self, size: int, kind: str) -> None:
            self.noise_size, self.noise_kind = size, kind

    def test_uniform_unless_the_policy_says_otherwise(self) -> None:
        policy, envs = RandomPolicy(spaces.Box(-1, 1, (3,))), np.arange(4)
        expected = uniform_noise(7, 5, envs, 3, steps=2)
        np.testing.assert_array_equal(noise_for(policy, 7, 5, envs, 2), expected)
        asking = self.Asking(3, "uniform")
        np.testing.assert_array_equal(noise_for(asking, 7, 5, envs, 2), expected)

    @pytest.mark.parametrize("size", [0, 1, 4, 5])
    def test_normal_columns_are_those_of_the_uniform_pairs(self, size: int) -> None:
        envs = np.arange(4)
        noise = noise_for(self.Asking(size, "normal"), 7, 5, envs, 3)
        pairs = uniform_noise(7, 5, envs, size + size % 2, steps=3)
        assert noise.shape == (3, 4, size)
        np.testing.assert_array_equal(noise, normal_noise(pairs)[..., :size])

    def test_normal_noise_is_the_same_whoever_is_asked_about_together(self) -> None:
        policy = self.Asking(5, "normal")
        whole = noise_for(policy, 7, 0, np.arange(16), 64)
        for t, env in ((0, 0), (13, 5), (63, 15)):
            alone = noise_for(policy, 7, t, np.array([env]), 1)
            np.testing.assert_array_equal(alone[0, 0], whole[t, env])

    def test_normal_noise_has_mean_zero_and_variance_one(self) -> None:
        noise = noise_for(self.Asking(3, "normal"), 1, 0, np.arange(100), 1000).reshape(-1, 3)
        assert np.abs(noise.mean(axis=0)).max() < 0.02  # 6 standard errors
        assert np.abs(np.cov(noise.T) - np.eye(3)).max() < 0.03


class TestCategoricalPolicy:
    def test_logits_of_another_shape_are_refused(self) -> None:
        policy = CategoricalPolicy(logits, value, spaces.Discrete(4))
        with pytest.raises(ValueError, match=r"predict_logits to return \[2, 4\].*got \[2, 3\]"):
            act(policy, rows=2)

    def test_a_space_that_is_not_discrete_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"Discrete action spaces, got Box.*act, value"):
            CategoricalPolicy(logits, value, spaces.Box(-1, 1))

    def test_actions_have_the_spaces_dtype_and_start(self) -> None:
        space = spaces.Discrete(3, start=5, dtype=np.int8)
        actions, _, _ = act(CategoricalPolicy(logits, value, space), rows=20)
        assert actions.dtype == np.int8
        assert set(actions.tolist()) == {5, 6, 7}


FINITE = [
    (spaces.Discrete(5, start=-2), math.log(5)),
    (spaces.MultiDiscrete([2, 3], start=[10, -1]), math.log(6)),
    (spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])), math.log(120)),
    (spaces.MultiBinary(3), math.log(8)),
    (spaces.MultiBinary((2, 2)), math.log(16)),
    (spaces.Box(0, 3, (2,), np.uint8), math.log(16)),
    (spaces.Box(-1, 1, (), np.int64), math.log(3)),
]
UNBOUNDED = spaces.Box(
    np.array([-np.inf, 0.0, -np.inf, -1.0], dtype=np.float32),
    np.array([np.inf, np.inf, 2.0, 3.0], dtype=np.float32),
)


class TestRandomPolicy:
    @pytest.mark.parametrize(
        "space",
        [
            *(space for space, _ in FINITE),
            UNBOUNDED,
            spaces.Box(-2, 2, (2, 3)),
            spaces.Box(-np.inf, np.inf, (3,), np.float64),
            spaces.Box(-1e308, 1e308, (1,), np.float64),
            spaces.Box(1, 1, (2,)),
        ],
        ids=str,
    )
    def test_every_action_is_one_of_the_space(self, space: Any) -> None:
        policy = RandomPolicy(space)
        rows = [uniform_noise(0, 0, range(200), policy.noise_size)]
        rows += [np.full((1, policy.noise_size), end) for end in (0.0, 1 - 2.0**-53)]
        actions, log_probs, values = act(policy, noise=np.concatenate(rows))
        assert actions.shape == (202, *space.shape)
        assert actions.dtype == space.dtype
        assert all(space.contains(np.asarray(action)) for action in actions)
        assert (log_probs.dtype, values.dtype) == (np.dtype(np.float32), np.dtype(np.float32))
        assert np.isfinite(log_probs).all()
        assert not values.any()

    @pytest.mark.parametrize(("space", "information"), FINITE, ids=str)
    def test_every_finite_choice_is_as_likely_as_the_others(
        self, space: Any, information: float
    ) -> None:
        actions, log_probs, _ = act(RandomPolicy(space), rows=4000)
        np.testing.assert_allclose(log_probs, -information, rtol=1e-6)
        choices, counts = np.unique(actions.reshape(4000, -1), axis=0, return_counts=True)
        assert len(choices) == round(math.exp(information))
        assert np.abs(counts - counts.mean()).max() < 5 * math.sqrt(counts.mean())

    def test_a_bounded_box_is_uniform(self) -> None:
        space = spaces.Box(np.array([-1, 10], np.float32), np.array([3, 12], np.float32))
        actions, log_probs, _ = act(RandomPolicy(space), rows=4000)
        np.testing.assert_allclose(log_probs, -math.log(8), rtol=1e-6)
        scaled = np.sort((actions - space.low) / (space.high - space.low), axis=0)
        ranks = (np.arange(4000)[:, None] + 0.5) / 4000
        assert np.abs(scaled - ranks).max() < 2 / math.sqrt(4000)  # Kolmogorov and Smirnov

    def test_an_element_without_bounds_is_normal_and_with_one_exponential(self) -> None:
        policy = RandomPolicy(UNBOUNDED)
        assert policy.noise_size == 5
        actions, log_probs, _ = act(policy, rows=4000)
        normal, above, below, inside = actions.astype(np.float64).T
        assert abs(normal.mean()) < 0.07
        assert abs(normal.std() - 1) < 0.07
        assert abs(above.mean() - 1) < 0.07
        assert abs((2 - below).mean() - 1) < 0.07
        density = -0.5 * (normal**2 + math.log(2 * math.pi)) - above - (2 - below) - math.log(4)
        np.testing.assert_allclose(log_probs, density, atol=1e-5)
        assert np.abs(np.corrcoef(actions.T) - np.eye(4)).max() < 4 / math.sqrt(4000)
        assert inside.min() >= -1

    @pytest.mark.parametrize("space", [spaces.Text(3), spaces.Box(0, 2**64 - 1, (), np.uint64)])
    def test_other_spaces_are_refused(self, space: Any) -> None:
        with pytest.raises(SpaceError, match=r"got (Text|Box)"):
            RandomPolicy(space)
