"""Every deadline is named with its seconds, and the caller's own holds whatever is recovered."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.losses import kill
from tests.processes import all_gone
from tests.sessions import zeros
from vecsess import Timeouts, VecCheckedSession
from vecsess.bench.faults.lasting import LastingEnv
from vecsess.errors import CallTimeout, SpawnError, WorkerTimeout
from vecsess.recovery.policy import RestartPolicy

pytestmark = pytest.mark.usefixtures("no_process_left")
PAUSE_S = 0.25
RAISES, LIES = 7, 6  # actions
PRELOADED = """
import time, pathlib
if pathlib.Path({folder!r}, "import").exists():
    time.sleep({pause_s})
"""


class SluggishEnv(LastingEnv):
    """Takes its time for what a file of that name is there for; breaks where an action says so."""

    def __init__(self, index: int, folder: Path, pause_s: float = PAUSE_S) -> None:
        self._there, self._pause_s = folder, pause_s
        self._pause("constructor")
        super().__init__(index)

    def reset(self, **arguments: Any) -> Any:
        self._pause("reset")
        return super().reset(**arguments)

    def step(self, action: Any) -> Any:
        self._pause("step")
        if action == RAISES:
            raise ValueError("no such step")
        observation, _, *others = super().step(action)
        return observation, np.nan if action == LIES else 1.0, *others

    def nap(self) -> None:
        """Sleeps, where the file is there."""
        self._pause("nap")

    def close(self) -> None:
        self._pause("close")

    def _pause(self, name: str) -> None:
        if (self._there / name).exists():
            time.sleep(self._pause_s)


# --- what a missed deadline says -----------------------------------------------------------------


def hang(folder: Path, where: str, **arguments: Any) -> VecCheckedSession:
    """Returns a session that was reset, of one environment that hangs at a place from now on."""
    arguments = {"on_crash": "raise", "workers": 1, **arguments}
    vec = VecCheckedSession(partial(SluggishEnv, 0, folder, 1000.0), 1, **arguments)
    vec.reset(seed=0)
    for _ in range(5):  # the next step ends the episode
        vec.step(zeros(1))
    (folder / where).touch()
    return vec


def brief(**named: float) -> Timeouts:
    return Timeouts(**{"start_s": 30.0, "reset_s": 30.0, "step_s": 30.0, "close_s": 3.0, **named})


MISSED: dict[str, tuple[str, str, Callable[[VecCheckedSession], Any]]] = {
    "step": ("step", "step_s", lambda vec: vec.step(zeros(1))),
    "auto-reset": ("reset", "reset_s", lambda vec: vec.step(zeros(1))),
    "reset": ("reset", "reset_s", lambda vec: vec.reset()),
    "call": ("nap", "step_s", lambda vec: vec.call("nap")),
    "cut-off": ("reset", "reset_s", lambda vec: vec.step(np.array([RAISES]))),
}


@pytest.mark.parametrize("name", MISSED)
def test_a_missed_deadline_says_which_and_how_long_it_was(tmp_path: Path, name: str) -> None:
    where, argument, verb = MISSED[name]
    timeouts = brief(**{argument: 0.3})
    told = rf"within 0\.3 s.*Timeouts\({argument}=\.\.\.\)"
    with (
        hang(tmp_path, where, timeouts=timeouts, on_error="truncate") as vec,
        pytest.raises(WorkerTimeout, match=told),
    ):
        verb(vec)


def test_so_does_that_of_a_replay(tmp_path: Path) -> None:
    policy = RestartPolicy(replay_budget_s=0.1)
    timeouts = brief(step_s=0.2, reset_s=0.2)
    with hang(tmp_path, "nap", restart_policy=policy, timeouts=timeouts, on_crash="replay") as vec:
        (tmp_path / "step").touch()
        kill(vec, env=0, wait=True)
        vec.step_async(zeros(1))
        while len(vec.incidents) < 2:
            with pytest.raises(CallTimeout):
                vec.step_wait(timeout=0.1)
        (tmp_path / "step").unlink()
        vec.step_wait()
        told = vec.incidents[1].what
        assert "answer to Replay within 0.5 s" in told
        assert "RestartPolicy(replay_budget_s=...)" in told


@pytest.mark.parametrize("where", ["constructor", "import"])
def test_so_does_that_of_a_start(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "preloaded_late.py").write_text(PRELOADED.format(folder=str(tmp_path), pause_s=99))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / where).touch()
    maker = partial(SluggishEnv, 0, tmp_path, 1000.0)
    with pytest.raises(SpawnError, match=r"within 1\.5 s.*Timeouts\(start_s=\.\.\.\)"):
        VecCheckedSession(maker, 1, timeouts=brief(start_s=1.5), preload=["preloaded_late"])


def test_so_does_that_of_a_close(tmp_path: Path) -> None:
    vec = hang(tmp_path, "close", timeouts=brief(close_s=0.3))
    with pytest.warns(UserWarning, match=r"within 0\.3 s.*Timeouts\(close_s=\.\.\.\)"):
        vec.close()


WAITS: dict[str, tuple[str, Callable[[VecCheckedSession], Any]]] = {
    "step": ("step", lambda vec: vec.step_async(zeros(1))),
    "reset": ("reset", lambda vec: vec.reset_async()),
    "call": ("nap", lambda vec: vec.call_async("nap")),
}


@pytest.mark.parametrize("verb", WAITS)
def test_so_does_a_wait_that_was_too_short(tmp_path: Path, verb: str) -> None:
    where, begin = WAITS[verb]
    with hang(tmp_path, where) as vec:
        begin(vec)
        told = rf"timeout=0\.05 s: workers \[0\] have yet to answer; the {verb} is still pending"
        with pytest.raises(CallTimeout, match=told):
            getattr(vec, f"{verb}_wait")(timeout=0.05)
        vec.close(terminate=True)


# --- a wait ends in time, whatever is recovered ---------------------------------------------------


def lose_server(vec: VecCheckedSession) -> None:
    supervisor = vec.engine.fleet.supervisor
    assert supervisor is not None
    server = supervisor._owned.server
    assert server is not None
    server.kill()
    assert all_gone(set(vec.pids), 5.0)


# What is slow, the action of environment 1, what is lost, and arguments of the session.
KILL, NOTHING = partial(kill, env=1, wait=True), str
RECOVERIES: dict[str, tuple[str, int, Callable[[VecCheckedSession], Any], dict[str, Any]]] = {
    "a successor's constructor": ("constructor", 0, KILL, {}),
    "a successor's start": ("", 0, KILL, {"start_method": "spawn"}),
    "a fork server's start": ("import", 0, lose_server, {}),
    "a replay": ("step", 0, KILL, {}),
    "the reset of a replay": ("reset", 0, KILL, {}),
    "a cut-off for a loss": ("reset", 0, KILL, {"on_crash": "truncate"}),
    "a cut-off for an error": ("reset", RAISES, NOTHING, {"on_error": "truncate"}),
    "a cut-off for a violation": ("reset", LIES, NOTHING, {"on_violation": "truncate"}),
    "a restart for an error": ("reset", RAISES, NOTHING, {"on_error": "restart"}),
    "a restart for a violation": ("constructor", LIES, NOTHING, {"on_violation": "restart"}),
    "a cut-off and a loss": ("reset", RAISES, KILL, {"on_error": "truncate"}),
}


@pytest.mark.parametrize("name", RECOVERIES)
def test_a_wait_ends_in_time_and_the_next_goes_on(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, action, lose, arguments = RECOVERIES[name]
    folders = tmp_path / "waits", tmp_path / "steps"
    monkeypatch.syspath_prepend(tmp_path)
    rows = []
    for folder in folders:
        folder.mkdir()
        text = PRELOADED.format(folder=str(folder), pause_s=PAUSE_S)
        (tmp_path / f"preloaded_{folder.name}.py").write_text(text)
        makers = [partial(SluggishEnv, index, folder) for index in range(2)]
        how = {
            "workers": 1,
            "preload": [f"preloaded_{folder.name}"],
            "infos": "none",
            **arguments,
        }
        with VecCheckedSession(makers, **how) as vec:
            vec.reset(seed=0)
            for _ in range(2):
                vec.step(zeros(2))
            lose(vec)
            if folder == folders[0]:
                (folder / slow).touch()
                vec.step_async(np.array([0, action]))
                late, row = wait_in_slices(vec)
                assert late > 2  # each far shorter than what is slow
            else:
                row = vec.step(np.array([0, action]))
            if slow and folder == folders[0]:
                (folder / slow).unlink()
            rows.append([row, vec.step(zeros(2)), vec.reset(seed=1)])
    for ours, theirs in zip(*rows, strict=True):
        np.testing.assert_equal(ours, theirs)


def wait_in_slices(vec: VecCheckedSession) -> tuple[int, Any]:
    """Waits for a step 0.02 s at a time; returns how often that was too short, and the rows."""
    for late in range(2000):
        try:
            return late, vec.step_wait(timeout=0.02)
        except CallTimeout:
            pass
    raise AssertionError("it never ends")
