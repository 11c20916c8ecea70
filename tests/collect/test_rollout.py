"""Advantages against a slow, obviously right loop and by hand; the layout of a rollout."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.batch import generalized_advantages, one_hot, z_scores
from vecsess.collect.rollout import Rollout, reuse_or_allocate

BOX = spaces.Box(-1, 1, (3,))


def slow_advantages(rows: dict[str, NDArray[Any]], gamma: float, lam: float) -> NDArray[np.float64]:
    """A_t as the sum of its definition, one environment and one row at a time."""
    horizon, num_envs = rows["rewards"].shape
    advantages = np.zeros((horizon, num_envs))
    for env in range(num_envs):
        for t in range(horizon):
            weight = 1.0
            for later in range(t, horizon):
                row = {name: array[later, env] for name, array in rows.items()}
                if not row["valid"]:
                    break
                bootstrap = 0.0 if row["terminated"] else row["next_values"]
                delta = row["rewards"] + gamma * bootstrap - row["values"]
                advantages[t, env] += weight * delta
                if row["terminated"] or row["truncated"]:
                    break
                weight *= gamma * lam
    return advantages


@st.composite
def random_rows(draw: st.DrawFn) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 4)))
    rare = draw(st.sampled_from([0.0, 0.2, 0.7]))
    return {
        **{name: rng.normal(size=shape) for name in ("rewards", "values", "next_values")},
        **{name: rng.random(shape) < rare for name in ("terminated", "truncated")},
        "valid": rng.random(shape) >= rare,
    }


@given(rows=random_rows(), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_advantages_equal_the_slow_loop(
    rows: dict[str, NDArray[Any]], gamma: float, lam: float
) -> None:
    fast = generalized_advantages(**rows, gamma=gamma, lam=lam)
    np.testing.assert_allclose(fast, slow_advantages(rows, gamma, lam), atol=1e-9)


class TestByHand:
    """γ = 0.5, λ = 0.5; rewards 1, 2, 4; values 10, 20, 30, and 40 after the last row."""

    def advantages(
        self,
        *,
        terminated: int | None = None,
        truncated: int | None = None,
        lost: int | None = None,
    ) -> list[float]:
        marks = np.arange(3)[:, None]
        return [
            float(row[0])
            for row in generalized_advantages(
                [[1.0], [2.0], [4.0]],
                [[10.0], [20.0], [30.0]],
                [[20.0], [30.0], [40.0]],
                marks == terminated,
                marks == truncated,
                valid=marks != lost,
                gamma=0.5,
                lam=0.5,
            )
        ]

    def test_without_an_end_the_last_row_bootstraps(self) -> None:
        # deltas: 1 + 10 - 10 = 1, 2 + 15 - 20 = -3, 4 + 20 - 30 = -6
        assert self.advantages() == [1 + (-3 - 6 / 4) / 4, -3 - 6 / 4, -6]

    def test_termination_takes_the_bootstrap_and_the_trace(self) -> None:
        # delta_1 = 2 + 0 - 20 = -18
        assert self.advantages(terminated=1) == [1 - 18 / 4, -18, -6]

    def test_truncation_takes_the_trace_only(self) -> None:
        assert self.advantages(truncated=1) == [1 - 3 / 4, -3, -6]

    def test_both_flags_are_a_termination(self) -> None:
        assert self.advantages(terminated=1, truncated=1) == self.advantages(terminated=1)

    def test_an_invalid_row_is_zero_and_its_neighbours_do_not_see_it(self) -> None:
        # Row 0 bootstraps from next_values[0], the value of the last good observation.
        assert self.advantages(lost=1) == [1, 0, -6]

    def test_an_invalid_first_and_last_row(self) -> None:
        assert self.advantages(lost=0) == [0, -3 - 6 / 4, -6]
        assert self.advantages(lost=2) == [1 - 3 / 4, -3, 0]

    def test_horizon_one(self) -> None:
        one = generalized_advantages([[1.0]], [[10.0]], [[20.0]], [[False]], [[False]], gamma=0.5)
        assert one.tolist() == [[1.0]]


def test_the_value_after_a_termination_may_be_anything() -> None:
    nan = generalized_advantages([[1.0]], [[0.5]], [[np.nan]], [[True]], [[False]])
    assert nan.tolist() == [[0.5]]


def test_inputs_are_not_changed() -> None:
    rewards = np.ones((4, 2))
    zeros, never = np.zeros((4, 2)), np.zeros((4, 2), dtype=bool)
    generalized_advantages(rewards, zeros, zeros, never, never)
    assert (rewards == 1).all()
    assert not zeros.any()


@pytest.mark.parametrize("wrong", [{"gamma": 1.1}, {"gamma": -0.1}, {"lam": 2.0}, {"lam": np.nan}])
def test_discounts_outside_the_unit_interval_are_refused(wrong: dict[str, float]) -> None:
    rollout = Rollout.empty(2, 1, BOX, spaces.Discrete(2))
    with pytest.raises(ValueError, match=rf"expected {next(iter(wrong))} in \[0, 1\]"):
        rollout.advantages(**wrong)


def filled(horizon: int = 6, num_envs: int = 3, action_space: Any = None) -> Rollout:
    """A rollout of random numbers, with one invalid row, a termination and a truncation."""
    rng = np.random.default_rng(0)
    rollout = Rollout.empty(horizon, num_envs, BOX, action_space or spaces.Discrete(4))
    rollout.actions[...] = rng.integers(0, 2, rollout.actions.shape)
    for name in ("observations", "log_probs", "rewards", "values", "next_values"):
        array = getattr(rollout, name)
        array[...] = rng.normal(size=array.shape)
    rollout.valid[...] = True
    rollout.valid[2, 1] = False
    rollout.truncated[2, 1] = rollout.terminated[3, 0] = rollout.truncated[4, 2] = True
    return rollout


class TestRollout:
    def test_is_time_major_in_the_spaces_dtypes(self) -> None:
        rollout = Rollout.empty(5, 2, spaces.Box(0, 255, (4, 4), np.uint8), spaces.Discrete(2))
        layout = {
            field.name: (array.shape, array.dtype.name)
            for field in dataclasses.fields(rollout)
            if isinstance(array := getattr(rollout, field.name), np.ndarray)
        }
        assert layout == {
            "observations": ((5, 2, 4, 4), "uint8"),
            "actions": ((5, 2), "int64"),
            "log_probs": ((5, 2), "float32"),
            "rewards": ((5, 2), "float64"),
            "terminated": ((5, 2), "bool"),
            "truncated": ((5, 2), "bool"),
            "values": ((5, 2), "float32"),
            "next_values": ((5, 2), "float32"),
            "valid": ((5, 2), "bool"),
            "episode_start": ((5, 2), "bool"),
            "last_observations": ((2, 4, 4), "uint8"),
            "final_observations": ((0, 4, 4), "uint8"),
            "final_steps": ((0,), "int64"),
            "final_envs": ((0,), "int64"),
        }

    def test_dict_and_tuple_spaces_give_dicts_and_tuples_of_arrays(self) -> None:
        space = spaces.Dict({"image": BOX, "rest": spaces.Tuple((BOX, spaces.Discrete(5)))})
        rollout = Rollout.empty(7, 2, space, spaces.Discrete(2))
        shapes = tree.map_leaves(lambda leaf: leaf.shape, rollout.observations)
        assert shapes == {"image": (7, 2, 3), "rest": ((7, 2, 3), (7, 2))}

    def test_an_observation_serves_as_an_example_of_its_space(self) -> None:
        example = {"a": np.zeros(4, dtype=np.float16), "b": (np.int64(3),)}
        rollout = Rollout.empty(2, 1, example, spaces.Discrete(2))
        assert rollout.observations["a"].dtype == np.float16
        assert rollout.observations["b"][0].shape == (2, 1)

    def test_a_space_without_a_shape_gets_an_array_of_objects(self) -> None:
        rollout = Rollout.empty(2, 1, spaces.Dict(a=spaces.Text(5)), spaces.Discrete(2))
        assert rollout.observations["a"].shape == (2, 1)
        assert rollout.observations["a"].dtype == object

    @pytest.mark.parametrize(("horizon", "num_envs"), [(0, 1), (-3, 1), (1, 0)])
    def test_horizon_and_environments_are_positive(self, horizon: int, num_envs: int) -> None:
        with pytest.raises(ValueError, match="expected a positive"):
            Rollout.empty(horizon, num_envs, BOX, spaces.Discrete(2))

    def test_each_lockstep_writes_what_the_next_one_acts_on(self) -> None:
        rollout = Rollout.empty(3, 2, BOX, spaces.Discrete(2))
        for t, rows in enumerate(rollout.step_rows()):
            rows.next_observations[...] = t + 1
            rows.rewards[...] = t
            rows.valid[...] = t != 1
        assert rollout.observations[:, 0, 0].tolist() == [0, 1, 2]
        assert rollout.last_observations[:, 0].tolist() == [3, 3]
        assert rollout.rewards[:, 1].tolist() == [0, 1, 2]
        assert rollout.valid[:, 1].tolist() == [True, False, True]

    def test_advantages_and_returns_are_float32_computed_in_float64(self) -> None:
        rollout = filled()
        names = ("rewards", "values", "next_values", "terminated", "truncated", "valid")
        exact = slow_advantages({name: getattr(rollout, name) for name in names}, 0.9, 0.8)
        advantages, returns = rollout.advantages(0.9, 0.8), rollout.returns(0.9, 0.8)
        assert advantages.dtype == returns.dtype == np.float32
        np.testing.assert_allclose(advantages, exact, rtol=1e-6)
        np.testing.assert_allclose(returns, exact + rollout.values, rtol=1e-6)

    def test_survives_pickling(self) -> None:
        rollout = filled()
        again = pickle.loads(pickle.dumps(rollout))
        np.testing.assert_array_equal(again.advantages(), rollout.advantages())


class TestOut:
    def test_a_rollout_of_the_same_layout_is_used_again(self) -> None:
        out, fresh = filled(), Rollout.empty(6, 3, BOX, spaces.Discrete(4))
        assert reuse_or_allocate(out, fresh) is out
        assert reuse_or_allocate(None, fresh) is fresh

    @pytest.mark.parametrize(
        ("fresh", "field"),
        [
            (Rollout.empty(5, 3, BOX, spaces.Discrete(4)), "observations"),
            (Rollout.empty(6, 4, BOX, spaces.Discrete(4)), "observations"),
            (Rollout.empty(6, 3, BOX, spaces.MultiBinary(2)), "actions"),
            (Rollout.empty(6, 3, BOX, spaces.Discrete(4), value_dtype=np.float64), "values"),
            (Rollout.empty(6, 3, BOX, spaces.Discrete(4), log_prob_dtype=np.float64), "log_probs"),
        ],
    )
    def test_another_layout_is_refused_by_the_name_of_the_field(
        self, fresh: Rollout, field: str
    ) -> None:
        with pytest.raises(ValueError, match=f"`out` does not fit: expected {field} "):
            reuse_or_allocate(filled(), fresh)


class TestActorCriticBatch:
    def test_rows_are_flat_in_time_major_order(self) -> None:
        rollout = filled()
        batch = rollout.to_actor_critic_batch()
        assert batch.observations.shape == (18, 3)
        np.testing.assert_array_equal(batch.observations[7], rollout.observations[2, 1])
        np.testing.assert_array_equal(batch.old_log_probs, rollout.log_probs.ravel())
        assert np.shares_memory(batch.observations, rollout.observations)

    def test_discrete_actions_are_one_hot(self) -> None:
        rollout = filled()
        actions = rollout.to_actor_critic_batch().actions
        assert actions.shape == (18, 4)
        assert actions.dtype == np.float32
        np.testing.assert_array_equal(actions.argmax(axis=1), rollout.actions.ravel())
        np.testing.assert_array_equal(actions.sum(axis=1), 1)

    def test_other_actions_stay_as_they_were_taken(self) -> None:
        rollout = filled(action_space=spaces.MultiBinary(2))
        actions = rollout.to_actor_critic_batch().actions
        np.testing.assert_array_equal(actions, rollout.actions.reshape(18, 2))

    def test_one_hot_counts_from_the_spaces_start(self) -> None:
        hot = one_hot(np.array([-1, 1]), spaces.Discrete(3, start=-1))
        assert hot.tolist() == [[1, 0, 0], [0, 0, 1]]

    def test_advantages_are_z_scores_over_the_valid_rows(self) -> None:
        batch = filled().to_actor_critic_batch(0.9, 0.8)
        chosen = batch.advantages[batch.valid].astype(np.float64)
        assert chosen.size == 17
        assert abs(chosen.mean()) < 1e-6
        assert abs(chosen.std() - 1) < 1e-6
        assert batch.advantages[~batch.valid].tolist() == [0.0]

    def test_value_targets_come_from_the_advantages_before_normalising(self) -> None:
        rollout = filled()
        targets = rollout.to_actor_critic_batch(0.9, 0.8).value_targets
        np.testing.assert_array_equal(targets, rollout.returns(0.9, 0.8).ravel())

    def test_equal_advantages_are_zero_and_not_nan(self) -> None:
        assert z_scores(np.full(3, 7.0), np.ones(3, dtype=bool)).tolist() == [0, 0, 0]
        assert z_scores(np.full(3, 7.0), np.zeros(3, dtype=bool)).tolist() == [0, 0, 0]

    def test_minibatches_hold_each_valid_row_once(self) -> None:
        batch = filled().to_actor_critic_batch()
        batch.value_targets = np.arange(18, dtype=np.float32)
        parts = list(batch.minibatches(5, np.random.default_rng(3)))
        assert [len(part.valid) for part in parts] == [5, 5, 5, 2]
        seen = np.concatenate([part.value_targets for part in parts])
        assert sorted(seen.tolist()) == [float(row) for row in range(18) if row != 7]
        for part in parts:
            rows = part.value_targets.astype(int)
            np.testing.assert_array_equal(part.observations, batch.observations[rows])
            np.testing.assert_array_equal(part.actions, batch.actions[rows])

    def test_minibatches_are_shuffled_by_the_generator_alone(self) -> None:
        batch = filled().to_actor_critic_batch()
        orders = [
            next(batch.minibatches(17, np.random.default_rng(seed))).old_log_probs.tolist()
            for seed in (0, 0, 1)
        ]
        assert orders[0] == orders[1] != orders[2]

    def test_a_minibatch_has_a_row_at_least(self) -> None:
        with pytest.raises(ValueError, match="positive minibatch size, got 0"):
            next(filled().to_actor_critic_batch().minibatches(0, np.random.default_rng(0)))


def test_it_shows_itself_on_one_line() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 255, (84, 84), np.uint8)})
    shown = repr(Rollout.empty(128, 16, space, spaces.Discrete(2)))
    assert "horizon=128, num_envs=16" in shown
    assert "uint8[128, 16, 84, 84]" in shown
    assert len(shown) < 200
