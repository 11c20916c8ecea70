"""From what a session is made, and whether its environments agree."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_differing_spaces

from tests.envs import CountingEnv
from tests.gymnasium.comparison import Twins
from tests.gymnasium.sample_envs import SampleEnv
from vecsess import VecCheckedSession
from vecsess.errors import SpaceError, SpaceMismatchError

GROUPINGS = [0, 2, None]
BOXES = [spaces.Box(0, high, (5,)) for high in (1, 2, 3)]
PAIR = (spaces.Box(0, 9, (3, 5)), spaces.Box(0, 9, (5,)))


def makers(*observation_spaces: spaces.Space[Any]) -> list[Any]:
    return [partial(SampleEnv, space) for space in observation_spaces]


class TestWhatIsRun:
    @pytest.mark.parametrize("workers", GROUPINGS)
    def test_a_sequence_says_how_many(self, workers: int | None) -> None:
        lengths = [2, 3, 4]
        with VecCheckedSession(
            [partial(CountingEnv, length) for length in lengths], workers=workers
        ) as vec:
            assert vec.num_envs == 3
            vec.reset(seed=0)
            ended = [vec.step([0] * 3)[2].tolist() for _ in range(4)]
        assert ended == [
            [False, False, False],
            [True, False, False],
            [False, True, False],
            [True, False, True],
        ]

    def test_a_tuple_too(self) -> None:
        with VecCheckedSession((CountingEnv, CountingEnv), workers=0) as vec:
            assert vec.num_envs == 2

    @pytest.mark.parametrize("env", ["CartPole-v1", CountingEnv, gymnasium.spec("CartPole-v1")])
    def test_else_there_are_16(self, env: Any) -> None:
        with VecCheckedSession(env, workers=0) as vec:
            assert vec.num_envs == 16

    def test_a_spec_with_its_arguments(self) -> None:
        spec = gymnasium.make("Pendulum-v1", g=1.5).spec
        assert spec is not None
        with VecCheckedSession(spec, 2, workers=2) as vec:
            assert vec.get_attr("g") == (1.5, 1.5)

    def test_an_id_with_arguments(self) -> None:
        with VecCheckedSession("Pendulum-v1", 2, make_kwargs={"g": 2.5}, workers=2) as vec:
            assert vec.get_attr("g") == (2.5, 2.5)

    @pytest.mark.parametrize(
        ("env", "n", "error"),
        [
            ([], None, ValueError),
            ([CountingEnv] * 2, 3, TypeError),
            ([CountingEnv, "CartPole-v1"], None, TypeError),
            ("CartPole-v1", 0, ValueError),
            ("CartPole-v1", -1, ValueError),
            ("CartPole-v1", 2.0, ValueError),
            (3, None, TypeError),
        ],
    )
    def test_what_makes_no_sense_starts_nothing(
        self, env: Any, n: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="expected"):
            VecCheckedSession(env, n)


@pytest.mark.parametrize("workers", GROUPINGS)
class TestObservationModes:
    def test_the_same_for_all(self, workers: int | None) -> None:
        with pytest.raises(
            RuntimeError,
            match=r"observation spaces are not equivalent.*use `observation_mode='different'`",
        ) as caught:
            VecCheckedSession(makers(*BOXES), workers=workers)
        assert isinstance(caught.value, SpaceMismatchError | SpaceError)
        assert caught.value.env == 1

    @pytest.mark.parametrize(
        "found",
        [
            BOXES,
            [spaces.Discrete(n, start=n) for n in (2, 3, 4)],
            [spaces.MultiDiscrete([n, n]) for n in (2, 3, 4)],
            [spaces.Dict(a=box, b=spaces.Discrete(2)) for box in BOXES],
            [spaces.Tuple([box, spaces.Text(4)]) for box in BOXES],
        ],
        ids=lambda found: type(found[0]).__name__,
    )
    def test_different_bounds(self, found: list[spaces.Space[Any]], workers: int | None) -> None:
        with Twins(
            makers(*found),
            AutoresetMode.SAME_STEP,
            workers=workers,
            observation_mode="different",
        ) as twins:
            assert twins.ours.observation_space == batch_differing_spaces(found)
            assert twins.ours.single_observation_space == found[0]
            assert twins.ours.observation_mode == "different"
            twins.run(7)

    def test_a_pair_of_ones_own(self, workers: int | None) -> None:
        with VecCheckedSession(makers(*BOXES), workers=workers, observation_mode=PAIR) as vec:
            assert vec.observation_space is PAIR[0]
            assert vec.single_observation_space is PAIR[1]
            assert vec.reset(seed=0)[0].shape == (3, 5)

    @pytest.mark.parametrize("mode", ["same", "different", PAIR])
    @pytest.mark.parametrize(
        "found",
        [
            [spaces.Box(0, 1, (size,)) for size in (1, 2, 3)],
            [spaces.Box(0, 1, (5,), kind) for kind in (np.float32, np.float64, np.float16)],
            [spaces.Box(0, 1, (5,)), spaces.Discrete(5), spaces.Dict(a=spaces.Discrete(2))],
        ],
        ids=["shapes", "dtypes", "types"],
    )
    def test_other_shapes_dtypes_and_types(
        self, found: list[spaces.Space[Any]], mode: Any, workers: int | None
    ) -> None:
        with pytest.raises(RuntimeError, match="observation_mode="):
            VecCheckedSession(makers(*found), workers=workers, observation_mode=mode)

    def test_actions_are_the_same_for_all(self, workers: int | None) -> None:
        found = [partial(SampleEnv, BOXES[0], spaces.Discrete(n)) for n in (2, 2, 3)]
        for mode in ("same", "different", PAIR):
            with pytest.raises(RuntimeError, match=r"action space.*expected that of env 0") as e:
                VecCheckedSession(found, workers=workers, observation_mode=mode)
            assert e.value.env == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("mode", "error"),
    [("invalid", ValueError), (3, ValueError), (("a", "b"), TypeError), ((BOXES[0],), ValueError)],
)
def test_an_unknown_observation_mode_starts_nothing(mode: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"Invalid `observation_mode`|to be Spaces"):
        VecCheckedSession(makers(*BOXES), observation_mode=mode)


@pytest.mark.parametrize("workers", GROUPINGS)
class TestCopy:
    def test_observations_are_the_callers_own(self, workers: int | None) -> None:
        with VecCheckedSession(CountingEnv, 3, workers=workers) as vec:
            first, _ = vec.reset(seed=0)
            kept = first.copy()
            second = vec.step([0] * 3)[0]
            assert not np.shares_memory(first, second)
            first[:] = -1
            second[:] = -1
            assert vec.step([0] * 3)[0][:, 1].tolist() == [2, 2, 2]
            np.testing.assert_array_equal(vec.reset(seed=0)[0][:, 3], kept[:, 3])

    def test_without_copies_they_are_the_same_arrays(self, workers: int | None) -> None:
        with VecCheckedSession(CountingEnv, 3, workers=workers, copy=False) as vec:
            first, _ = vec.reset(seed=0)
            second, rewards, *_ = vec.step([0] * 3)
            assert second is first
            assert first[:, 1].tolist() == [1, 1, 1]
            assert vec.step([0] * 3)[1] is not rewards
            vec.reset(seed=0)
            assert first[:, 1].tolist() == [0, 0, 0]

    def test_nested_ones_too(self, workers: int | None) -> None:
        space = spaces.Dict(a=spaces.Box(0, 1, (2,)), b=spaces.Tuple([spaces.Discrete(2)]))
        with VecCheckedSession(makers(space, space), workers=workers, copy=False) as vec:
            first, _ = vec.reset(seed=0)
            second = vec.step([0] * 2)[0]
            assert second["a"] is first["a"]
            assert second["b"][0] is first["b"][0]
