"""The checks of value, on arrays alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vecsess import Contract
from vecsess.contract import check_flags, check_observations, check_rewards


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
        ],
    )
    def test_a_contract_that_says_nothing_sensible_is_refused(self, arguments: Any) -> None:
        with pytest.raises(ValueError, match=f"Contract.{next(iter(arguments))}: expected"):
            Contract(**arguments)
