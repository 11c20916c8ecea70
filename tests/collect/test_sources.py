"""What a rollout holds, whatever it was collected from."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess import VecCheckedSession, tree
from vecsess.collect.paced import Pace
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.rollout import Rollout
from vecsess.collect.sampling import categorical_log_prob, normal_noise, uniform_noise
from vecsess.collect.sources import (
    collect_from_callbacks,
    collect_from_client,
    collect_from_session,
    collect_rollout,
)
from vecsess.contract import Finals, StepRows, Transition
from vecsess.errors import StateError
from vecsess.session.checked import CheckedSession, Session
from vecsess.session.client import Client
from vecsess.tree import Tree

ARRAYS = (
    "observations",
    "actions",
    "log_probs",
    "rewards",
    "terminated",
    "truncated",
    "values",
    "next_values",
    "valid",
    "episode_start",
    "last_observations",
    "final_observations",
    "final_steps",
    "final_envs",
)


class Scripted:
    """Environments whose observation says where they are: `[env, episode, step]`.

    Env `e` has episodes of `e + 2` steps; odd ones terminate, even ones are truncated. `lost`
    names (lockstep, env) at which an environment is lost instead of stepped.
    """

    single_action_space: gymnasium.Space[Any] = spaces.Discrete(3)

    def __init__(self, num_envs: int = 3, lost: frozenset[tuple[int, int]] = frozenset()) -> None:
        self.num_envs = num_envs
        self.noise_seed, self.noise_counter = 77, 0
        self.episode_returns = np.zeros(num_envs)
        self.episode_lengths = np.zeros(num_envs, dtype=np.int64)
        self.started = False
        self.start_seeds: list[int | None] = []
        self.actions: list[NDArray[Any]] = []
        self._lost = lost
        self._now = np.zeros((num_envs, 3), dtype=np.float32)

    def start(self, seed: int | None = None) -> Tree:
        self.start_seeds.append(seed)
        self.started = True
        self._now[:] = 0
        self._now[:, 0] = np.arange(self.num_envs)
        return self._now.copy()

    def observe(self) -> Tree:
        return self._now.copy()

    def step_into(self, actions: Tree, rows: StepRows) -> Finals | None:
        lost = np.array([(len(self.actions), env) in self._lost for env in range(self.num_envs)])
        self.actions.append(actions.copy())
        self._now[~lost, 2] += 1
        at_end = (self._now[:, 2] == self._now[:, 0] + 2) & ~lost
        odd = self._now[:, 1] % 2 == 1
        rows.rewards[...] = np.where(lost, 0.0, 10 * self._now[:, 0] + self._now[:, 2])
        rows.terminated[...] = at_end & odd
        rows.truncated[...] = (at_end & ~odd) | lost
        rows.valid[...] = ~lost
        done = np.flatnonzero(at_end | lost)
        finals = Finals(done, self._now[done]) if done.size else None
        self._now[done, 1] += 1
        self._now[done, 2] = 0
        rows.next_observations[...] = self._now
        return finals


class Recorder:
    """A policy that keeps what it was asked, and answers with numbers that tell the observation."""

    noise_size = 2

    def __init__(self) -> None:
        self.acts: list[dict[str, Any]] = []
        self.values: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def act(
        self, observations: Tree, *, noise: NDArray[Any], episode_start: Any, envs: NDArray[Any]
    ) -> tuple[Any, Any, Any]:
        asked = {"noise": noise, "episode_start": episode_start, "envs": envs}
        self.acts.append({name: array.copy() for name, array in asked.items()})
        actions = (noise[:, 0] * 3).astype(np.int64)
        return actions, -noise[:, 1].astype(np.float32), self.of(observations)

    def value(self, observations: Tree, *, envs: NDArray[Any]) -> Any:
        self.values.append((observations.copy(), envs.copy()))
        return self.of(observations)

    @staticmethod
    def of(observations: Any) -> NDArray[np.float32]:
        value: NDArray[np.float32] = observations @ np.array([100, 10, 1], dtype=np.float32)
        return value


def linear_pair(
    observation_size: int, actions: int
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Logits and values from random weights, each row computed by itself, as a sum in order."""
    rng = np.random.default_rng(9)
    weights = rng.normal(size=(observation_size, actions + 1)).astype(np.float32)

    def out(observations: NDArray[Any]) -> NDArray[np.float32]:
        products = observations.astype(np.float32)[:, :, None] * weights
        return np.add.accumulate(products, axis=1)[:, -1]

    return (lambda observations: out(observations)[:, :-1]), (
        lambda observations: out(observations)[:, -1]
    )


def assert_same(one: Rollout, other: Rollout) -> None:
    for name in ARRAYS:
        pairs = zip(tree.leaves(getattr(one, name)), tree.leaves(getattr(other, name)), strict=True)
        for left, right in pairs:
            assert (left.dtype, left.shape) == (right.dtype, right.shape), name
            assert left.tobytes() == right.tobytes(), name
    assert one.episodes == other.episodes
    assert one.counter == other.counter


def joined(first: Rollout, second: Rollout) -> Rollout:
    """The rollout that two consecutive ones make together."""
    steps = len(first.rewards)
    whole = {name: getattr(first, name) for name in Rollout.__dataclass_fields__}
    for name in ARRAYS:
        left, right = getattr(first, name), getattr(second, name)
        whole[name] = right if name == "last_observations" else tree.concatenate([left, right])
    whole["final_steps"] = np.concatenate([first.final_steps, second.final_steps + steps])
    later = [episode._replace(end_step=episode.end_step + steps) for episode in second.episodes]
    whole["episodes"] = first.episodes + later
    whole["counter"] = second.counter
    return Rollout(**whole)


class TestWhatARowHolds:
    @pytest.fixture
    def rollout(self) -> Rollout:
        return collect_rollout(Scripted(), Recorder(), 9, seed=5)

    def test_observations_are_what_was_acted_on(self, rollout: Rollout) -> None:
        assert rollout.observations[:, 0, 1:].tolist() == [
            [0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1], [3, 0], [3, 1], [4, 0],
        ]  # fmt: skip
        assert rollout.last_observations.tolist() == [[0, 4, 1], [1, 3, 0], [2, 2, 1]]

    def test_the_rows_after_a_done_step_are_marked_as_episode_starts(
        self, rollout: Rollout
    ) -> None:
        np.testing.assert_array_equal(rollout.episode_start, rollout.observations[..., 2] == 0)

    def test_values_and_next_values_are_of_the_true_observations(self, rollout: Rollout) -> None:
        np.testing.assert_array_equal(rollout.values, Recorder.of(rollout.observations))
        true_next = rollout.observations.copy()
        true_next[..., 2] += 1  # by the script's rule: before any reset
        np.testing.assert_array_equal(rollout.next_values, Recorder.of(true_next))

    def test_final_observations_come_with_their_step_and_env(self, rollout: Rollout) -> None:
        done = rollout.terminated | rollout.truncated
        steps, envs = np.nonzero(done)
        assert rollout.final_steps.tolist() == steps.tolist()
        assert rollout.final_envs.tolist() == envs.tolist()
        expected = rollout.observations[steps, envs] + np.array([0, 0, 1], dtype=np.float32)
        np.testing.assert_array_equal(rollout.final_observations, expected)

    def test_rewards_and_flags_are_as_the_environments_gave_them(self, rollout: Rollout) -> None:
        assert rollout.rewards[:4, 1].tolist() == [11.0, 12.0, 13.0, 11.0]
        assert rollout.truncated[:, 0].tolist() == [False, True, False, False] * 2 + [False]
        assert rollout.terminated[:, 0].tolist() == [False, False, False, True] * 2 + [False]
        assert rollout.valid.all()

    def test_episodes_are_whole_and_in_order(self, rollout: Rollout) -> None:
        assert [tuple(episode) for episode in rollout.episodes] == [
            (3.0, 2, 0, 1),
            (36.0, 3, 1, 2),
            (3.0, 2, 0, 3),
            (90.0, 4, 2, 3),
            (3.0, 2, 0, 5),
            (36.0, 3, 1, 5),
            (3.0, 2, 0, 7),
            (90.0, 4, 2, 7),
            (36.0, 3, 1, 8),
        ]

    def test_the_environments_get_the_actions_that_are_stored(self) -> None:
        source = Scripted()
        rollout = collect_rollout(source, Recorder(), 9, seed=5)
        np.testing.assert_array_equal(np.stack(source.actions), rollout.actions)

    def test_without_an_end_there_are_no_final_observations(self) -> None:
        rollout = collect_rollout(Scripted(), Recorder(), 1, seed=5)
        assert rollout.final_observations.shape == (0, 3)
        assert rollout.final_steps.size == rollout.final_envs.size == len(rollout.episodes) == 0


class TestWhatThePolicyIsAsked:
    def test_one_pass_a_lockstep_one_for_the_last_row_one_for_all_final_observations(self) -> None:
        policy = Recorder()
        rollout = collect_rollout(Scripted(), policy, 9, seed=5)
        assert len(policy.acts) == 9
        (last, last_envs), (finals, final_envs) = policy.values
        np.testing.assert_array_equal(last, rollout.last_observations)
        np.testing.assert_array_equal(finals, rollout.final_observations)
        assert last_envs.tolist() == [0, 1, 2]
        assert final_envs.tolist() == rollout.final_envs.tolist()

    def test_noise_is_a_function_of_seed_counter_and_env(self) -> None:
        policy = Recorder()
        rollout = collect_rollout(Scripted(), policy, 4, seed=5, counter=100)
        for t, asked in enumerate(policy.acts):
            np.testing.assert_array_equal(asked["noise"], uniform_noise(5, 100 + t, range(3), 2))
        assert rollout.counter == 104

    def test_a_policy_may_ask_for_normal_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Gaussian(Recorder):
            noise_kind = "normal"

            def act(self, observations: Tree, **asked: Any) -> tuple[Any, Any, Any]:
                _, log_probs, values = super().act(observations, **asked)
                return (asked["noise"][:, 0] > 0).astype(np.int64), log_probs, values

        monkeypatch.setattr("vecsess.collect.policies._NOISE_BLOCK", 12)  # two locksteps
        policy = Gaussian()
        collect_rollout(Scripted(), policy, 5, seed=5, counter=100)
        for t, asked in enumerate(policy.acts):
            expected = normal_noise(uniform_noise(5, 100 + t, range(3), 2))
            np.testing.assert_array_equal(asked["noise"], expected)

    def test_episode_starts_and_envs_are_told(self) -> None:
        policy, source = Recorder(), Scripted()
        first = collect_rollout(source, policy, 3, seed=5)
        second = collect_rollout(source, policy, 3)
        told = np.stack([asked["episode_start"] for asked in policy.acts])
        stored = np.concatenate([first.episode_start, second.episode_start])
        np.testing.assert_array_equal(told, stored)
        assert stored[3].tolist() == [False, True, False]
        assert all(asked["envs"].tolist() == [0, 1, 2] for asked in policy.acts)

    def test_long_noise_is_made_in_blocks_without_a_seam(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = collect_rollout(Scripted(), Recorder(), 20, seed=5)
        monkeypatch.setattr("vecsess.collect.policies._NOISE_BLOCK", 20)
        assert_same(collect_rollout(Scripted(), Recorder(), 20, seed=5), whole)

    def test_a_policy_without_noise_gets_none(self) -> None:
        class Silent(Recorder):
            noise_size = 0

            def act(self, observations: Tree, **asked: Any) -> tuple[Any, Any, Any]:
                assert asked["noise"].shape == (3, 0)
                zeros = np.zeros(3)
                return zeros.astype(np.int64), zeros, self.of(observations)

        assert collect_rollout(Scripted(), Silent(), 2, seed=0).valid.all()


class TestStream:
    def test_a_seed_starts_a_session_that_was_not_started(self) -> None:
        source = Scripted()
        collect_rollout(source, Recorder(), 2, seed=5)
        collect_rollout(source, Recorder(), 2, seed=6)
        assert source.start_seeds == [5]
        assert (source.noise_seed, source.noise_counter) == (6, 2)

    def test_without_a_seed_the_sessions_own_stream_goes_on(self) -> None:
        source, policy = Scripted(), Recorder()
        counters = [collect_rollout(source, policy, 3).counter for _ in range(2)]
        assert counters == [3, 6]
        assert source.start_seeds == [None]
        noise = np.stack([asked["noise"] for asked in policy.acts])
        np.testing.assert_array_equal(noise, uniform_noise(77, 0, range(3), 2, steps=6))

    def test_a_counter_alone_moves_within_the_stream(self) -> None:
        source, policy = Scripted(), Recorder()
        collect_rollout(source, policy, 1, counter=40)
        np.testing.assert_array_equal(policy.acts[0]["noise"], uniform_noise(77, 40, range(3), 2))

    @pytest.mark.parametrize("cut", [1, 4, 7])
    def test_two_rollouts_are_one_bit_for_bit(self, cut: int) -> None:
        whole = collect_rollout(Scripted(), Recorder(), 8, seed=5)
        source = Scripted()
        first = collect_rollout(source, Recorder(), cut, seed=5)
        second = collect_rollout(source, Recorder(), 8 - cut)
        assert_same(joined(first, second), whole)

    def test_an_episode_counts_whole_where_it_began_in_an_earlier_rollout(self) -> None:
        source = Scripted()
        episodes = [
            (t, episode.length, episode.return_)
            for t in range(8)
            for episode in collect_rollout(source, Recorder(), 1, seed=t).episodes
            if episode.env == 2
        ]
        assert episodes == [(3, 4, 90.0), (7, 4, 90.0)]

    def test_a_failed_collection_leaves_the_books_in_order(self) -> None:
        class Failing(Recorder):
            def act(self, observations: Tree, **asked: Any) -> tuple[Any, Any, Any]:
                if len(self.acts) == 3:
                    raise OSError("out of memory")
                return super().act(observations, **asked)

        source = Scripted()
        collect_rollout(source, Recorder(), 1, seed=5)
        with pytest.raises(OSError, match="out of memory"):
            collect_rollout(source, Failing(), 8)
        rest = collect_rollout(source, Recorder(), 5)
        whole = collect_rollout(Scripted(), Recorder(), 9, seed=5)
        assert rest.observations.tolist() == whole.observations[4:].tolist()
        assert rest.actions.tolist() == whole.actions[4:].tolist()
        assert rest.episode_start.tolist() == whole.episode_start[4:].tolist()
        assert [e[:3] for e in rest.episodes] == [e[:3] for e in whole.episodes if e.end_step >= 4]


class TestMovedByOthers:
    """Between two rollouts the session belongs to its owner."""

    def test_what_was_reset_begins_an_episode(self) -> None:
        source = Scripted()
        collect_rollout(source, Recorder(), 3, seed=5)
        source.start(seed=8)
        second = collect_rollout(source, Recorder(), 4)
        assert second.episode_start[0].tolist() == [True, True, True]
        assert [tuple(e) for e in second.episodes if e.env == 2] == [(90.0, 4, 2, 3)]

    def test_what_was_stepped_begins_anew_and_the_others_go_on(self) -> None:
        source = Scripted()
        first = collect_rollout(source, Recorder(), 3, seed=5)
        source._now[2, 2] += 1
        second = collect_rollout(source, Recorder(), 3)
        assert second.episode_start[0].tolist() == [False, True, True]
        assert first.truncated[2].tolist() == [False, True, False]
        assert [e.length for e in second.episodes if e.env == 0] == [2, 2]

    def test_nan_that_stands_still_was_not_moved(self) -> None:
        class Unknown(Scripted):
            def observe(self) -> Tree:
                return super().observe() * np.float32(np.nan)

            def step_into(self, actions: Tree, rows: StepRows) -> Finals | None:
                finals = super().step_into(actions, rows)
                rows.next_observations[...] = np.nan
                return finals

        source = Unknown()
        policy = RandomPolicy(source.single_action_space)
        collect_rollout(source, policy, 3, seed=5)
        second = collect_rollout(source, policy, 3)
        assert second.episode_start[0].tolist() == [False, True, False]


class TestInvalidRows:
    @pytest.fixture
    def rollout(self) -> Rollout:
        return collect_rollout(Scripted(lost=frozenset({(2, 2)})), Recorder(), 7, seed=5)

    def test_the_row_before_bootstraps_from_the_last_good_observation(
        self, rollout: Rollout
    ) -> None:
        assert rollout.valid[:, 2].tolist() == [True, True, False, True, True, True, True]
        assert rollout.next_values[1, 2] == rollout.values[2, 2]
        assert rollout.observations[2, 2].tolist() == [2, 0, 2]

    def test_it_ends_as_a_truncation_with_the_last_good_observation(self, rollout: Rollout) -> None:
        place = (rollout.final_steps == 2) & (rollout.final_envs == 2)
        assert rollout.final_observations[place].tolist() == [[2, 0, 2]]
        assert rollout.truncated[2, 2]
        assert rollout.episode_start[3, 2]

    def test_the_lost_episode_is_not_reported_and_the_next_one_starts_from_nothing(
        self, rollout: Rollout
    ) -> None:
        assert [tuple(e) for e in rollout.episodes if e.env == 2] == [(90.0, 4, 2, 6)]

    def test_its_advantage_is_zero(self, rollout: Rollout) -> None:
        advantages = rollout.advantages(0.9, 0.8)
        assert advantages[2, 2] == 0
        # The row before: its reward 22, V 202 of the last good observation, V 201 of its own.
        assert advantages[1, 2] == pytest.approx(22 + 0.9 * 202 - 201)


class TestOut:
    def test_a_reused_rollout_is_the_same_as_a_fresh_one(self) -> None:
        fresh, reusing = Scripted(), Scripted()
        out = collect_rollout(reusing, Recorder(), 5, seed=5)
        collect_rollout(fresh, Recorder(), 5, seed=5)
        again = collect_rollout(reusing, Recorder(), 5, out=out)
        assert again is out
        assert_same(again, collect_rollout(fresh, Recorder(), 5))

    def test_a_rollout_is_not_changed_by_later_ones(self) -> None:
        source = Scripted()
        first = collect_rollout(source, Recorder(), 5, seed=5)
        collect_rollout(source, Recorder(), 5)
        assert_same(first, collect_rollout(Scripted(), Recorder(), 5, seed=5))

    def test_one_that_does_not_fit_is_refused(self) -> None:
        source = Scripted()
        out = collect_rollout(source, Recorder(), 5, seed=5)
        with pytest.raises(ValueError, match="`out` does not fit"):
            collect_rollout(source, Recorder(), 6, out=out)


class Answers(Recorder):
    """Replaces a part of the answer."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self._parts = parts

    def act(self, observations: Tree, **asked: Any) -> tuple[Any, Any, Any]:
        names = ("actions", "log_probs", "values")
        answer = zip(names, super().act(observations, **asked), strict=True)
        actions, log_probs, values = (self._parts.get(name, part) for name, part in answer)
        return actions, log_probs, values


class TestAnswersThatAreRefused:
    @pytest.mark.parametrize(
        ("parts", "error", "message"),
        [
            ({"actions": np.zeros(2, np.int64)}, ValueError, r"actions of shape \[3\].*got \[2\]"),
            ({"actions": np.zeros((3, 1), np.int64)}, ValueError, r"got \[3, 1\]"),
            ({"actions": np.int64(1)}, ValueError, r"got \[\]"),
            ({"actions": np.zeros(3)}, TypeError, "actions of dtype int64.*got float64"),
            ({"log_probs": np.zeros((3, 1))}, ValueError, r"log_probs of shape \[3\]"),
            ({"log_probs": np.zeros(3, np.int64)}, TypeError, "floating-point log_probs"),
            ({"values": np.zeros((3, 1))}, ValueError, r"values of shape \[3\]"),
            ({"values": np.zeros(3, bool)}, TypeError, "floating-point values"),
        ],
    )
    def test_another_shape_or_dtype(
        self, parts: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        source = Scripted()
        with pytest.raises(error, match=message):
            collect_rollout(source, Answers(**parts), 3, seed=5)
        assert not source.actions  # before any environment was told

    def test_a_box_action_in_float64_for_a_float32_space(self) -> None:
        source = Scripted()
        source.single_action_space = spaces.Box(-1, 1, (2,))
        with pytest.raises(TypeError, match="expected actions of dtype float32"):
            collect_rollout(source, Answers(actions=np.zeros((3, 2))), 3, seed=5)

    def test_narrower_integers_are_taken(self) -> None:
        actions = np.ones(3, dtype=np.int8)
        rollout = collect_rollout(Scripted(), Answers(actions=actions), 3, seed=5)
        assert rollout.actions.dtype == np.int64
        assert (rollout.actions == 1).all()

    def test_less_than_three_parts(self) -> None:
        class Two(Recorder):
            def act(self, observations: Tree, **asked: Any) -> Any:
                return super().act(observations, **asked)[:2]

        with pytest.raises(TypeError, match=r"return \(actions, log_probs, values\)"):
            collect_rollout(Scripted(), Two(), 3, seed=5)

    @pytest.mark.parametrize("horizon", [0, -1])
    def test_a_horizon_that_is_not_positive(self, horizon: int) -> None:
        source = Scripted()
        with pytest.raises(ValueError, match=f"positive horizon .*got {horizon}"):
            collect_rollout(source, Recorder(), horizon, seed=5)
        assert not source.started


class TestPairs:
    def test_the_policys_dtype_is_kept_and_the_ppo_ratio_is_one(self) -> None:
        for dtype in (np.float32, np.float64):
            logits, value = linear_pair(3, 3)
            pair = (
                lambda obs, logits=logits, dtype=dtype: logits(obs).astype(dtype) / 50,
                lambda obs, value=value, dtype=dtype: value(obs).astype(dtype),
            )
            rollout = collect_rollout(Scripted(), pair, 40, seed=5)
            assert rollout.log_probs.dtype == rollout.values.dtype == dtype
            again = categorical_log_prob(
                pair[0](rollout.observations.reshape(-1, 3)), rollout.actions.reshape(-1)
            )
            assert (np.exp(again - rollout.log_probs.reshape(-1)) == 1.0).all()
            assert set(rollout.actions.ravel().tolist()) == {0, 1, 2}

    def test_actions_count_from_the_spaces_start(self) -> None:
        source = Scripted()
        source.single_action_space = spaces.Discrete(3, start=10)
        rollout = collect_rollout(source, linear_pair(3, 3), 40, seed=5)
        assert set(rollout.actions.ravel().tolist()) <= {10, 11, 12}


@pytest.fixture
def make_vec() -> Iterator[Callable[..., VecCheckedSession]]:
    made: list[VecCheckedSession] = []

    def make(*arguments: Any, **options: Any) -> VecCheckedSession:
        made.append(VecCheckedSession(*arguments, **options))
        return made[-1]

    yield make
    for vec in made:
        vec.close()


class TestOnRealEnvironments:
    @pytest.mark.parametrize("workers", [None, 1, 2, 3])
    def test_the_grouping_makes_no_difference(
        self, make_vec: Callable[..., VecCheckedSession], workers: int | None
    ) -> None:
        pair = linear_pair(4, 2)
        oracle = make_vec("CartPole-v1", n=4, workers=0)
        grouped = make_vec("CartPole-v1", n=4, workers=workers)
        for seed in (3, None):
            expected = collect_rollout(oracle, pair, 64, seed=seed)
            assert_same(collect_rollout(grouped, pair, 64, seed=seed), expected)

    def test_64_locksteps_and_64_more_are_128(
        self, make_vec: Callable[..., VecCheckedSession]
    ) -> None:
        pair = linear_pair(4, 2)
        whole = collect_rollout(make_vec("CartPole-v1", n=5, workers=0), pair, 128, seed=1)
        vec = make_vec("CartPole-v1", n=5, workers=0)
        halves = [collect_rollout(vec, pair, 64, seed=1), collect_rollout(vec, pair, 64)]
        assert len(whole.episodes) > 10
        assert_same(joined(*halves), whole)

    def test_it_is_gymnasiums_own_lockstep(
        self, make_vec: Callable[..., VecCheckedSession]
    ) -> None:
        vec = make_vec("CartPole-v1", n=3, workers=0)
        rollout = collect_rollout(vec, linear_pair(4, 2), 100, seed=2)
        sync = gymnasium.make_vec(
            "CartPole-v1",
            num_envs=3,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        )
        observations, _ = sync.reset(seed=2)
        for t in range(100):
            np.testing.assert_array_equal(rollout.observations[t], observations)
            observations, rewards, terminated, truncated, _ = sync.step(rollout.actions[t])
            np.testing.assert_array_equal(rollout.rewards[t], rewards)
            np.testing.assert_array_equal(rollout.terminated[t], terminated)
            np.testing.assert_array_equal(rollout.truncated[t], truncated)
        np.testing.assert_array_equal(rollout.last_observations, observations)
        sync.close()

    @pytest.mark.parametrize(
        "env", ["Pendulum-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Taxi-v4"]
    )
    def test_other_spaces(self, make_vec: Callable[..., VecCheckedSession], env: str) -> None:
        vec = make_vec(env, n=2, workers=0)
        rollout = collect_rollout(vec, RandomPolicy(vec.single_action_space), 30, seed=0)
        space = vec.single_observation_space
        shape = space.shape or ()
        assert rollout.observations.shape == (30, 2, *shape)
        assert rollout.observations.dtype == space.dtype
        assert all(space.contains(o) for o in rollout.observations.reshape(-1, *shape))
        assert rollout.actions.shape == (30, 2, *(vec.single_action_space.shape or ()))


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_other_auto_reset_modes_are_refused(
    make_vec: Callable[..., VecCheckedSession], mode: str
) -> None:
    vec = make_vec("CartPole-v1", n=2, workers=0, autoreset_mode=mode)
    with pytest.raises(StateError, match=f"expected autoreset_mode='same_step', got '{mode}'"):
        collect_rollout(vec, linear_pair(4, 2), 3, seed=0)


class Nested(gymnasium.Env[Any, Any]):
    """Dict observations; ends after five steps."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 255, (2, 2), np.uint8), "rest": spaces.Tuple((spaces.Discrete(9),))}
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._step = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        return self._observation(), 1.0, self._step == 5, False, {}

    def _observation(self) -> Any:
        image = np.full((2, 2), self._step, dtype=np.uint8)
        return {"image": image, "rest": (np.int64(self._step),)}


def test_dict_and_tuple_observations(make_vec: Callable[..., VecCheckedSession]) -> None:
    pair = (
        lambda obs: np.stack([obs["image"][:, 0, 0], obs["rest"][0]], axis=1).astype(np.float32),
        lambda obs: obs["rest"][0].astype(np.float32),
    )
    rollout = collect_rollout(make_vec(Nested, n=2, workers=0), pair, 7, seed=0)
    assert rollout.observations["image"].shape == (7, 2, 2, 2)
    assert rollout.observations["rest"][0][:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert rollout.final_observations["rest"][0].tolist() == [5, 5]
    assert rollout.next_values[:, 0].tolist() == [1, 2, 3, 4, 5, 1, 2]
    batch = rollout.to_actor_critic_batch()
    assert batch.observations["image"].shape == (14, 2, 2)


class TestCallbacks:
    """A counter to five as a pure environment: the state is an int."""

    @staticmethod
    def step(count: int, action: Any) -> tuple[Transition, int]:
        after = count + 1
        done = after == 5
        step = Transition(
            np.array([float(count)]), action, 2.0, np.array([float(after)]), done, False
        )
        return step, 0 if done else after

    def collect(self, horizon: int = 7, **options: Any) -> Rollout:
        return collect_from_callbacks(
            start=lambda: 0,
            observe=lambda count: np.array([float(count)]),
            step_checked=self.step,
            policy=linear_pair(1, 2),
            horizon=horizon,
            action_space=spaces.Discrete(2),
            **options,
        )

    def test_it_is_a_batch_with_one_environment(self) -> None:
        rollout = self.collect(seed=0)
        assert rollout.observations[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 0, 1]
        assert rollout.rewards.shape == (7, 1)
        assert rollout.final_observations.tolist() == [[5.0]]
        assert [tuple(episode) for episode in rollout.episodes] == [(10.0, 5, 0, 4)]
        assert rollout.valid.all()

    def test_observations_and_rewards_are_cast_before_anybody_sees_them(self) -> None:
        def halve(observation: Any) -> Any:
            return (observation / 2).astype(np.float32)

        rollout = self.collect(seed=0, cast_observation=halve, cast_reward=lambda r: -r)
        assert rollout.observations.dtype == np.float32
        assert rollout.observations[:3, 0, 0].tolist() == [0, 0.5, 1]
        assert rollout.final_observations.tolist() == [[2.5]]
        assert set(rollout.rewards.ravel().tolist()) == {-2.0}

    def test_the_counter_goes_on_where_the_caller_says(self) -> None:
        whole = self.collect(10, seed=3)
        second = self.collect(5, seed=3, counter=whole.counter - 5)
        # Five steps are one episode, so the second half begins at a reset in both.
        np.testing.assert_array_equal(second.actions, whole.actions[5:])

    def test_an_environment_that_changes_its_action_does_not_reach_the_batch(self) -> None:
        def spoiling(count: int, action: Any) -> tuple[Transition, int]:
            action[...] = 99
            return self.step(count, action)

        space = spaces.Box(-2, 2, (3,))
        rollout = collect_from_callbacks(
            lambda: 0,
            lambda count: np.array([float(count)]),
            spoiling,
            RandomPolicy(space),
            5,
            action_space=space,
        )
        assert np.abs(rollout.actions).max() <= 2

    def test_an_observation_that_changes_its_form_is_refused(self) -> None:
        shapes = iter([np.zeros(1), np.zeros(1), np.zeros(2)])
        with pytest.raises(ValueError, match=r"expected an array \[1, 1\].*got \[1, 2\]"):
            collect_from_callbacks(
                lambda: 0,
                lambda _: next(shapes),
                self.step,
                linear_pair(1, 2),
                5,
                action_space=spaces.Discrete(2),
            )


class TestSingleSessions:
    """A single session is a batch of one: the same rows as a vector session of one gives."""

    @pytest.fixture
    def expected(self, make_vec: Callable[..., VecCheckedSession]) -> Rollout:
        vec = make_vec("CartPole-v1", n=1, workers=0)
        return collect_rollout(vec, linear_pair(4, 2), 60, seed=4)

    def test_a_session_over_a_gymnasium_environment(self, expected: Rollout) -> None:
        with CheckedSession.from_gymnasium(gymnasium.make("CartPole-v1")) as session:
            assert_same(collect_rollout(session, linear_pair(4, 2), 60, seed=4), expected)

    def test_a_session_that_stays_at_the_end_is_collected_from_over_it(
        self, expected: Rollout
    ) -> None:
        env = gymnasium.make("CartPole-v1")
        with CheckedSession.from_gymnasium(env, reset_on_done=False) as session:
            assert_same(collect_rollout(session, linear_pair(4, 2), 60, seed=4), expected)
        assert expected.terminated.any()

    def test_a_session_over_a_client(self, expected: Rollout) -> None:
        with Session.open("CartPole-v1", seed=4) as session:
            assert_same(collect_from_session(session, linear_pair(4, 2), 60, seed=4), expected)

    def test_a_client_and_a_reset_seed(self, expected: Rollout) -> None:
        with Client.spawn("CartPole-v1") as client:
            for _ in range(2):
                rollout = collect_from_client(client, 4, linear_pair(4, 2), 60, seed=4)
                assert_same(rollout, expected)

    def test_a_session_goes_on_where_it_is(self, expected: Rollout) -> None:
        with CheckedSession.from_gymnasium(gymnasium.make("CartPole-v1")) as session:
            first = collect_rollout(session, linear_pair(4, 2), 25, seed=4)
            second = collect_rollout(session, linear_pair(4, 2), 35)
        assert_same(joined(first, second), expected)

    def test_a_session_that_was_started_anew_begins_an_episode(self) -> None:
        with CheckedSession.from_gymnasium(gymnasium.make("CartPole-v1")) as session:
            collect_rollout(session, linear_pair(4, 2), 5, seed=4)
            session.start(9)
            rollout = collect_rollout(session, linear_pair(4, 2), 60)
        assert rollout.episode_start[0, 0]
        assert rollout.episodes[0].length == rollout.episodes[0].end_step + 1

    def test_casts(self) -> None:
        with CheckedSession.from_gymnasium(gymnasium.make("CartPole-v1")) as session:
            rollout = collect_from_session(
                session,
                linear_pair(2, 2),
                20,
                seed=4,
                cast_observation=lambda observation: observation[2:].astype(np.float64),
                cast_reward=lambda reward: reward / 2,
            )
        assert rollout.observations.shape == (20, 1, 2)
        assert rollout.observations.dtype == np.float64
        assert set(rollout.rewards.ravel().tolist()) == {0.5}


class Interrupting:
    """Is interrupted at a call of its choice, as by Ctrl-C."""

    noise_size = 1

    def __init__(self, at: int) -> None:
        self.calls, self.at = 0, at

    def act(self, observations: Any, *, noise: Any, **_: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return (noise[:, 0] * 2).astype(np.int64), np.zeros(len(noise)), np.zeros(len(noise))

    def value(self, observations: Any, **_: Any) -> Any:
        return np.zeros(len(observations))


@pytest.mark.parametrize("pace", ["lockstep", "pipelined", "free"])
def test_a_rollout_that_was_interrupted_is_never_begun_anew_unasked(pace: Pace) -> None:
    resets: list[Any] = []

    def unasked(*args: Any, **given: Any) -> Any:
        resets.append((args, given))

    with VecCheckedSession("CartPole-v1", 4, workers=2) as vec:
        vec.start(seed=3)
        vec.start = unasked  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            collect_rollout(vec, Interrupting(5), 16, seed=0, pace=pace)
        if pace == "lockstep":  # between two steps, so it goes on where it was
            assert collect_rollout(vec, Interrupting(0), 4).observations.shape == (4, 4, 4)
        else:  # some workers are ahead of others
            with pytest.raises(StateError, match=r"expected reset\(\) first"):
                collect_rollout(vec, Interrupting(0), 4, pace=pace)
            vec.reset(seed=1)
            assert collect_rollout(vec, Interrupting(0), 4, pace=pace).valid.all()
        assert resets == []
