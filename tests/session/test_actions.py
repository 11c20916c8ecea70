"""Actions are refused before any worker is told of them, and a refused call changes nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import EchoEnv, counting
from tests.sessions import open_session
from vecsess import Contract, VecCheckedSession
from vecsess.errors import ActionError
from vecsess.session.actions import ActionCheck

N = 3
BOX = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32))
SPACES = {
    "Discrete": spaces.Discrete(3),
    "Discrete from 5": spaces.Discrete(3, start=5),
    "Discrete from -1": spaces.Discrete(3, start=-1),
    "Box": BOX,
    "integer Box": spaces.Box(0, 9, (2,), np.int32),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiDiscrete from 1": spaces.MultiDiscrete([2, 3], start=[1, 1]),
    "MultiBinary": spaces.MultiBinary(2),
}
GOOD: dict[str, Any] = {
    "Discrete": [0, 1, 2],
    "Discrete from 5": [5, 6, 7],
    "Discrete from -1": [-1, 0, 1],
    "Box": [[0.5, 1.5], [-1, 0], [1, 2]],
    "integer Box": [[0, 9], [1, 2], [3, 4]],
    "MultiDiscrete": [[0, 0], [1, 2], [0, 1]],
    "MultiDiscrete from 1": [[1, 1], [2, 3], [1, 2]],
    "MultiBinary": [[0, 1], [1, 1], [0, 0]],
}
NAN = float("nan")
REFUSED: list[tuple[str, Any, str]] = [
    ("Discrete", [0, 1], "expected shape [3], one action for each environment, got [2]"),
    ("Discrete", [0, 1, 0, 1], "got [4]"),
    ("Discrete", [[0], [1], [0]], "got [3, 1]"),
    ("Discrete", 1, "expected shape [3], one action for each environment, got int 1"),
    ("Discrete", [], "got [0]"),
    ("Discrete", [0.0, 1.0, 0.0], "expected int64, got float64"),
    ("Discrete", [NAN, 0, 0], "expected int64, got float64"),
    ("Discrete", [True, False, True], "expected int64, got bool"),
    ("Discrete", ["0", "1", "0"], "expected int64, got <U1"),
    ("Discrete", [None, 0, 0], "expected int64, got object"),
    ("Discrete", None, "got NoneType None"),
    ("Discrete", {"action": 0}, "got dict"),
    ("Discrete", [[0], [1, 2], 0], "expected an array, got list"),
    ("Discrete", [0, 3, 0], "0 <= action < 3, got 3"),
    ("Discrete", [0, 0, -1], "0 <= action < 3, got -1"),
    ("Discrete", [0, 1 << 62, 0], "0 <= action < 3"),
    ("Discrete", np.array([0, 1 << 63, 0], np.uint64), "values that do not fit"),
    ("Discrete", [0, 1 << 70, 0], "expected int64, got object"),
    ("Discrete from 5", [0, 5, 5], "5 <= action < 8, got 0"),
    ("Discrete from 5", [5, 8, 5], "5 <= action < 8, got 8"),
    ("Discrete from -1", [-2, 0, 0], "-1 <= action < 2, got -2"),
    ("Discrete from -1", [2, 0, 0], "-1 <= action < 2, got 2"),
    ("Box", [[0.5, 1.5]], "expected shape [3, 2], one action for each environment, got [1, 2]"),
    ("Box", [0.5, 1.5], "got [2]"),
    ("Box", [[0, NAN], [0, 0], [0, 0]], "finite numbers, got [ 0. nan]"),
    ("Box", [[0, 0], [0, float("inf")], [0, 0]], "finite numbers, got [ 0. inf]"),
    ("Box", [[0, 0], [0, 1e300], [0, 0]], "finite numbers, got [ 0. inf]"),
    ("Box", [[0, 0], [0, 0], [1.25, 0]], "numbers between [-1.  0.] and [1. 2.], got [1.25 0.  ]"),
    ("Box", [[True, False]] * 3, "expected float32, got bool"),
    ("Box", [["a", "b"]] * 3, "expected float32, got <U1"),
    ("Box", [[1 + 1j, 0]] * 3, "expected float32, got complex128"),
    ("integer Box", [[0, 10]] * 3, "numbers between [0 0] and [9 9], got [ 0 10]"),
    ("integer Box", [[0.0, 1.0]] * 3, "expected int32, got float64"),
    ("integer Box", [[0, 1 << 40]] * 3, "values that do not fit"),
    ("MultiDiscrete", [[0, 0], [2, 0], [0, 0]], "numbers between [0 0] and [1 2], got [2 0]"),
    ("MultiDiscrete", [[0, 0], [0, -1], [0, 0]], "got [ 0 -1]"),
    ("MultiDiscrete", [[0.0, 0.0]] * 3, "expected int64, got float64"),
    ("MultiDiscrete", [0, 0, 0], "expected shape [3, 2]"),
    ("MultiDiscrete from 1", [[0, 1]] * 3, "numbers between [1 1] and [2 3], got [0 1]"),
    ("MultiBinary", [[0, 2]] * 3, "zeros and ones, got [0 2]"),
    ("MultiBinary", [[0, -1]] * 3, "zeros and ones, got [ 0 -1]"),
    ("MultiBinary", [[0, 256]] * 3, "values that do not fit"),
    ("MultiBinary", [[0.0, 1.0]] * 3, "expected int8, got float64"),
    ("MultiBinary", [[0, 1, 0]] * 3, "expected shape [3, 2]"),
]


def check(name: str, **contract: Any) -> ActionCheck:
    return ActionCheck(SPACES[name], N, Contract(**contract))


class TestCheck:
    @pytest.mark.parametrize(("name", "actions", "message"), REFUSED)
    def test_it_says_what_was_expected_and_what_came(
        self, name: str, actions: Any, message: str
    ) -> None:
        with pytest.raises(ActionError) as caught:
            check(name)(actions)
        assert message in str(caught.value)
        assert caught.value.field == "actions"
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize("name", SPACES)
    def test_lists_tuples_and_arrays_are_batches(self, name: str) -> None:
        expected = np.array(GOOD[name], SPACES[name].dtype)
        for actions in (GOOD[name], tuple(GOOD[name]), expected):
            (checked,) = check(name)(actions)
            assert checked.dtype == SPACES[name].dtype
            np.testing.assert_array_equal(checked, expected)

    @pytest.mark.parametrize("name", SPACES)
    def test_so_are_other_dtypes_whose_values_fit(self, name: str) -> None:
        kinds = ["float64", "float16"] if name == "Box" else ["int8", "int16", "int32", "int64"]
        for dtype in kinds:
            (checked,) = check(name)(np.array(GOOD[name], dtype))
            assert checked.dtype == SPACES[name].dtype
            np.testing.assert_array_equal(checked, np.array(GOOD[name], SPACES[name].dtype))

    def test_so_are_unsigned_big_endian_and_strided_ones(self) -> None:
        for actions in (
            np.array([0, 1, 2], np.uint64),
            np.array([0, 1, 2], ">i8"),
            np.array([0, 9, 1, 9, 2, 9])[::2],
        ):
            np.testing.assert_array_equal(check("Discrete")(actions)[0], [0, 1, 2])

    def test_strided_ones_are_looked_at_too(self) -> None:
        with pytest.raises(ActionError, match="got 9"):
            check("Discrete")(np.array([0, 9, 1, 9, 2, 9])[1::2])
        with pytest.raises(ActionError, match="got \\[0 2\\]"):
            check("MultiBinary")(np.array([[0, 0, 2]] * 3, np.int8)[:, ::2])

    def test_bools_are_binary(self) -> None:
        (checked,) = check("MultiBinary")([[True, False]] * 3)
        np.testing.assert_array_equal(checked, [[1, 0]] * 3)

    @pytest.mark.parametrize(("actions", "env"), [([3, 0, 0], 0), ([0, 0, -1], 2), ([0, 7, -1], 1)])
    def test_it_names_the_first_environment_with_a_bad_action(
        self, actions: list[int], env: int
    ) -> None:
        with pytest.raises(ActionError) as caught:
            check("Discrete")(actions)
        assert caught.value.env == env


class TestActionRange:
    OUTSIDE: Any = ((0.5, 1.5), (-3, 0), (1, 7))

    def test_outside_is_refused_by_default(self) -> None:
        with pytest.raises(ActionError, match=r"env 1.*expected numbers between"):
            check("Box")(self.OUTSIDE)

    def test_or_clipped(self) -> None:
        (checked,) = check("Box", action_range="clip")(self.OUTSIDE)
        assert checked.dtype == np.float32
        np.testing.assert_array_equal(checked, np.array([[0.5, 1.5], [-1, 0], [1, 2]], np.float32))

    def test_the_callers_array_is_not_clipped(self) -> None:
        actions = np.array(self.OUTSIDE, np.float32)
        check("Box", action_range="clip")(actions)
        np.testing.assert_array_equal(actions, np.array(self.OUTSIDE, np.float32))

    def test_or_allowed(self) -> None:
        (checked,) = check("Box", action_range="allow")(self.OUTSIDE)
        np.testing.assert_array_equal(checked, np.array(self.OUTSIDE, np.float32))

    @pytest.mark.parametrize("action_range", ["raise", "clip", "allow"])
    def test_nan_is_refused_in_any_case(self, action_range: str) -> None:
        with pytest.raises(ActionError, match="finite"):
            check("Box", action_range=action_range)([[NAN, 0]] * 3)

    @pytest.mark.parametrize("action_range", ["clip", "allow"])
    def test_it_is_about_boxes_only(self, action_range: str) -> None:
        for name, actions in (("Discrete", [3] * 3), ("MultiDiscrete", [[2, 0]] * 3)):
            with pytest.raises(ActionError):
                check(name, action_range=action_range)(actions)


@pytest.mark.parametrize("workers", [0, 2])
class TestSession:
    @pytest.mark.parametrize("name", SPACES)
    def test_environments_get_numpy_values_of_the_spaces_dtype(
        self, workers: int, name: str
    ) -> None:
        maker = partial(EchoEnv, action_space=SPACES[name])
        with open_session(maker, N, workers=workers) as vec:
            vec.reset(seed=0)
            observations, *_ = vec.step(GOOD[name])
            sums = np.array(GOOD[name], np.float64).reshape(N, -1).sum(axis=1)
            np.testing.assert_array_equal(observations[:, 2], sums.astype(np.float32))

    def test_a_clipped_action_is_what_the_environment_gets(self, workers: int) -> None:
        maker = partial(EchoEnv, action_space=BOX)
        contract = Contract(action_range="clip")
        with open_session(maker, N, workers=workers, contract=contract) as vec:
            vec.reset(seed=0)
            observations, *_ = vec.step([[9.0, 9.0]] * N)
            np.testing.assert_array_equal(observations[:, 2], 3)

    def test_an_allowed_action_reaches_the_environment(self, workers: int) -> None:
        makers = counting(N, action_space=BOX)
        contract = Contract(action_range="allow")
        with open_session(makers, N, workers=workers, contract=contract) as vec:
            vec.reset(seed=0)
            observations, *_ = vec.step([[9.0, 9.0]] * N)
            np.testing.assert_array_equal(observations[:, 2], 18)

    def test_a_refused_call_changes_nothing(self, workers: int) -> None:
        """Two sessions, one of which is called wrongly again and again."""
        rng = np.random.default_rng(0)
        with (
            open_session("CartPole-v1", N, workers=workers) as one,
            open_session("CartPole-v1", N, workers=workers) as other,
        ):
            same(one.reset(seed=7)[0], other.reset(seed=7)[0])
            for _ in range(40):
                provoke(one)
                actions = rng.integers(0, 2, N)
                for mine, theirs in zip(
                    one.step(actions)[:4], other.step(actions)[:4], strict=True
                ):
                    same(mine, theirs)


def provoke(vec: VecCheckedSession) -> None:
    """Calls every way of stepping with what is no batch of actions."""
    for bad in ([0, 1], [0, 1, 2], [0.5] * 3, [NAN] * 3, [0, 1, 0, 1], [True] * 3, None):
        for step in (vec.step, vec.step_checked, vec.step_async):
            with pytest.raises(ActionError):
                step(bad)


def same(mine: Any, theirs: Any) -> None:
    np.testing.assert_array_equal(mine, theirs)
