"""The checks of value, on arrays alone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import FaultyEnv
from vecsess import CheckedSession, Contract, VecCheckedSession
from vecsess.contract import ValueCheck, check_flags, check_observations, check_rewards
from vecsess.errors import ContractViolation
from vecsess.integrations.transitions import load_transitions_all
from vecsess.tree import object_array


class TestChecks:
    def test_what_is_fine_is_no_violation(self) -> None:
        contract = Contract(obs_range=(-1, 1), reward_range=(0, 1))
        assert check_rewards(contract, np.array([0.0, 1.0])) is None
        assert check_observations(contract, [np.zeros((2, 3))], ["observation"]) is None
        assert check_flags(contract, np.array([True]), np.array([True])) is None

    def test_huge_numbers_are_finite(self) -> None:
        """The quick check squares them, which overflows."""
        huge = np.full((4, 8), 1e30, np.float32)
        with np.errstate(over="raise"):
            assert check_observations(Contract(), [huge], ["observation"]) is None

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("size", [1, 100, 20_000])
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_one_bad_number_among_many_is_found(self, dtype: Any, size: int, bad: float) -> None:
        batch = np.ones((3, size), dtype)
        batch[1, size // 2] = bad
        violation = check_observations(Contract(), [batch], ["observation"])
        assert violation is not None
        assert (violation.env, violation.field) == (1, "observation")
        assert f"got {bad} at [{size // 2}]" in violation.message

    def test_images_have_no_numbers_that_are_not_finite(self) -> None:
        image = np.full((2, 8, 8, 3), 255, np.uint8)
        assert check_observations(Contract(), [image], ["observation"]) is None
        violation = check_observations(Contract(obs_range=(0, 254)), [image], ["observation"])
        assert violation is not None

    @pytest.mark.parametrize("finite", [True, False])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("bounds", [(0, 1), (-np.inf, np.inf), (0.0, np.inf)])
    def test_nan_is_in_no_range(self, finite: bool, dtype: Any, bounds: Any) -> None:
        contract = Contract(
            check_obs_finite=finite,
            check_reward_finite=finite,
            obs_range=bounds,
            reward_range=bounds,
        )
        batch = np.array([[1, 0], [0, np.nan]], dtype)
        for arrays in ([batch], [object_array([(row, 1) for row in batch])]):
            violation = check_observations(contract, arrays, ["observation"])
            assert violation is not None
            assert (violation.env, violation.field) == (1, "observation")
            assert "got nan" in violation.message
        violation = check_rewards(contract, np.array([0.0, np.nan]))
        assert violation is not None
        assert violation.env == 1

    def test_values_without_a_fixed_shape_are_looked_at(self) -> None:
        """A sequence, a graph and a choice hold floats too; texts and other things are skipped."""
        graph = spaces.GraphInstance(np.zeros((2, 1)), np.array([[np.inf]]), np.array([[9, 9]]))
        for value, message in (
            ((np.zeros(2), np.array([1.0, np.nan])), "finite number, got nan"),
            (graph, "finite number, got inf"),
            ((np.int64(9), np.float32(np.nan)), "finite number, got nan"),
        ):
            rows = object_array(["a text", None, {"a": b"x"}, value])
            check = ValueCheck(Contract(), ["observation"])
            flags = np.zeros(4, bool)
            violation = check.step(np.zeros(4), flags, flags, [rows])
            assert violation is not None
            assert violation.env == 3
            assert message in violation.message
            assert check_observations(Contract(check_obs_finite=False), [rows], ["o"]) is None

    def test_ranges_are_closed(self) -> None:
        contract = Contract(reward_range=(-1, 1))
        assert check_rewards(contract, np.array([-1.0, 1.0])) is None
        assert check_rewards(contract, np.array([0.0, np.nextafter(1.0, 2.0)])) is not None

    @pytest.mark.parametrize(
        "arguments",
        [
            {"action_range": "ignore"},
            {"dtype": "any"},
            {"obs_range": (1, 0)},
            {"reward_range": (0, 1, 2)},
            {"reward_range": (float("nan"), 1)},
            {"reward_range": 5},
            {"obs_range": ("a", 1)},
            {"obs_range": ([0, 0], [1, 1])},
        ],
    )
    def test_a_contract_that_says_nothing_sensible_is_refused(self, arguments: Any) -> None:
        with pytest.raises(ValueError, match=f"Contract.{next(iter(arguments))}: expected"):
            Contract(**arguments)


class TestNaNWithoutTheFiniteChecks:
    """A range refuses NaN wherever transitions come from."""

    FREE: ClassVar[dict[str, Any]] = {"check_obs_finite": False, "check_reward_finite": False}
    PLACES = pytest.mark.parametrize(
        ("fault", "field", "bounds"),
        [
            ("observation with NaN", "next_observation", {"obs_range": (-1e9, 1e9)}),
            ("reward NaN", "reward", {"reward_range": (-1e9, 1e9)}),
        ],
    )

    @PLACES
    def test_in_a_single_session(self, fault: str, field: str, bounds: Any) -> None:
        with CheckedSession.from_gymnasium(FaultyEnv(fault), Contract(**self.FREE)) as session:
            session.start(0)
            session.step_checked(0)
        with CheckedSession.from_gymnasium(
            FaultyEnv(fault), Contract(**self.FREE, **bounds)
        ) as session:
            session.start(0)
            with pytest.raises(ContractViolation, match="got nan") as caught:
                session.step_checked(0)
        assert str(caught.value.field).endswith(field.removeprefix("next_"))

    @PLACES
    @pytest.mark.parametrize("workers", [0, 1])
    def test_in_a_vector_session(self, workers: int, fault: str, field: str, bounds: Any) -> None:
        contract = Contract(**self.FREE, **bounds)
        envs = [lambda: FaultyEnv(), lambda: FaultyEnv(fault)]
        with VecCheckedSession(envs, workers=workers, contract=contract) as vec:
            vec.reset(seed=0)
            with pytest.raises(ContractViolation, match="got nan") as caught:
                vec.step(np.zeros(2, np.int64))
        assert caught.value.env == 1

    @PLACES
    def test_in_a_file(self, fault: str, field: str, bounds: Any) -> None:
        numbers = {"obs": "[0.0]", "reward": "0", "next_obs": "[0.0]"}
        numbers["next_obs" if "observation" in field else field] = (
            "[NaN]" if "observation" in field else "NaN"
        )
        text = '{"transitions": [{"action": 0, "terminated": false, "truncated": false, '
        text += ", ".join(f'"{name}": {value}' for name, value in numbers.items()) + "}]}"
        space, contract = spaces.Box(-1, 1, (1,)), Contract(**self.FREE, **bounds)
        (result,) = load_transitions_all(text, contract, space, spaces.Discrete(2))
        assert isinstance(result, ContractViolation)
        assert result.field == field
