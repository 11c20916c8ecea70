"""An episode that was cut off is told of once, and the next one is an episode like any other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.losses import kill, open_session
from tests.processes import all_gone
from tests.sessions import zeros
from vecsess import RandomPolicy, VecCheckedSession, collect_rollout
from vecsess.collect.paced import Pace
from vecsess.errors import CallTimeout

pytestmark = pytest.mark.usefixtures("no_process_left")
N, RAISES = 4, 7
DEADLY = """
import os, pathlib
left = pathlib.Path({left!r})
if left.exists() and (count := int(left.read_text())):
    left.write_text(str(count - 1))
    os._exit(1)
"""


class DrawingEnv(gymnasium.Env[Any, Any]):
    """Adds up what it draws, so that no two episodes are alike; raises where an action says so."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(8)
    length = 6

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._count, self._sum = 0, float(self.np_random.integers(1000))
        return np.array([self._count, self._sum]), {}

    def step(self, action: Any) -> Any:
        if action == RAISES:
            raise ValueError("no such step")
        self._count += 1
        self._sum += self.np_random.random()
        return np.array([self._count, self._sum]), 1.0, self._count >= self.length, False, {}

    def poke(self) -> None:
        """May change it, for all that a session knows: no episode is replayed after it."""


def kill_server(vec: VecCheckedSession) -> None:
    supervisor = vec.engine.fleet.supervisor
    assert supervisor is not None
    assert supervisor._owned.server is not None
    supervisor._owned.server.kill()
    assert all_gone(set(vec.pids), 5.0)


# --- the others, while some are reset -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("on_crash", ["truncate", "replay"])
def test_a_server_lost_before_a_masked_reset_cuts_the_others_off(on_crash: Any, mode: Any) -> None:
    with open_session([DrawingEnv] * N, N, on_crash=on_crash, autoreset_mode=mode) as vec:
        vec.reset(seed=0)
        vec.call("poke")
        before = vec.step(zeros(N))[0]
        kill_server(vec)
        infos = vec.reset(options={"reset_mask": np.arange(N) == 0})[1]
        assert infos["invalid"].tolist() == [False, True, True, True]
        observations, rewards, _, truncated, infos = vec.step(zeros(N))
        assert infos["invalid"].tolist() == truncated.tolist() == [False, True, True, True]
        assert observations[:, 0].tolist() == [1] * N
        assert (observations[:, 1] != before[:, 1]).all()
        assert rewards.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("deaths", [0, 1, 2, 3])
@pytest.mark.parametrize("verb", ["reset of some", "reset", "call", "step"])
def test_no_step_is_taken_twice_however_often_the_server_dies(
    tmp_path: Path, verb: str, deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    (tmp_path / "preloaded_deadly.py").write_text(DEADLY.format(left=str(left)))
    monkeypatch.syspath_prepend(tmp_path)
    makers = [DrawingEnv] * N
    verbs: dict[str, Any] = {
        "reset of some": lambda vec: vec.reset(options={"reset_mask": np.arange(N) == 0})[0],
        "reset": lambda vec: vec.reset()[0],
        "call": lambda vec: vec.get_attr("length"),
        "step": lambda vec: vec.step(zeros(N))[0],
    }
    with (
        open_session(makers, N, workers=2, preload=["preloaded_deadly"]) as vec,
        open_session(makers, N, workers=0) as oracle,
    ):
        for session in (vec, oracle):
            session.reset(seed=0)
            session.step(zeros(N))
        kill_server(vec)
        left.write_text(str(deaths))
        for each in (verb, "step"):
            np.testing.assert_array_equal(verbs[each](vec), verbs[each](oracle))
        assert left.read_text() == "0"


@pytest.mark.parametrize("deaths", [0, 2])
def test_a_step_that_was_given_up_is_not_taken_after_the_reset(
    tmp_path: Path, deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    (tmp_path / "preloaded_deadly.py").write_text(DEADLY.format(left=str(left)))
    monkeypatch.syspath_prepend(tmp_path)
    with open_session([DrawingEnv] * N, N, workers=2, preload=["preloaded_deadly"]) as vec:
        vec.reset(seed=0)
        kill_server(vec)
        vec.step_async(zeros(N))
        with pytest.raises(CallTimeout):
            vec.step_wait(timeout=0)
        left.write_text(str(deaths))
        assert vec.reset(seed=1)[0][:, 0].tolist() == [0] * N
        observations, _, _, _, infos = vec.step(zeros(N))
        assert observations[:, 0].tolist() == [1] * N
        assert "invalid" not in infos


# --- the episode after ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_a_loss_between_the_row_that_tells_and_the_next_goes_on_with_the_new_episode(
    mode: Any,
) -> None:
    how: Any = {"workers": 1, "on_error": "truncate", "autoreset_mode": mode}
    with open_session([DrawingEnv] * N, N, **how) as vec:
        vec.reset(seed=0)
        vec.step(zeros(N))
        before = vec.step(np.array([RAISES, 0, 0, 0]))[0]
        kill(vec, env=0, wait=True)
        vec.get_attr("length")
        assert vec.incidents[-1].outcomes == dict.fromkeys(range(N), "replayed episode")
        after, rewards, _, _, infos = vec.step(zeros(N))
        assert "invalid" not in infos
        assert rewards.tolist() == [1] * N
        assert (after[:, 0] == before[:, 0] + 1).all()
        assert (after[:, 1] - before[:, 1] < 1).all()


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize("verb", ["call", "reset of some"])
def test_what_was_cut_off_between_two_steps_is_replayed_when_it_is_lost_again(
    verb: str, mode: Any
) -> None:
    with open_session([DrawingEnv] * N, N, workers=2, autoreset_mode=mode) as vec:
        vec.reset(seed=0)
        vec.call("poke")
        vec.step(zeros(N))
        kill(vec, env=0, wait=True)
        if verb == "call":
            vec.get_attr("length")
        else:
            vec.reset(options={"reset_mask": np.arange(N) == 0})
        assert vec.step(zeros(N))[4]["invalid"].tolist() == [verb == "call", True, False, False]
        before = vec.step(zeros(N))[0]
        kill(vec, env=0, wait=True)
        after, _, _, _, infos = vec.step(zeros(N))
        assert "invalid" not in infos
        assert (after[:, 1] - before[:, 1] < 1).all()


def test_an_episode_that_ends_in_the_row_that_tells_of_the_one_before_is_told_of_once() -> None:
    with open_session([DrawingEnv] * N, N, workers=2, on_crash="truncate") as vec:
        vec.reset(seed=0)
        last = vec.step(zeros(N))[0]
        vec.set_attr("length", 1, indices=[0, 1])
        kill(vec, env=0, wait=True)
        assert vec.get_attr("length") == (1, 1, 6, 6)  # a loss forgets no attribute
        rollout = collect_rollout(vec, RandomPolicy(spaces.Discrete(7)), 3, seed=0)
        assert rollout.final_steps.tolist() == [0, 0, 1, 1, 2, 2]
        assert rollout.final_envs.tolist() == [0, 1] * 3
        np.testing.assert_array_equal(rollout.final_observations[:2], last[:2])
        assert rollout.valid.tolist() == [[False, False, True, True], [True] * N, [True] * N]


# --- its seed -------------------------------------------------------------------------------------


class Sometimes(RandomPolicy):
    """Takes an action that raises in some steps of some environments."""

    def act(self, observations: Any, *, envs: Any, **given: Any) -> Any:
        actions, *others = super().act(observations, envs=envs, **given)
        actions = np.where((envs + observations[:, 0]) % 5 == 3, RAISES, np.minimum(actions, 6))
        return (actions, *others)


@pytest.mark.parametrize("pace", ["lockstep", "pipelined", "free"])
@pytest.mark.parametrize("reaction", ["truncate", "restart"])
def test_what_begins_after_a_cut_off_is_the_same_in_every_grouping_and_at_every_pace(
    pace: Pace, reaction: Any
) -> None:
    makers = [DrawingEnv] * N
    with (
        open_session(makers, N, on_error=reaction) as vec,
        open_session(makers, N, workers=0, on_error=reaction) as oracle,
    ):
        for seed in (0, 1):
            kill(vec, env=1, wait=True)
            for session in (vec, oracle):
                session.start(seed=seed)
            policy = Sometimes(vec.single_action_space)
            ours = collect_rollout(vec, policy, 12, seed=0, pace=pace)
            theirs = collect_rollout(oracle, policy, 12, seed=0)
            assert not ours.valid.all()
            np.testing.assert_array_equal(ours.valid, theirs.valid)
            np.testing.assert_array_equal(ours.observations, theirs.observations)


class TwiceEnv(DrawingEnv):
    """Its worker ends, once, after the reset that an episode's cutting off asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def reset(self, **given: Any) -> Any:
        folder = self._folder
        if folder and (folder / "raised").exists() and not (folder / "died").exists():
            (folder / "died").touch()
            raise SystemExit(1)
        return super().reset(**given)

    def step(self, action: Any) -> Any:
        if action == RAISES and self._folder is not None:
            (self._folder / "raised").touch()
        return super().step(action)


def test_a_loss_in_the_reset_of_a_cut_off_changes_no_bit(tmp_path: Path) -> None:
    rows = []
    for folder in (tmp_path, None):
        with open_session(
            [partial(TwiceEnv, folder)] * 2, 2, workers=1, on_error="truncate"
        ) as vec:
            vec.reset(seed=0)
            rows.append([vec.step(np.array([RAISES, 0]))[0], vec.step(zeros(2))[0]])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (tmp_path / "died").exists()
