"""The cases: looked up, changed, built, and picklable."""

from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vecsess.bench.cases import CASES, StepTime, find_case


@pytest.mark.parametrize("name", ["image", "heavy"])
def test_environments_of_our_own_keep_gymnasiums_rules(name: str) -> None:
    check_env(find_case(name, step_us=1.0).make(), skip_render_check=True)


@pytest.mark.parametrize("name", ["image", "heavy"])
def test_a_seed_decides_all_observations(name: str) -> None:
    first, second = (find_case(name, step_us=1.0, sleeping=False).make() for _ in range(2))
    np.testing.assert_array_equal(first.reset(seed=3)[0], second.reset(seed=3)[0])
    for _ in range(10):
        np.testing.assert_array_equal(first.step(np.int64(0))[0], second.step(np.int64(0))[0])


def test_an_image_is_84_by_84_by_4_bytes() -> None:
    observation, _ = find_case("image").make().reset(seed=0)
    assert (observation.shape, observation.dtype) == ((84, 84, 4), np.uint8)


def test_every_case_crosses_processes_by_pickle() -> None:
    for case in CASES.values():
        copy = pickle.loads(pickle.dumps(case))
        assert (copy.name, copy.step_time) == (case.name, case.step_time)
        assert str(copy.build) == str(case.build)


def test_a_bare_id_is_handed_over_as_an_id_and_a_built_one_as_a_callable() -> None:
    assert find_case("cartpole").env == "CartPole-v1"
    built = find_case("image").env
    assert callable(built)
    assert built().observation_space.shape == (84, 84, 4)


def test_any_registered_id_is_a_case() -> None:
    case = find_case("Acrobot-v1")
    assert isinstance(case.make(), gym.Env)
    assert case.env == "Acrobot-v1"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"neither a case .*cartpole.* nor a registered"):
        find_case("NoSuchEnvironment-v9")


def test_step_time_and_sleeping_can_be_set_where_there_is_one() -> None:
    case = find_case("image", step_us=250.0, sleeping=True)
    assert case.step_time == StepTime(mean_us=250.0, sleeping=True)
    with pytest.raises(ValueError, match=r"no step time of its own.*image, steady, heavy"):
        find_case("cartpole", step_us=250.0)


def test_drawn_times_have_the_mean_that_was_asked_for_whatever_the_spread() -> None:
    rng = np.random.default_rng(0)
    assert StepTime(mean_us=100.0).draw_s(rng, 3) == pytest.approx(1e-4)
    heavy = StepTime(mean_us=1000.0, sigma=1.0).draw_s(rng, 200_000)
    assert heavy.mean() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize(
    ("name", "n", "factor"), [("cartpole", 16, 2), ("cartpole", 1, 1), ("heavy", 16, 16)]
)
def test_the_limit_is_cores_or_environments_whichever_runs_out(
    name: str, n: int, factor: int
) -> None:
    assert find_case(name).limit_factor(n, cores=2) == factor
