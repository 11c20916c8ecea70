"""What is common though of another form: the lenient contract takes it, the strict one does not."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.gymnasium.comparison import assert_same
from tests.gymnasium.lenient_envs import FORMS, VECTOR, WRONG, FormEnv, PlainEnv
from vecsess import Contract, ContractViolation, VecCheckedSession

LENIENT = Contract(form="lenient")
GROUPINGS = [0, 1]


@pytest.mark.parametrize("workers", GROUPINGS)
@pytest.mark.parametrize("name", FORMS)
def test_it_is_taken_as_gymnasium_takes_it(name: str, workers: int) -> None:
    makers: list[Any] = [partial(FormEnv, *FORMS[name])] * 2
    theirs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    with VecCheckedSession(makers, workers=workers, contract=LENIENT) as vec:
        assert_same(vec.reset(seed=0)[0], theirs.reset(seed=0)[0], "reset")
        assert_same(vec.step([0, 1])[:4], theirs.step(np.array([0, 1]))[:4], "step")


def step_once(vec: VecCheckedSession) -> None:
    vec.reset(seed=0)
    vec.step([0] * vec.num_envs)


@pytest.mark.parametrize("name", FORMS)
def test_the_strict_error_names_the_lenient_word(name: str) -> None:
    with (
        VecCheckedSession(partial(FormEnv, *FORMS[name]), 1, workers=0) as vec,
        pytest.raises(ContractViolation, match=r"Contract\(form='lenient'\)"),
    ):
        step_once(vec)


@pytest.mark.parametrize("workers", GROUPINGS)
@pytest.mark.parametrize("name", WRONG)
def test_what_nobody_takes_is_refused_still(name: str, workers: int) -> None:
    maker = partial(PlainEnv, VECTOR, WRONG[name])
    with VecCheckedSession(maker, 1, workers=workers, contract=LENIENT) as vec:
        vec.reset(seed=0)
        with pytest.raises(ContractViolation, match="expected") as caught:
            vec.step([0])
        assert "lenient" not in str(caught.value)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Contract\.form: expected"):
        Contract(form="loose")  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", GROUPINGS)
def test_a_bool_for_an_integer_is_cast_with_a_warning(workers: int) -> None:
    space = spaces.Dict(a=spaces.Box(0, 1, (2,), np.int8), b=spaces.MultiBinary(2))
    bits = np.array([True, False])
    maker = partial(FormEnv, space, lambda: ({"a": bits, "b": bits}, 1.0, False, False))
    with VecCheckedSession(maker, 1, workers=workers) as vec:
        with pytest.warns(UserWarning, match="cast from bool to int8"):
            vec.reset(seed=0)
        observation = vec.step([0])[0]
    assert observation["a"].dtype == observation["b"].dtype == np.int8
    assert observation["a"].tolist() == observation["b"].tolist() == [[1, 0]]
    with (
        VecCheckedSession(maker, 1, workers=workers, contract=Contract(dtype="exact")) as vec,
        pytest.raises(ContractViolation, match="got bool"),
    ):
        vec.reset(seed=0)
