"""Evaluation: whole greedy episodes, counted fairly."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess import Client, VecCheckedSession
from vecsess.collect.evaluate import (
    Evaluation,
    episode_path,
    episode_return,
    evaluate,
    greedy_action,
    mean_episode_return,
    student_t_quantile,
)
from vecsess.collect.sources import collect_rollout
from vecsess.contract import Finals, StepRows, Transition
from vecsess.errors import StateError, VecsessError
from vecsess.session.checked import CheckedSession
from vecsess.session.native import RIGHT, Cell, GridWorld


class Walk(CheckedSession):
    """A line of positions: action 12 goes right, 11 left; the end is at `length`, and pays 10.

    Each step costs 1. The seed of a start is where the walk begins.
    """

    observation_space = spaces.Box(-100, 100, (1,), np.float64)
    action_space: spaces.Space[Any] = spaces.Discrete(2, start=11)

    def __init__(self, length: int = 4, reset_on_done: bool = True) -> None:
        self._length, self.reset_on_done = length, reset_on_done
        self._at: int | None = None
        self.seeds: list[int | None] = []
        self.closed = False

    @property
    def state(self) -> int | None:
        return self._at

    def start(self, seed: int | None = None) -> NDArray[np.float64]:
        self.seeds.append(seed)
        self._at = seed or 0
        return self.observe()

    def observe(self) -> NDArray[np.float64]:
        if self._at is None:
            raise StateError("expected start() first")
        return np.array([float(self._at)])

    def step_checked(self, action: Any, reset_on_done: bool | None = None) -> Transition:
        before = self.observe()
        assert self._at is not None
        self._at += 1 if action == 12 else -1
        done = self._at >= self._length
        reward = 9.0 if done else -1.0
        step = Transition(before, action, reward, self.observe(), done, False)
        if done and (self.reset_on_done if reset_on_done is None else reset_on_done):
            self._at = 0
        return step

    def close(self) -> None:
        self.closed = True


def rightwards(observations: Any) -> NDArray[np.float64]:
    return np.tile([0.0, 1.0], (len(observations), 1))


def leftwards(observations: Any) -> NDArray[np.float64]:
    return -rightwards(observations)


class TestGreedyAction:
    def test_is_the_index_of_the_largest_logit_and_the_first_of_equals(self) -> None:
        assert greedy_action([0.1, 0.7, 0.2]) == 1
        assert greedy_action([3.0, 3.0]) == 0
        assert greedy_action([-np.inf, -5.0]) == 1
        assert isinstance(greedy_action([1.0]), int)

    def test_takes_batches(self) -> None:
        logits = [[[0.0, 1.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 3.0]]]
        assert greedy_action(logits).tolist() == [[1, 0], [1, 1]]

    def test_nan_has_no_place_in_an_order(self) -> None:
        with pytest.raises(VecsessError, match="without NaN"):
            greedy_action([0.0, np.nan])

    @pytest.mark.parametrize("logits", [[], 1.0, [[], []]])
    def test_there_is_an_action_at_least(self, logits: Any) -> None:
        with pytest.raises(ValueError, match="A > 0"):
            greedy_action(logits)


class TestEpisode:
    def test_the_return_is_undiscounted(self) -> None:
        assert episode_return(Walk(), rightwards) == -1 - 1 - 1 + 9

    def test_the_seed_starts_the_episode(self) -> None:
        assert episode_return(Walk(), rightwards, seed=2) == -1 + 9

    def test_an_episode_without_an_end_is_left_after_max_steps(self) -> None:
        assert episode_return(Walk(), leftwards) == -1000
        assert episode_return(Walk(), leftwards, max_steps=7) == -7
        assert episode_return(Walk(), leftwards, max_steps=0) == 0

    def test_the_path_holds_the_first_state_and_ends_where_the_session_is_then(self) -> None:
        assert episode_path(Walk(reset_on_done=False), rightwards) == [0, 1, 2, 3, 4]
        assert episode_path(Walk(), rightwards) == [0, 1, 2, 3, 0], "in the next episode"
        assert episode_path(Walk(), leftwards, max_steps=2) == [0, -1, -2]
        assert episode_path(Walk(), rightwards, max_steps=0, seed=3) == [3]

    def test_each_episode_begins_anew(self) -> None:
        walk = Walk()
        returns = [episode_return(walk, rightwards, seed=seed) for seed in (1, None, 1)]
        assert returns == [7, 6, 7]
        assert walk.seeds == [1, None, 1]

    def test_a_negative_bound_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0 max_steps or more"):
            episode_return(Walk(), rightwards, max_steps=-1)

    def test_logits_of_another_shape_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"predict_logits to return \[1, 2\].*got \[2\]"):
            episode_return(Walk(), lambda _: np.zeros(2))

    def test_actions_that_are_not_discrete_are_refused(self) -> None:
        walk = Walk()
        walk.action_space = spaces.Box(-1, 1)
        with pytest.raises(TypeError, match="logits decide for Discrete"):
            episode_return(walk, rightwards)


class TestOnTheGridWorld:
    """Its optimum is known in closed form."""

    @staticmethod
    def towards_the_goal(observations: Any) -> NDArray[np.float64]:
        row, column = np.divmod(observations.argmax(axis=1), 3)
        return np.stack([0 * row, column < 2, column >= 2, 0 * row], axis=1).astype(np.float64)

    def test_the_greedy_episode_is_the_optimal_one(self) -> None:
        world = GridWorld(4, 3)
        with CheckedSession.from_env(world, reset_on_done=False) as session:
            found = episode_return(session, self.towards_the_goal)
            path = episode_path(session, self.towards_the_goal)
        assert found == world.optimal_return(world.initial_state) == -5
        assert [cell[:2] for cell in path] == [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2)]

    def test_a_truncated_episode_ends_too(self) -> None:
        with CheckedSession.from_env(GridWorld(4, 3, max_steps=2)) as session:
            path = episode_path(session, lambda _: np.eye(4)[None, RIGHT])
        assert path == [Cell(0, 0, 0), Cell(0, 1, 1), Cell(0, 0, 0)], "begun anew"

    def test_evaluate_finds_it_in_each_episode(self) -> None:
        with CheckedSession.from_env(GridWorld(4, 3)) as session:
            found = evaluate(session, self.towards_the_goal, episodes=4)
        assert found.returns.tolist() == [-5] * 4
        assert found.interval() == (-5, -5)


class TestMeanEpisodeReturn:
    def test_episode_k_is_seeded_with_base_seed_plus_k_in_a_session_of_its_own(self) -> None:
        made: list[tuple[int, Walk]] = []

        def make(seed: int) -> Walk:
            made.append((seed, Walk()))
            return made[-1][1]

        assert mean_episode_return(make, rightwards, base_seed=1, episodes=3) == (7 + 8 + 9) / 3
        assert [(seed, walk.seeds) for seed, walk in made] == [(1, [1]), (2, [2]), (3, [3])]
        assert not any(walk.closed for _, walk in made), "who made them closes them"

    def test_no_episodes_give_zero_and_make_no_session(self) -> None:
        def make(seed: int) -> Walk:
            raise AssertionError(f"not asked for, with seed {seed}")

        assert mean_episode_return(make, rightwards, base_seed=0, episodes=0) == 0.0

    def test_what_it_is_told_to_own_it_closes_also_when_an_episode_fails(self) -> None:
        walks = [Walk(), Walk()]
        mean_episode_return(lambda _: walks[0], rightwards, 0, 1, close_sessions=True)
        with pytest.raises(ValueError, match="predict_logits"):
            mean_episode_return(
                lambda _: walks[1], lambda _: np.zeros(2), 0, 1, close_sessions=True
            )
        assert [walk.closed for walk in walks] == [True, True]

    @pytest.mark.parametrize("reset_on_done", [False, True])
    def test_one_client_serves_all_episodes(self, reset_on_done: bool) -> None:
        def leaning(observations: Any) -> NDArray[np.float64]:
            return np.stack([-observations[:, 2], observations[:, 2]], axis=1)

        env = gymnasium.make("CartPole-v1")
        expected = []
        for seed in range(30, 50):
            observation, _ = env.reset(seed=seed)
            total, done = 0.0, False
            while not done:
                action = int(leaning(observation[None]).argmax())
                observation, reward, terminated, truncated, _ = env.step(action)
                total, done = total + float(reward), terminated or truncated
            expected.append(total)
        env.close()
        with Client.spawn("CartPole-v1", n_actions=2) as client:
            found = mean_episode_return(
                lambda seed: CheckedSession.from_client(
                    client, seed=seed, reset_on_done=reset_on_done
                ),
                leaning,
                base_seed=30,
                episodes=20,
            )
            assert not client.closed
        assert found == sum(expected) / 20
        assert len(set(expected)) > 5, "episodes of different lengths, or this shows little"

    def test_a_negative_number_of_episodes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0 episodes or more"):
            mean_episode_return(lambda _: Walk(), rightwards, 0, -1)


class Uneven:
    """Two environments: the first plays episodes of 1 step that return 1, the second of 50 and 50.

    Counting whatever ends first would find the short ones only. `lost` names the locksteps at
    which the first is lost.
    """

    num_envs = 2
    single_action_space = spaces.Discrete(2)
    lengths = np.array([1, 50])

    def __init__(self, lost: frozenset[int] = frozenset()) -> None:
        self.noise_seed, self.noise_counter = 5, 40
        self.episode_returns = np.zeros(2)
        self.episode_lengths = np.zeros(2, dtype=np.int64)
        self.started = True
        self.step_count = 0
        self._lost = lost
        self._at = np.zeros(2, dtype=np.int64)

    def start(self, seed: int | None = None) -> NDArray[np.float64]:
        del seed
        self._at[:] = 0
        return self.observe()

    def observe(self) -> NDArray[np.float64]:
        return self._at[:, None].astype(np.float64)

    def step_into(self, actions: Any, rows: StepRows) -> Finals | None:
        lost = np.array([self.step_count in self._lost, False])
        self.step_count += 1
        self._at += 1
        rows.rewards[...] = ~lost
        rows.valid[...] = ~lost
        rows.terminated[...] = (self._at == self.lengths) & ~lost
        rows.truncated[...] = lost
        done = np.flatnonzero(rows.terminated | rows.truncated)
        finals = Finals(done, self.observe()[done]) if done.size else None
        self._at[done] = 0
        rows.next_observations[...] = self.observe()
        return finals


def zeros(observations: Any) -> NDArray[np.float64]:
    return np.zeros((len(observations), 2))


class TestEvaluate:
    def test_each_environment_plays_its_share_however_long_its_episodes_are(self) -> None:
        found = evaluate(Uneven(), zeros, episodes=7)
        assert found.envs.tolist() == [0, 0, 0, 0, 1, 1, 1]
        assert found.returns.tolist() == [1, 1, 1, 1, 50, 50, 50]
        assert found.lengths.tolist() == [1, 1, 1, 1, 50, 50, 50]

    def test_an_environment_without_a_share_is_not_waited_for(self) -> None:
        vec = Uneven()
        assert evaluate(vec, zeros, episodes=1).lengths.tolist() == [1]
        assert vec.step_count < 50

    def test_a_lost_episode_is_replaced_by_the_next_one(self) -> None:
        found = evaluate(Uneven(lost=frozenset({0, 2})), zeros, episodes=4)
        assert found.returns.tolist() == [1, 1, 50, 50]

    def test_it_begins_with_whole_episodes_and_leaves_the_noise_stream_alone(self) -> None:
        vec = Uneven()
        pair = (zeros, lambda observations: np.zeros(len(observations)))
        collect_rollout(vec, pair, 30)
        assert evaluate(vec, pair, episodes=2, seed=9).lengths.tolist() == [1, 50]
        assert (vec.noise_seed, vec.noise_counter) == (5, 70)

    def test_an_endless_episode_is_an_error_that_says_what_to_do(self) -> None:
        with pytest.raises(VecsessError, match=r"within max_steps=40.*TimeLimit") as caught:
            evaluate(Uneven(), zeros, episodes=2, max_steps=40)
        assert caught.value.env == 1

    def test_there_is_an_episode_at_least(self) -> None:
        with pytest.raises(ValueError, match="1 episode or more, got 0"):
            evaluate(Uneven(), zeros, episodes=0)

    def test_a_single_session_is_one_environment(self) -> None:
        found = evaluate(Walk(), rightwards, episodes=3)
        assert found.returns.tolist() == [6, 6, 6]
        assert found.envs.tolist() == [0, 0, 0]

    def test_sampling_instead_of_the_largest_logit(self) -> None:
        def nearly_right(observations: Any) -> NDArray[np.float64]:
            return np.tile([0.0, 1.0], (len(observations), 1))

        greedy = evaluate(Walk(), nearly_right, episodes=20, seed=0)
        sampled = evaluate(Walk(), nearly_right, episodes=20, seed=0, greedy=False)
        assert set(greedy.lengths[1:].tolist()) == {4}
        assert sampled.lengths.max() > 4

    def test_an_acting_policy_decides_by_itself(self) -> None:
        class Rightwards:
            noise_size = 0

            def act(self, observations: Any, **asked: Any) -> tuple[Any, Any, Any]:
                rows = np.zeros(len(asked["envs"]))
                return rows.astype(np.int64) + 12, rows, rows

            def value(self, observations: Any, *, envs: Any) -> Any:
                return np.zeros(len(envs))

        assert evaluate(Walk(), Rightwards(), episodes=2).returns.tolist() == [6, 6]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_on_real_environments(self, workers: int) -> None:
        def upright(observations: Any) -> Any:
            return observations[:, 2:3] * [-1, 1] + observations[:, 3:4] * [-1, 1]

        with VecCheckedSession("CartPole-v1", n=3, workers=workers) as vec:
            found = evaluate(vec, upright, episodes=5, seed=0)
            again = evaluate(vec, upright, episodes=5, seed=0)
        assert found.envs.tolist() == [0, 0, 1, 1, 2]
        assert found.mean > 150
        np.testing.assert_array_equal(found.returns, again.returns)
        np.testing.assert_array_equal(found.returns, found.lengths)


class TestConfidence:
    @pytest.mark.parametrize(
        ("probability", "degrees", "quantile"),
        [  # from the usual tables
            (0.975, 1, 12.7062),
            (0.975, 2, 4.3027),
            (0.95, 5, 2.0150),
            (0.995, 9, 3.2498),
            (0.9995, 1, 636.6192),
            (0.975, 30, 2.0423),
            (0.975, 1_000_000, 1.9600),
        ],
    )
    def test_students_quantiles(self, probability: float, degrees: int, quantile: float) -> None:
        assert student_t_quantile(probability, degrees) == pytest.approx(quantile, abs=5e-5)

    def test_the_interval_by_hand(self) -> None:
        found = Evaluation(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, int), np.zeros(4, int))
        half = 3.1824 * np.sqrt(5 / 3) / 2
        assert found.interval() == pytest.approx((2.5 - half, 2.5 + half), abs=1e-4)

    def test_it_covers_the_true_mean_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(0)
        none = np.zeros(5, int)
        covered = 0
        for _ in range(400):
            low, high = Evaluation(rng.normal(3.0, 2.0, 5), none, none).interval(0.9)
            covered += low <= 3.0 <= high
        assert 340 <= covered <= 380

    def test_one_episode_says_nothing_about_the_spread(self) -> None:
        one = Evaluation(np.array([7.0]), np.array([3]), np.array([0]))
        assert one.mean == 7
        assert one.interval() == (-np.inf, np.inf)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
    def test_confidence_is_a_share(self, confidence: float) -> None:
        one = Evaluation(np.array([7.0]), np.array([3]), np.array([0]))
        with pytest.raises(ValueError, match=r"confidence in \(0, 1\)"):
            one.interval(confidence)
