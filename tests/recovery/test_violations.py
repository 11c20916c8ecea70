"""What an environment may hand out, and what becomes of what it may not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.envs import DiscreteObservationEnv, WideEnv, obedient
from tests.faults import FAULTS, LIES
from tests.sessions import open_session, zeros
from vecsess import Contract, ContractViolation, VecCheckedSession

N, GUILTY = 5, 3
GROUPINGS = [pytest.param(0, id="in the trainer"), pytest.param(2, id="2 workers")]


@pytest.fixture(scope="module", params=GROUPINGS)
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def vec(workers: int) -> Iterator[VecCheckedSession]:
    """Environments that break where `reset` tells them to; one session for all the tests below."""
    with open_session(obedient(N), N, workers=workers) as session:
        yield session


def lie(vec: VecCheckedSession, fault: str, *, place: str = "step", at: int = 2) -> None:
    """Resets, and steps until environment 3 has told its lie."""
    options = {"fault": fault, "place": place, "at": at, "index": GUILTY}
    vec.reset(seed=0, options=options)
    for _ in range(at + 1):
        vec.step(zeros(N))


def accept(vec: VecCheckedSession, fault: str) -> tuple[Any, ...]:
    """Returns what the step gives in which environment 3 does something harmless."""
    vec.reset(seed=0, options={"fault": fault, "at": 0, "index": GUILTY})
    return vec.step(zeros(N))


FORM = [
    ("observation of shape [3]", "next_observation", "expected an array of float32 [4]", "[3]"),
    ("observation of shape [1, 4]", "next_observation", "float32 [4]", "shape [1, 4]"),
    ("observation of shape []", "next_observation", "float32 [4]", "shape []"),
    ("observation as a list", "next_observation", "an array of float32 [4]", ", got list ["),
    ("observation None", "next_observation", "an array of float32 [4]", "NoneType None"),
    ("observation as a dict", "next_observation", "an array of float32 [4]", "dict {'obs'"),
    ("observation of int64", "next_observation", "an array of float32 [4]", "got int64"),
    ("observation of bool", "next_observation", "an array of float32 [4]", "got bool"),
    ("observation of objects", "next_observation", "an array of float32 [4]", "got object"),
    ("observation of text", "next_observation", "an array of float32 [4]", "got <U8"),
    ("observation of complex", "next_observation", "an array of float32 [4]", "complex64"),
    ("reward None", "reward", "expected a number", "NoneType None"),
    ("reward as text", "reward", "expected a number", "str '1.0'"),
    ("reward as bytes", "reward", "expected a number", "bytes b'1.0'"),
    ("reward of 1 element", "reward", "expected a number", "ndarray shape [1]"),
    ("reward as a list", "reward", "expected a number", "list [1.0]"),
    ("reward True", "reward", "expected a number", "bool True"),
    ("reward np.True_", "reward", "expected a number", "bool"),
    ("reward complex", "reward", "expected a number", "complex (1+0j)"),
    ("reward beyond float64", "reward", "expected a number", "int 1000"),
    ("terminated 1", "terminated", "expected a bool", "int 1"),
    ("terminated None", "terminated", "expected a bool", "NoneType None"),
    ("terminated as text", "terminated", "expected a bool", "str 'False'"),
    ("terminated of 1 element", "terminated", "expected a bool", "ndarray array([False])"),
    ("terminated 0.0", "terminated", "expected a bool", "float 0.0"),
    ("terminated np.int8", "terminated", "expected a bool", "int8"),
    ("truncated 0", "truncated", "expected a bool", "int 0"),
    ("truncated None", "truncated", "expected a bool", "NoneType None"),
    ("info None", "info", "expected a dict", "NoneType None"),
    ("info as a list", "info", "expected a dict", "list [('key', 1)]"),
    ("info as text", "info", "expected a dict", "str 'info'"),
]
VALUE = [
    ("observation with NaN", "next_observation", "expected a finite number", "got nan at [2]"),
    ("observation with inf", "next_observation", "expected a finite number", "got -inf at [2]"),
    ("reward NaN", "reward", "expected a finite number", "got nan"),
    ("reward inf", "reward", "expected a finite number", "got inf"),
    ("reward float32 NaN", "reward", "expected a finite number", "got nan"),
]


@pytest.mark.parametrize(("fault", "field", "expected", "got"), FORM + VALUE)
def test_a_violation_says_where_it_was_and_what_was_expected(
    vec: VecCheckedSession, workers: int, fault: str, field: str, expected: str, got: str
) -> None:
    with pytest.raises(ContractViolation) as caught:
        lie(vec, fault)
    error = caught.value
    assert error.field == field
    assert (error.env, error.episode, error.step) == (GUILTY, 0, 2)
    assert error.worker == (1 if workers else 0)
    assert expected in str(error)
    assert got in str(error)
    assert f"env {GUILTY}" in str(error)


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        ("observation of shape [3]", "shape [3]"),
        ("observation of int64", "int64"),
        ("observation with NaN", "nan at [2]"),
    ],
)
def test_a_violation_in_reset_names_the_observation(
    vec: VecCheckedSession, fault: str, got: str
) -> None:
    with pytest.raises(ContractViolation, match="observation") as caught:
        lie(vec, fault, place="reset")
    assert caught.value.field == "observation"
    assert (caught.value.env, caught.value.step) == (GUILTY, 0)
    assert got in str(caught.value)


def test_a_violation_names_the_episode_that_it_happened_in(vec: VecCheckedSession) -> None:
    with pytest.raises(ContractViolation) as caught:
        lie(vec, "reward None", at=12)  # episodes have 5 steps
    assert (caught.value.episode, caught.value.step) == (2, 2)


def test_a_violation_in_the_last_step_of_an_episode(vec: VecCheckedSession) -> None:
    for fault in ("observation with NaN", "observation of shape [3]", "reward NaN"):
        with pytest.raises(ContractViolation) as caught:
            lie(vec, fault, at=4)
        assert (caught.value.env, caught.value.episode, caught.value.step) == (GUILTY, 0, 4)


def test_a_session_can_be_reset_after_a_violation(vec: VecCheckedSession) -> None:
    first, _ = vec.reset(seed=5, options={"fault": None})
    before = vec.step(zeros(N))
    with pytest.raises(ContractViolation):
        lie(vec, "reward None")
    again, _ = vec.reset(seed=5, options={"fault": None})
    after = vec.step(zeros(N))
    # The first column counts the resets of an environment's whole life.
    np.testing.assert_array_equal(first[:, 1:], again[:, 1:])
    np.testing.assert_array_equal(before[0][:, 1:], after[0][:, 1:])
    np.testing.assert_array_equal(before[1], after[1])


def test_a_step_without_five_parts_says_what_was_expected(vec: VecCheckedSession) -> None:
    with pytest.raises(ContractViolation, match=r"expected \(observation, .*got tuple of 4"):
        lie(vec, "four parts")


@pytest.mark.parametrize(
    "fault",
    ["reward int", "reward np.float32", "reward np.float64", "reward np.int64", "reward 0-d"],
)
def test_any_real_number_is_a_reward(vec: VecCheckedSession, fault: str) -> None:
    rewards = accept(vec, fault)[1]
    assert rewards.dtype == np.float64
    np.testing.assert_array_equal(rewards, [1, 1, 1, 2, 1])


@pytest.mark.parametrize("fault", ["terminated np.bool_", "terminated 0-d", "truncated np.bool_"])
def test_numpy_bools_are_flags(vec: VecCheckedSession, fault: str) -> None:
    _, _, terminated, truncated, _ = accept(vec, fault)
    assert terminated.dtype == truncated.dtype == np.bool_
    assert not terminated.any()
    assert not truncated.any()


def test_an_observation_may_be_a_view_of_another_array(vec: VecCheckedSession) -> None:
    observations = accept(vec, "observation as a view")[0]
    np.testing.assert_array_equal(observations[:, 1], 1)


def test_both_flags_at_once_are_legal_unless_they_are_excluded(vec: VecCheckedSession) -> None:
    _, _, terminated, truncated, _ = accept(vec, "both flags")
    assert terminated[GUILTY]
    assert truncated[GUILTY]


def test_every_lie_is_told_somewhere() -> None:
    told = {fault for fault, *_ in FORM + VALUE}
    harmless = {"reward int", "reward np.float32", "reward np.float64", "reward np.int64"}
    harmless |= {"reward 0-d", "terminated np.bool_", "terminated 0-d", "truncated np.bool_"}
    elsewhere = {"observation as a view", "both flags", "four parts", "observation of float64"}
    elsewhere |= {"observation of big-endian", "observation with 1e300"}
    elsewhere |= {"observation with 99", "reward 99"}
    assert set(LIES) == told | harmless | elsewhere
    assert not set(LIES) & set(FAULTS)


# --- a contract of one's own ---------------------------------------------------------------------


class TestOptions:
    @pytest.mark.parametrize(
        ("contract", "fault", "field", "message"),
        [
            (
                Contract(obs_range=(-50, 50)),
                "observation with 99",
                "next_observation",
                "expected a number in [-50, 50], got 99.0 at [2]",
            ),
            (
                Contract(reward_range=(0, 1)),
                "reward 99",
                "reward",
                "expected a number in [0, 1], got 99.0",
            ),
            (
                Contract(require_exclusive_done_flags=True),
                "both flags",
                "terminated",
                "expected at most one done flag, got both",
            ),
            (
                Contract(dtype="exact"),
                "observation of float64",
                "next_observation",
                "expected an array of float32 [4], got float64",
            ),
        ],
    )
    def test_what_is_demanded_is_checked(
        self, workers: int, contract: Contract, fault: str, field: str, message: str
    ) -> None:
        with open_session(obedient(N), N, workers=workers, contract=contract) as vec:
            with pytest.raises(ContractViolation) as caught:
                lie(vec, fault)
            assert (caught.value.env, caught.value.step, caught.value.field) == (GUILTY, 2, field)
            assert message in str(caught.value)

    def test_what_is_not_demanded_is_let_through(self, workers: int) -> None:
        contract = Contract(check_obs_finite=False, check_reward_finite=False)
        with open_session(obedient(N), N, workers=workers, contract=contract) as vec:
            assert np.isnan(accept(vec, "observation with NaN")[0][GUILTY, 2])
            assert accept(vec, "reward inf")[1][GUILTY] == np.inf
            lie(vec, "observation with 99")
            lie(vec, "reward 99")


def step_often(vec: VecCheckedSession) -> Any:
    """Returns the observations after a few episodes of two steps."""
    vec.reset(seed=0)
    for _ in range(5):
        observations, *_ = vec.step(zeros(N))
    return observations


class TestDtype:
    def test_another_width_is_cast_with_one_warning(self, workers: int) -> None:
        makers = [partial(WideEnv, length=2)] * N
        with open_session(makers, N, workers=workers) as vec:
            with pytest.warns(UserWarning, match="cast") as warned:
                observations = step_often(vec)
            assert observations.dtype == np.float32
            np.testing.assert_array_equal(observations[:, 1], 1)
            assert len(warned) == 1
            assert re.match(
                r"env \d: observation: cast from float64 to float32", str(warned[0].message)
            )

    def test_collection_warns_too(self, workers: int) -> None:
        """`step_checked` asks for no infos, but for warnings."""
        with open_session(obedient(N), N, workers=workers) as vec:
            vec.reset(options={"fault": "observation of float64", "at": 1, "index": GUILTY})
            vec.step_checked(zeros(N))
            with pytest.warns(UserWarning, match=f"env {GUILTY}: observation: cast from float64"):
                vec.step_checked(zeros(N))

    def test_the_byte_order_is_only_a_width(self, workers: int) -> None:
        with open_session(obedient(N), N, workers=workers) as vec:
            with pytest.warns(UserWarning, match="cast from >f4 to float32"):
                observations = accept(vec, "observation of big-endian")[0]
            np.testing.assert_array_equal(observations[:, 1], 1)

    def test_what_does_not_fit_is_not_finite_any_more(self, workers: int) -> None:
        with (
            open_session(obedient(N), N, workers=workers) as vec,
            pytest.warns(UserWarning, match="cast from float64"),
            pytest.raises(ContractViolation, match="expected a finite number, got inf"),
        ):
            accept(vec, "observation with 1e300")


class TestDiscreteObservations:
    @pytest.mark.parametrize(
        "told", [7, np.int64(7), np.int32(7), np.uint8(7), np.array(7)], ids=repr
    )
    def test_any_integer_will_do(self, told: Any) -> None:
        with open_session([partial(DiscreteObservationEnv, told)] * 2, 2, workers=0) as vec:
            observations, _ = vec.reset()
            assert observations.dtype == np.int64
            np.testing.assert_array_equal(observations, [7, 7])

    @pytest.mark.parametrize("told", [7.0, None, "7", np.array([7]), 1 << 64], ids=repr)
    def test_nothing_else_will(self, told: Any) -> None:
        with open_session([partial(DiscreteObservationEnv, told)] * 2, 2, workers=0) as vec:
            with pytest.raises(ContractViolation, match="expected an integer of int64") as caught:
                vec.reset()
            assert caught.value.field == "observation"
