"""What follows the end of an episode, in each mode and every grouping, as in SyncVectorEnv."""

from __future__ import annotations

import warnings
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.gymnasium.comparison import Twins
from tests.gymnasium.mode_envs import DiaryEnv
from vecsess import VecCheckedSession, collect_rollout
from vecsess.errors import ResetNeededError, StateError

GROUPINGS = [0, 1, 2, None]
N = 3
MAKERS = [partial(DiaryEnv, 2), partial(DiaryEnv, 3), partial(DiaryEnv, 3)]
ACTIONS = np.array([0, 1, 2])


def open_session(mode: Any, workers: int | None = 0, **arguments: Any) -> VecCheckedSession:
    return VecCheckedSession(MAKERS, workers=workers, autoreset_mode=mode, **arguments)


@pytest.mark.parametrize("workers", GROUPINGS)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_each_mode_is_gymnasiums(mode: AutoresetMode, workers: int | None) -> None:
    with Twins(MAKERS, mode, workers=workers) as twins:
        assert twins.run(12, seed=5) >= 6
        assert twins.run(7, seed=[1, None, 3]) >= 6
        assert twins.run(7, seed=None) >= 6


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_mode_has_three_spellings(mode: AutoresetMode) -> None:
    for spelling in (mode, mode.value, mode.name.lower()):
        with open_session(spelling) as vec:
            assert vec.metadata["autoreset_mode"] is mode
            assert vec.autoreset_mode is mode
    assert "autoreset_mode" not in DiaryEnv.metadata


def test_the_same_step_is_the_default() -> None:
    with VecCheckedSession(MAKERS, workers=0) as vec:
        assert vec.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("spelling", ["sometimes", "NEXT", None, 3])
def test_an_unknown_mode_starts_nothing(spelling: Any) -> None:
    with pytest.raises(ValueError, match=r"expected one of .*'disabled'"):
        VecCheckedSession(MAKERS, autoreset_mode=spelling)


@pytest.mark.parametrize("workers", GROUPINGS)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_reset_right_after_a_done_step_resets_once(
    mode: AutoresetMode, workers: int | None
) -> None:
    with open_session(mode, workers) as vec:
        vec.reset(seed=0)
        vec.step(ACTIONS)
        before = vec.step(ACTIONS)[0][:, 0]  # environment 0 has ended
        observations = vec.reset(seed=0)[0]
        np.testing.assert_array_equal(observations[:, 0], before + 1)
        observations, rewards, *_ = vec.step(ACTIONS)
        np.testing.assert_array_equal(observations[:, 0], before + 1)
        np.testing.assert_array_equal(observations[:, 1], 1)
        np.testing.assert_array_equal(rewards, ACTIONS)


@pytest.mark.parametrize("workers", GROUPINGS)
def test_the_next_step_ignores_the_action_and_gives_no_reward(workers: int | None) -> None:
    with open_session("next_step", workers) as vec:
        vec.reset(seed=0)
        for _ in range(2):
            last, _, terminated, _, _ = vec.step(ACTIONS)
        assert terminated.tolist() == [True, False, False]
        assert last[0].tolist() == [1, 2, 0]
        observations, rewards, terminated, truncated, _ = vec.step([2, 2, 2])
        assert observations[0].tolist() == [2, 0, -1]
        assert rewards.tolist() == [0.0, 2.0, 2.0]
        assert terminated.tolist() == [False, True, True]
        assert not truncated.any()


class TestDisabled:
    @pytest.mark.parametrize("workers", GROUPINGS)
    def test_a_step_of_an_ended_environment_is_refused_first(self, workers: int | None) -> None:
        with open_session("disabled", workers) as vec:
            vec.reset(seed=0)
            vec.step(ACTIONS)
            vec.step(ACTIONS)
            for step in (vec.step, vec.step_async):
                with pytest.raises(ResetNeededError, match=r"environments \[0\].*reset_mask") as e:
                    step(ACTIONS)
                assert isinstance(e.value, ResetNeeded | AssertionError)
            assert vec.observe()[:, 1].tolist() == [2, 2, 2]  # nobody was stepped
            vec.reset(options={"reset_mask": np.array([True, False, False])})
            assert vec.step(ACTIONS)[0][:, 1].tolist() == [1, 3, 3]

    @pytest.mark.parametrize("workers", GROUPINGS)
    def test_a_mask_resets_some(self, workers: int | None) -> None:
        with open_session("disabled", workers) as vec:
            first = vec.reset(seed=[7, 8, 9])[0]
            step = vec.step(ACTIONS)[0]
            mask = np.array([True, False, True])
            options = {"reset_mask": mask, "level": 3}
            observations, infos = vec.reset(seed=[7, 8, 9], options=options)
            assert options.keys() == {"reset_mask", "level"}
            assert options["reset_mask"] is mask
            assert observations[:, 0].tolist() == [2, 1, 2]
            np.testing.assert_array_equal(observations[[0, 2], 2], first[[0, 2], 2])
            np.testing.assert_array_equal(observations[1], step[1])
            assert infos["options"]["level"].tolist() == [3, 0, 3]
            assert infos["_options"].tolist() == mask.tolist()

    @pytest.mark.parametrize("mode", AutoresetMode)
    def test_a_mask_works_in_every_mode(self, mode: AutoresetMode) -> None:
        with Twins(MAKERS, mode, workers=2) as twins:
            twins.reset(0)
            twins.step(ACTIONS)
            twins.step(ACTIONS)
            twins.reset(None, {"reset_mask": np.array([True, True, False])})
            twins.step(ACTIONS)

    @pytest.mark.parametrize(
        ("mask", "error"),
        [
            ([True, True, False], TypeError),
            (None, TypeError),
            (np.array([True]), ValueError),
            (np.array([True, True, False, False]), ValueError),
            (np.array([[True, True, True]]), ValueError),
            (np.array([1, 1, 0]), TypeError),
            (np.array([1.0, 1.0, 0.0]), TypeError),
            (np.zeros(N, np.bool_), ValueError),
        ],
    )
    @pytest.mark.parametrize("started", [True, False])
    def test_a_bad_mask_is_refused_as_gymnasium_does(
        self, mask: Any, error: type[Exception], started: bool
    ) -> None:
        with closing(SyncVectorEnv(MAKERS)) as theirs, pytest.raises(error) as told:
            theirs.reset(options={"reset_mask": mask})
        with open_session("disabled") as vec:
            if started:
                vec.reset(seed=0)
            for reset in (vec.reset, vec.reset_async):
                with pytest.raises(error) as caught:
                    reset(options={"reset_mask": mask})
                assert str(caught.value) == str(told.value)
            assert vec.started == started
            vec.reset(options={"reset_mask": np.ones(N, np.bool_)})

    def test_the_first_reset_is_of_all(self) -> None:
        with open_session("disabled") as vec:
            mask = np.array([True, False, True])
            with pytest.raises(StateError, match="expected a reset of every environment first"):
                vec.reset(options={"reset_mask": mask})


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_trainer_that_resets_what_was_reset_is_told_once(mode: AutoresetMode) -> None:
    with open_session(mode) as vec, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        vec.reset(seed=0)
        vec.reset(options={"reset_mask": np.array([True, False, True])})  # whatever for
        for _ in range(8):
            terminated, truncated = vec.step(ACTIONS)[2:4]
            if (done := terminated | truncated).any():
                vec.reset(options={"reset_mask": done})
    same_step = mode is AutoresetMode.SAME_STEP
    assert [str(one.message)[:33] for one in told] == same_step * [
        "environments [0] are reset again:"
    ]
    assert [Path(one.filename) for one in told] == same_step * [Path(__file__)]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_checked_steps_refuse_the_other_modes(mode: AutoresetMode) -> None:
    with open_session(mode) as vec:
        vec.start(seed=0)
        with pytest.raises(StateError, match=r"expected autoreset_mode='same_step'.*no transition"):
            vec.step_checked(ACTIONS)
        with pytest.raises(StateError, match="same_step"):
            collect_rollout(vec, (np.zeros, np.zeros), 4)
        assert vec.step(ACTIONS)[0][:, 1].tolist() == [1, 1, 1]
