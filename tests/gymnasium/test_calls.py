"""Calls, attributes, frames and random generators: arguments as pickles, results as plain data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from tests.envs import CountingEnv
from tests.gymnasium.comparison import assert_same
from tests.gymnasium.mode_envs import DiaryEnv
from vecsess import EnvError, VecCheckedSession
from vecsess.errors import StateError

N = 4
GROUPINGS = [0, 2, None]


def wrapped(length: int = 5) -> gymnasium.Env[Any, Any]:
    return gymnasium.wrappers.TimeLimit(
        gymnasium.wrappers.RecordEpisodeStatistics(DiaryEnv(length)), 7
    )


@pytest.fixture(params=GROUPINGS)
def vec(request: pytest.FixtureRequest) -> Any:
    with VecCheckedSession(wrapped, N, workers=request.param) as session:
        yield session


class TestCall:
    def test_before_the_first_reset_and_after(self, vec: VecCheckedSession) -> None:
        assert vec.call("add", 1.0) == (1.0,) * N
        vec.reset(seed=0)
        assert vec.call("add", 1.0, other=2.0, times=3) == (9.0,) * N
        vec.step([0, 1, 2, 0])
        assert vec.call("render")[0].tolist() == np.full((2, 2, 3), 1).tolist()

    def test_what_can_not_be_called_is_returned(self, vec: VecCheckedSession) -> None:
        assert vec.call("length") == vec.get_attr("length") == (5,) * N

    def test_of_some(self, vec: VecCheckedSession) -> None:
        assert vec.call("add", 2.0, indices=[3, 0]) == (2.0, 2.0)
        assert vec.get_attr("length", indices=[-1]) == (5,)
        assert vec.call("add", 2.0, indices=[]) == ()
        with pytest.raises(IndexError):
            vec.call("add", 2.0, indices=[N])

    def test_arguments_may_be_code(self, vec: VecCheckedSession) -> None:
        vec.reset(seed=0)
        vec.step([0] * N)
        assert vec.call("apply", lambda steps: steps + 10) == (11,) * N

    @pytest.mark.parametrize("name", ["reset", "step", "close", "_setattr", "_check_spaces"])
    def test_the_sessions_own_verbs_are_refused(self, vec: VecCheckedSession, name: str) -> None:
        told = f"Trying to call function `{name}` with `call`, use `{name}` directly instead."
        with pytest.raises(ValueError, match=told):
            vec.call(name)

    def test_what_it_raises_is_raised_and_nothing_is_lost(self, vec: VecCheckedSession) -> None:
        vec.reset(seed=0)
        vec.step([0] * N)
        with pytest.raises(KeyError, match="fails when called") as caught:
            vec.call("fail", indices=[2, 3])
        assert isinstance(caught.value, EnvError)
        assert caught.value.env == 2
        with pytest.raises(AttributeError, match="no_such_name"):
            vec.get_attr("no_such_name")
        assert vec.step([0] * N)[0][:, 1].tolist() == [2] * N

    def test_a_result_that_is_no_data_is_refused_by_name(self, vec: VecCheckedSession) -> None:
        with pytest.raises(TypeError, match=r"'give_object' can't come back.*builtins.object"):
            vec.call("give_object")
        with pytest.raises(TypeError, match="'unwrapped' can't come back"):
            vec.get_attr("unwrapped")


class TestAttributes:
    def test_one_for_all_or_one_for_each(self, vec: VecCheckedSession) -> None:
        vec.set_attr("length", 3)
        assert vec.get_attr("length") == (3,) * N
        vec.set_attr("length", [1, 2, 3, 4])
        assert vec.get_attr("length") == (1, 2, 3, 4)
        vec.set_attr("length", (9, 8), indices=[2, 0])
        assert vec.get_attr("length") == (8, 2, 9, 4)
        vec.set_attr("told", {"a": [1]}, indices=[1])
        assert vec.call("recall", indices=[0, 1]) == ("None", "{'a': [1]}")

    @pytest.mark.parametrize("values", [[1], [1] * (N + 1), ()])
    def test_a_wrong_number_is_refused(self, vec: VecCheckedSession, values: Any) -> None:
        with pytest.raises(ValueError, match=r"length equal to the number of environments"):
            vec.set_attr("length", values)
        assert vec.get_attr("length") == (5,) * N

    def test_they_take_effect(self, vec: VecCheckedSession) -> None:
        vec.reset(seed=0)
        vec.set_attr("length", [1, 2, 2, 2])
        assert vec.step([0] * N)[2].tolist() == [True, False, False, False]

    def test_a_wrappers_comes_first(self, vec: VecCheckedSession) -> None:
        vec.set_attr("_max_episode_steps", 2)
        vec.reset(seed=0)
        vec.step([0] * N)
        assert vec.step([0] * N)[3].all()

    def test_each_environment_has_a_value_of_its_own(self, vec: VecCheckedSession) -> None:
        shared: list[Any] = []
        vec.call("remember", shared)
        vec.call("add_to_memory", indices=[0])
        assert vec.call("recall") == ("[0]", *["[]"] * (N - 1))
        assert shared == []

    def test_while_a_step_is_refused_the_session_can_be_looked_into(
        self, vec: VecCheckedSession
    ) -> None:
        vec.reset(seed=0)
        vec.set_attr("length", None, indices=[1])
        with pytest.raises(EnvError):
            vec.step([0] * N)
        assert vec.get_attr("steps")[1] == 1
        with pytest.raises(StateError, match="its last call failed"):
            vec.step([0] * N)


class TestTellsOfItself:
    def test_spaces_and_specs_come_back(self, vec: VecCheckedSession) -> None:
        assert vec.get_attr("action_space") == (gymnasium.spaces.Discrete(3),) * N
        assert vec.get_attr("observation_space")[0] == vec.single_observation_space
        assert vec.get_attr("spec") == (None,) * N
        with VecCheckedSession("CartPole-v1", 2, workers=2) as other:
            assert other.get_attr("spec")[1].id == "CartPole-v1"
            assert other.spec is not None
            assert other.spec.id == "CartPole-v1"

    def test_generators_and_their_seeds_are_gymnasiums(self, vec: VecCheckedSession) -> None:
        theirs = SyncVectorEnv([wrapped] * N)
        for seed in (3, [9, None, 7, None], None):
            vec.reset(seed=seed)
            theirs.reset(seed=seed)
            if seed == 3:
                assert vec.np_random_seed == theirs.np_random_seed == (3, 4, 5, 6)
        assert vec.np_random_seed == theirs.np_random_seed
        drawn = [generator.random() for generator in vec.np_random]
        assert drawn == [generator.random() for generator in vec.np_random]  # copies
        assert drawn == [generator.random() for generator in theirs.np_random]

    def test_seeds_are_known_before_the_first_reset(self, vec: VecCheckedSession) -> None:
        assert len(set(vec.np_random_seed)) == N

    def test_frames(self) -> None:
        maker = partial(DiaryEnv, render_mode="rgb_array")
        with VecCheckedSession(maker, 2, workers=2) as vec:
            assert vec.render_mode == "rgb_array"
            assert vec.metadata["render_fps"] == 30
            vec.reset(seed=0)
            frames = vec.render()
            assert isinstance(frames, tuple)
            assert_same(frames, (np.zeros((2, 2, 3), np.uint8),) * 2)
        with VecCheckedSession(CountingEnv, 1, workers=0) as vec:
            assert vec.render_mode is None

    def test_who_it_is(self, vec: VecCheckedSession) -> None:
        assert vec.unwrapped is vec
        assert vec.num_envs == N
        assert str(vec).startswith(f"VecCheckedSession(num_envs={N}, workers=")
        assert not vec.closed

    def test_with_a_spec(self) -> None:
        with VecCheckedSession("CartPole-v1", 3, workers=0) as vec:
            assert str(vec) == "VecCheckedSession(CartPole-v1, num_envs=3, workers=0)"


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("workers", GROUPINGS)
def test_closing_closes_the_environments_unless_it_is_forced(
    workers: int | None, terminate: bool, tmp_path: Path
) -> None:
    vec = VecCheckedSession(
        [partial(Leaving, tmp_path / str(env)) for env in (0, 1)], workers=workers
    )
    vec.reset(seed=0)
    vec.close(timeout=10.0, terminate=terminate)
    assert vec.closed
    if not terminate:  # else nobody waits for them
        assert len(list(tmp_path.iterdir())) == 2


class Failing(CountingEnv):
    """Raises in each step, at length."""

    def step(self, action: Any) -> Any:
        raise ValueError("ä" * 3000)


@pytest.mark.parametrize("workers", [0, 1])
def test_many_failures_at_once_are_told_in_brief(workers: int) -> None:
    with VecCheckedSession(Failing, 90, workers=workers) as vec:
        vec.start(seed=0)
        with pytest.raises(ValueError, match="äää") as caught:
            vec.step_checked([0] * 90)
    assert "89 more environments failed in the same call" in caught.value.__notes__


class Leaving(CountingEnv):
    """Leaves a file behind when it is closed.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        self.path.touch()
