"""How episodes begin: seeds and options of resets, asked for or not."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import Error

from tests.gymnasium.mode_envs import DiaryEnv
from vecsess import EnvError, VecCheckedSession
from vecsess.wire.episode_seeds import episode_seed

N = 3
GROUPINGS = [0, 1, 2, None]
ACTIONS = [0] * N


def open_session(workers: int | None, **arguments: Any) -> VecCheckedSession:
    lengths = [partial(DiaryEnv, length) for length in (2, 3, 4)]
    return VecCheckedSession(lengths, workers=workers, **arguments)


def seeds_of(vec: VecCheckedSession, steps: int) -> list[tuple[int, int, int]]:
    """Returns `(lockstep, env, seed)` for each episode that began by itself."""
    begun = []
    for step in range(1, steps + 1):
        observations = vec.step(ACTIONS)[0]
        envs = np.flatnonzero(observations[:, 1] == 0)
        begun += [(step, int(env), int(observations[env, 2])) for env in envs]
    return begun


class TestAsked:
    @pytest.mark.parametrize(
        ("seed", "expected"),
        [
            (7, [7, 8, 9]),
            (np.int64(7), [7, 8, 9]),
            ([3, None, 1 << 40], [3, -1, 1 << 40]),
            ((3, 4, 5), [3, 4, 5]),
            (np.array([3, 4, 5]), [3, 4, 5]),
            (None, [-1, -1, -1]),
        ],
    )
    @pytest.mark.parametrize("workers", GROUPINGS)
    def test_each_environment_gets_its_own(
        self, workers: int | None, seed: Any, expected: list[int]
    ) -> None:
        with open_session(workers) as vec:
            assert vec.reset(seed=seed)[0][:, 2].tolist() == expected

    @pytest.mark.parametrize(
        ("seed", "error"),
        [
            ([1, 2], ValueError),
            ([1, 2, 3, 4], ValueError),
            ([1, 2.5, 3], TypeError),
            (1.5, TypeError),
        ],
    )
    def test_what_is_no_seed_changes_nothing(self, seed: Any, error: type[Exception]) -> None:
        with open_session(0) as vec:
            vec.reset(seed=0)
            with pytest.raises(error):
                vec.reset(seed=seed)
            assert vec.step(ACTIONS)[0][:, 0].tolist() == [1, 1, 1]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_seed_out_of_bounds_is_the_environments_error(self, workers: int) -> None:
        with VecCheckedSession("CartPole-v1", N, workers=workers) as vec:
            with pytest.raises(Error, match="Seed") as caught:
                vec.reset(seed=-3)
            assert isinstance(caught.value, EnvError)
            vec.reset(seed=(1 << 128) + 3)
            assert vec.np_random_seed == tuple((1 << 128) + 3 + env for env in range(N))

    @pytest.mark.parametrize("workers", GROUPINGS)
    def test_options_reach_every_environment(self, workers: int | None) -> None:
        options = {"level": 3, "made": np.arange(2)}
        with open_session(workers) as vec:
            infos = vec.reset(options=options)[1]
            assert infos["options"]["level"].tolist() == [3] * N
            assert infos["options"]["made"].tolist() == [[0, 1]] * N
            assert "options" not in vec.step(ACTIONS)[4]
            assert vec.reset(options={})[1] == {
                "options": {},
                "_options": pytest.approx(np.ones(N, np.bool_)),
            }

    def test_options_that_are_no_dict_are_refused(self) -> None:
        with open_session(0) as vec, pytest.raises(TypeError, match="expected a dict or None"):
            vec.reset(options=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", GROUPINGS)
class TestByThemselves:
    def test_a_stream_goes_on_as_gymnasiums(self, workers: int | None) -> None:
        with open_session(workers) as vec:
            vec.reset(seed=5)
            assert seeds_of(vec, 4) == [(2, 0, -1), (3, 1, -1), (4, 0, -1), (4, 2, -1)]

    def test_each_episode_has_a_seed_of_its_own(self, workers: int | None) -> None:
        with open_session(workers, episode_seeds="per_episode") as vec:
            for _ in range(2):  # the same after the same seed
                assert vec.reset(seed=5)[0][:, 2].tolist() == [5, 6, 7]
                assert seeds_of(vec, 6) == [
                    (2, 0, episode_seed(5, 0, 1)),
                    (3, 1, episode_seed(6, 1, 1)),
                    (4, 0, episode_seed(5, 0, 2)),
                    (4, 2, episode_seed(7, 2, 1)),
                    (6, 0, episode_seed(5, 0, 3)),
                    (6, 1, episode_seed(6, 1, 2)),
                ]

    def test_a_reset_without_a_seed_goes_on_from_there(self, workers: int | None) -> None:
        with open_session(workers, episode_seeds="per_episode") as vec:
            vec.reset(seed=5)
            seeds_of(vec, 2)
            seeds = vec.reset()[0][:, 2].tolist()
            assert seeds == [episode_seed(5, 0, 2), episode_seed(6, 1, 1), episode_seed(7, 2, 1)]
            assert seeds_of(vec, 2) == [(2, 0, episode_seed(int(seeds[0]), 0, 1))]

    def test_one_without_any_seed_draws_them(self, workers: int | None) -> None:
        with open_session(workers, episode_seeds="per_episode") as vec:
            seeds = vec.reset()[0][:, 2]
            assert len(set(seeds)) == N
            assert (seeds >= 0).all()

    def test_a_function_says_which(self, workers: int | None) -> None:
        base = 1000  # travels with it

        def seed_of(seed: int, env: int, episode: int) -> int | None:
            return None if env == 1 else base * episode + 10 * env + seed

        with open_session(workers, episode_seeds=seed_of) as vec:
            vec.reset(seed=5)
            assert seeds_of(vec, 4) == [(2, 0, 1005), (3, 1, -1), (4, 0, 2005), (4, 2, 1027)]

    def test_in_the_next_step_too(self, workers: int | None) -> None:
        with open_session(workers, episode_seeds="per_episode", autoreset_mode="next_step") as vec:
            vec.reset(seed=5)
            assert seeds_of(vec, 4) == [
                (3, 0, episode_seed(5, 0, 1)),
                (4, 1, episode_seed(6, 1, 1)),
            ]

    def test_options_for_all_episodes(self, workers: int | None) -> None:
        with open_session(workers, episode_options={"level": 2}) as vec:
            assert vec.reset(seed=0)[1]["options"]["level"].tolist() == [2] * N
            vec.step(ACTIONS)
            infos = vec.step(ACTIONS)[4]
            assert infos["options"]["level"].tolist() == [2, 0, 0]
            assert infos["_options"].tolist() == [True, False, False]
            assert vec.reset(options={"level": 9})[1]["options"]["level"].tolist() == [9] * N

    def test_options_by_episode(self, workers: int | None) -> None:
        def options_of(env: int, episode: int) -> dict[str, Any] | None:
            return {"env": env, "episode": episode} if episode < 2 else None

        with open_session(workers, episode_options=options_of) as vec:
            infos = vec.reset(seed=0)[1]
            assert infos["options"]["env"].tolist() == [0, 1, 2]
            assert infos["options"]["episode"].tolist() == [0, 0, 0]
            told = [vec.step(ACTIONS)[4] for _ in range(4)]
            assert told[1]["options"]["episode"].tolist() == [1, 0, 0]
            assert told[2]["options"]["env"].tolist() == [0, 1, 0]
            assert told[3]["_options"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    "arguments", [{"episode_seeds": "sometimes"}, {"episode_seeds": 3}, {"episode_options": 3}]
)
def test_what_says_nothing_of_episodes_is_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"expected .*callable"):
        open_session(0, **arguments)


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize("steps", [1, 4, 5, 6, 9])
def test_a_lost_worker_costs_no_episode_its_seed(mode: str, steps: int) -> None:
    def run(kill: bool) -> list[Any]:
        results = []
        with open_session(2, episode_seeds="per_episode", autoreset_mode=mode) as vec:
            vec.set_attr("length", 3, indices=[0])
            results.append(vec.reset(seed=5)[0].tolist())
            for step in range(12):
                if kill and step == steps:
                    for pid in set(vec.pids):
                        os.kill(pid, signal.SIGKILL)
                results.append([part.tolist() for part in vec.step(ACTIONS)[:4]])
            assert len(vec.incidents) == (2 if kill else 0)
            assert not any(
                "truncated" in told for i in vec.incidents for told in i.outcomes.values()
            )
        return results

    whole, lost = run(kill=False), run(kill=True)
    without_resets = [[row[1:] for row in result[0]] for result in lost[1:]]
    assert without_resets == [[row[1:] for row in result[0]] for result in whole[1:]]
    assert [result[1:] for result in lost[1:]] == [result[1:] for result in whole[1:]]
