"""Sessions by `gymnasium.make_vec`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.envs import CountingEnv
from tests.programs import run
from vecsess import Contract, VecCheckedSession
from vecsess.errors import ActionError
from vecsess.integrations.make_vec import make_vec, register_vector_envs


def make(env_id: str, **arguments: Any) -> Any:
    return gymnasium.make_vec(env_id, **{"workers": 2, **arguments})


def test_an_id_in_our_namespace_is_a_session() -> None:
    with make("vecsess/CartPole-v1", num_envs=4) as envs:
        assert isinstance(envs, VecCheckedSession)
        assert envs.num_envs == 4
        assert envs.reset(seed=0)[0].shape == (4, 4)
        assert envs.spec is not None
        assert envs.spec.id == "vecsess/CartPole-v1"
        assert str(envs) == "VecCheckedSession(vecsess/CartPole-v1, num_envs=4, workers=2)"
        assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_the_import_registers_and_needs_nothing_else(tmp_path: Path) -> None:
    code = "import vecsess, gymnasium; print('vecsess/Taxi-v4' in gymnasium.registry)"
    assert run("-c", code, cwd=tmp_path).stdout.strip() == "True"
    code = "import gymnasium; gymnasium.make_vec('vecsess:vecsess/Taxi-v4', workers=0).close()"
    run("-c", code, cwd=tmp_path)


def test_arguments_go_to_the_session_or_to_the_environments() -> None:
    with make(
        "vecsess/Pendulum-v1", num_envs=2, g=2.5, autoreset_mode="next_step", infos="none"
    ) as envs:
        assert envs.get_attr("g") == (2.5, 2.5)
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with pytest.raises(TypeError, match="no_such_argument"):
        make("vecsess/Pendulum-v1", num_envs=2, no_such_argument=1)


def test_actions_out_of_range_are_taken_as_gymnasium_does_where_that_is_asked_for() -> None:
    ours, theirs = (
        make("vecsess/Pendulum-v1", num_envs=2, contract=Contract(action_range="allow")),
        gymnasium.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync"),
    )
    with ours:
        ours.reset(seed=0)
        theirs.reset(seed=0)
        actions = np.full((2, 1), 9.0, np.float32)
        np.testing.assert_array_equal(ours.step(actions)[1], theirs.step(actions)[1])
    theirs.close()


def test_the_contract_is_the_same_as_everywhere() -> None:
    with make("vecsess/Pendulum-v1", num_envs=2) as envs:
        envs.reset(seed=0)
        with pytest.raises(ActionError, match="'clip' them, or 'allow' them"):
            envs.step(np.full((2, 1), 9.0, np.float32))


def test_the_spec_makes_another() -> None:
    with make("vecsess/CartPole-v1", num_envs=3, render_mode="rgb_array") as envs:
        spec = envs.spec
    spec = gymnasium.envs.registration.EnvSpec.from_json(spec.to_json())
    again = gymnasium.make_vec(spec)
    assert again.num_envs == 3
    assert again.render_mode == "rgb_array"
    again.close()


@pytest.mark.filterwarnings("ignore:.*latest versioned:UserWarning")
def test_an_id_without_a_version_is_the_latest() -> None:
    with make("vecsess/CartPole", workers=0) as envs:
        assert envs.spec.id == "vecsess/CartPole-v1"


def test_one_id_takes_any_environment() -> None:
    with make("vecsess/Env-v0", env=CountingEnv, num_envs=2) as envs:
        assert envs.reset(seed=0)[0].shape == (2, 4)
    with pytest.raises(TypeError, match="wants to know which"):
        make("vecsess/Env-v0")


def test_ids_that_came_later() -> None:
    gymnasium.register("late/Counting-v3", entry_point="tests.envs:CountingEnv")
    try:
        register_vector_envs()
        with make("vecsess/late-Counting-v3", num_envs=2) as envs:
            assert envs.reset(seed=0)[0].shape == (2, 4)
    finally:
        del gymnasium.registry["late/Counting-v3"], gymnasium.registry["vecsess/late-Counting-v3"]


def test_an_unknown_one() -> None:
    with pytest.raises(gymnasium.error.NameNotFound):
        make("vecsess/NoSuchEnv-v1")


def test_wrappers_and_vector_kwargs_are_taken_by_our_own_function() -> None:
    limit = partial(gymnasium.wrappers.TimeLimit, max_episode_steps=3)
    arguments: dict[str, Any] = {
        "vector_kwargs": {"workers": 2, "autoreset_mode": "next_step"},
        "wrappers": [limit, gymnasium.wrappers.RecordEpisodeStatistics],
    }
    with make_vec("Pendulum-v1", 2, "async", g=2.5, **arguments) as envs:
        envs.reset(seed=0)
        for _ in range(3):
            *_, truncated, infos = envs.step(np.zeros((2, 1), np.float32))
        assert truncated.all()
        assert infos["episode"]["l"].tolist() == [3, 3]
        assert envs.get_attr("g") == (2.5, 2.5)
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with make_vec("CartPole-v1", 3, workers=0) as envs:
        assert envs.num_envs == 3
