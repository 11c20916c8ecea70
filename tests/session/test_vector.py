"""A session of N environments: what its calls give out, and to whom the arrays belong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from tests.envs import counting
from tests.sessions import open_session, zeros
from vecsess import VecCheckedSession
from vecsess.contract import StepRows

N, LENGTH = 5, 3
GROUPINGS = [pytest.param(0, id="in the trainer"), pytest.param(2, id="2 workers")]


@pytest.fixture(scope="module", params=GROUPINGS)
def vec(request: pytest.FixtureRequest) -> Iterator[VecCheckedSession]:
    with open_session(counting(N, length=LENGTH), N, workers=request.param) as session:
        yield session


def cartpoles(n: int) -> Any:
    makers = [lambda: gymnasium.make("CartPole-v1")] * n
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def test_it_is_a_vector_environment_of_gymnasium(vec: VecCheckedSession) -> None:
    assert isinstance(vec, VectorEnv)
    assert vec.num_envs == N
    assert vec.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vec.action_space.shape == (N,)


class TestBatch:
    def test_dtypes_and_shapes(self, vec: VecCheckedSession) -> None:
        observations, infos = vec.reset(seed=0)
        assert observations.shape == (N, 4)
        assert observations.dtype == np.float32
        assert infos == {}
        _, rewards, terminated, truncated, _ = vec.step(zeros(N))
        for array, dtype in ((rewards, np.float64), (terminated, np.bool_), (truncated, np.bool_)):
            assert array.shape == (N,)
            assert array.dtype == dtype

    def test_actions_go_to_their_own_environments(self, vec: VecCheckedSession) -> None:
        vec.reset(seed=0)
        for actions in ([0, 1, 0, 1, 1], [1, 1, 0, 0, 1]):
            np.testing.assert_array_equal(vec.step(actions)[0][:, 2], actions)

    def test_no_later_step_changes_what_was_given_out(self, vec: VecCheckedSession) -> None:
        given = [vec.reset(seed=0)[0]]
        kept = [given[0].copy()]
        for _ in range(2 * LENGTH):
            result = vec.step(zeros(N))
            given += [*result[:4]]
            kept += [array.copy() for array in result[:4]]
            if "final_obs" in result[4]:
                given.append(np.stack(result[4]["final_obs"]))
                kept.append(given[-1].copy())
        for array, copied in zip(given, kept, strict=True):
            np.testing.assert_array_equal(array, copied)

    def test_nor_does_the_caller_change_the_next_step(self, vec: VecCheckedSession) -> None:
        observations, _ = vec.reset(seed=0)
        observations[...] = 77
        np.testing.assert_array_equal(vec.observe()[:, 1], 0)
        for array in vec.step(zeros(N))[:2]:
            array[...] = 77
        np.testing.assert_array_equal(vec.step(zeros(N))[0][:, 1], 2)


@pytest.mark.parametrize("workers", GROUPINGS)
def test_arrays_outlive_their_session(workers: int) -> None:
    with open_session(counting(N), N, workers=workers) as session:
        observations, _ = session.reset(seed=0)
        transition = session.step_checked(zeros(N))
        expected = copy.deepcopy((observations, transition.next_observation, transition.reward))
    del session
    given = (observations, transition.next_observation, transition.reward)
    for array, copied in zip(given, expected, strict=True):
        np.testing.assert_array_equal(array, copied)


class TestEndOfAnEpisode:
    def test_step_gives_the_resets_observation_and_tells_the_last(
        self, vec: VecCheckedSession
    ) -> None:
        first, _ = vec.reset(seed=0)
        for _ in range(LENGTH - 1):
            assert not vec.step(zeros(N))[2].any()
        observations, rewards, terminated, _, infos = vec.step(zeros(N))
        assert terminated.all()
        np.testing.assert_array_equal(observations[:, 0], first[:, 0] + 1)
        np.testing.assert_array_equal(observations[:, 1], 0)
        np.testing.assert_array_equal(np.stack(infos["final_obs"])[:, 1], LENGTH)
        np.testing.assert_array_equal(infos["_final_obs"], True)
        np.testing.assert_array_equal(rewards, 1)

    def test_step_checked_gives_the_true_next_observation(self, vec: VecCheckedSession) -> None:
        vec.start(seed=0)
        for step in range(LENGTH):
            transition = vec.step_checked(zeros(N))
            np.testing.assert_array_equal(transition.observation[:, 1], step)
            np.testing.assert_array_equal(transition.next_observation[:, 1], step + 1)
            assert transition.valid.all()
            np.testing.assert_array_equal(transition.done, step == LENGTH - 1)
        np.testing.assert_array_equal(vec.observe()[:, 1], 0)
        following = vec.step_checked(zeros(N))
        np.testing.assert_array_equal(following.observation[:, 1], 0)

    def test_step_into_writes_to_the_callers_arrays(self, vec: VecCheckedSession) -> None:
        vec.start(seed=0)
        rows = StepRows(
            np.full((N, 4), -1, np.float32),
            np.full(N, -1.0),
            np.ones(N, np.bool_),
            np.ones(N, np.bool_),
            np.zeros(N, np.bool_),
        )
        for step in range(1, LENGTH):
            assert vec.step_into(zeros(N), rows) is None
            np.testing.assert_array_equal(rows.next_observations[:, 1], step)
            assert rows.valid.all()
            assert not rows.terminated.any()
            assert not rows.truncated.any()
        finals = vec.step_into(zeros(N), rows)
        assert finals is not None
        np.testing.assert_array_equal(finals.envs, np.arange(N))
        np.testing.assert_array_equal(finals.observations[:, 1], LENGTH)
        np.testing.assert_array_equal(rows.next_observations[:, 1], 0)


class TestSeeds:
    @pytest.mark.parametrize("seed", [7, np.int64(7), [3, 1, 4, 1, 5], np.arange(5)], ids=repr)
    def test_a_seed_means_what_it_means_to_gymnasium(self, seed: Any) -> None:
        reference = cartpoles(N)
        with open_session("CartPole-v1", N, workers=2) as session:
            observations, _ = session.reset(seed=seed)
            plain = np.asarray(seed).tolist()
            np.testing.assert_array_equal(observations, reference.reset(seed=plain)[0])
        reference.close()

    def test_none_in_a_list_leaves_that_one_unseeded(self, vec: VecCheckedSession) -> None:
        whole, _ = vec.reset(seed=[3, 4, 5, 6, 7])
        some, _ = vec.reset(seed=[3, None, 5, None, 7])
        np.testing.assert_array_equal((some == whole)[:, 3], [True, False, True, False, True])

    def test_without_a_seed_every_environment_goes_on_with_its_own_stream(
        self, vec: VecCheckedSession
    ) -> None:
        again = [[vec.reset(seed=1)[0], vec.reset()[0], vec.reset()[0]] for _ in range(2)]
        for one, other in zip(*again, strict=True):
            np.testing.assert_array_equal(one[:, 3], other[:, 3])
        assert not np.array_equal(again[0][1][:, 3], again[0][2][:, 3])

    @pytest.mark.parametrize("seed", [[1], [1] * (N + 1), []])
    def test_a_seed_for_each_or_none(self, vec: VecCheckedSession, seed: Any) -> None:
        with pytest.raises(ValueError, match=rf"{N}.*length={len(seed)}"):
            vec.reset(seed=seed)


def test_a_large_command_waits_for_a_worker_that_is_still_busy() -> None:
    """A reset that does not fit into a pipe, sent while a step is under way."""
    makers = counting(2, duration_s=0.3)
    with open_session(makers, 2, workers=1) as session:
        session.reset(seed=0)
        session.step_async(zeros(2))
        observations, _ = session.reset(seed=0, options={"large": bytes(1 << 20)})
        np.testing.assert_array_equal(observations[:, 1], 0)
        np.testing.assert_array_equal(session.step(zeros(2))[0][:, 1], 1)
