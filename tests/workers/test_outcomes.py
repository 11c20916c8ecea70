"""What is a reward and what is a flag."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from vecsess.wire.leaves import FormError
from vecsess.workers.outcomes import flag_of, reward_of


@pytest.mark.parametrize(
    "value",
    [
        1,
        1.0,
        np.float16(1),
        np.float32(1),
        np.float64(1),
        np.longdouble(1),
        np.int8(1),
        np.uint64(1),
        np.array(1),
        np.array(1.0, np.float32),
    ],
    ids=repr,
)
def test_a_number_is_a_reward(value: Any) -> None:
    reward = reward_of(value)
    assert type(reward) is float
    assert reward == 1.0


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        np.True_,
        "1",
        b"1",
        [1.0],
        (1.0,),
        np.ones(1),
        np.ones((1, 1)),
        1j,
        np.complex64(1),
        Fraction(1, 2),
        10**400,
        -(10**400),
        np.array("1"),
        np.array(None),
        {"reward": 1},
        object,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_nothing_else_is(value: Any) -> None:
    with pytest.raises(FormError, match="expected a number, got") as caught:
        reward_of(value)
    assert caught.value.field == "reward"
    assert type(value).__name__ in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [True, np.True_, np.array(True)], ids=repr)
def test_a_bool_is_a_flag(value: Any) -> None:
    assert flag_of(value, "terminated") is True


@pytest.mark.parametrize(
    "value", [1, 0, None, "True", 1.0, np.int8(1), np.array([True]), np.array(1), []], ids=repr
)
def test_nothing_else_is_a_flag(value: Any) -> None:
    with pytest.raises(FormError, match="expected a bool, got") as caught:
        flag_of(value, "truncated")
    assert caught.value.field == "truncated"
