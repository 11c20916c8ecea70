"""A file of the environment's is edited during a run, and a worker is lost: no episode is mixed."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vecsess import VecCheckedSession

pytestmark = pytest.mark.usefixtures("no_process_left")
ZEROS = np.zeros(2, np.int64)
CODE = """
import gymnasium, numpy as np

REWARD = {reward}

class Edited(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {{}}

    def step(self, action):
        self.steps += 1
        return np.full(1, self.steps, np.float32), REWARD, False, False, {{}}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of one environment, whose reward is 1."""
    (tmp_path / "edited_env.py").write_text(CODE.format(reward=1.0))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("edited_env")
    del sys.modules["edited_env"]


def lazily() -> Any:
    """Makes the environment of a module that only the worker imports."""
    import edited_env  # type: ignore[import-not-found]

    return edited_env.Edited()


def lose(vec: VecCheckedSession, *, server: bool) -> None:
    supervisor = vec.engine.fleet.supervisor
    assert supervisor is not None
    process = supervisor._owned.server
    assert process is not None
    if server:
        process.kill()
        process.wait()
    else:
        os.kill(vec.pids[1], signal.SIGKILL)


def test_successors_forked_from_what_is_in_memory_run_the_old_code(module: ModuleType) -> None:
    assert module.__file__ is not None
    with VecCheckedSession([module.Edited] * 2, workers=2) as vec:
        vec.reset(seed=0)
        vec.step(ZEROS)
        Path(module.__file__).write_text("half a fi (")
        lose(vec, server=False)
        observations, rewards, _, _, infos = vec.step(ZEROS)
    assert rewards.tolist() == [1.0, 1.0]
    assert "invalid" not in infos
    assert observations.tolist() == [[2], [2]]


CASES: dict[str, tuple[Callable[[ModuleType], Any], dict[str, Any], bool]] = {
    "spawn": (lambda module: module.Edited, {"start_method": "spawn"}, False),
    "fork, not in the server": (lambda _: lazily, {}, False),
    "fork, a new server": (lambda module: module.Edited, {}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_a_successor_that_reads_another_file_replays_nothing(name: str, module: ModuleType) -> None:
    maker, how, server = CASES[name]
    assert module.__file__ is not None
    path = Path(module.__file__)
    with VecCheckedSession([maker(module)] * 2, workers=2, **how) as vec:
        vec.reset(seed=0)
        vec.step(ZEROS)
        path.write_text(CODE.format(reward=22.0))
        lose(vec, server=server)
        with pytest.warns(UserWarning, match=r"edited_env\.py has changed"):
            _, rewards, _, truncated, infos = vec.step(ZEROS)
        lost = [True, True] if server else [False, True]
        assert infos["invalid"].tolist() == truncated.tolist() == lost
        assert rewards.tolist() == [0.0 if each else 1.0 for each in lost]
        assert "edited_env.py has changed" in vec.incidents[0].outcomes[1]
        assert vec.step(ZEROS)[1].tolist() == [22.0 if each else 1.0 for each in lost]
        lose(vec, server=False)  # the same code again: that is replayed
        _, rewards, _, _, infos = vec.step(ZEROS)
        assert "invalid" not in infos
        assert rewards[1] == 22.0


def test_a_half_saved_file_does_not_end_the_run(module: ModuleType) -> None:
    assert module.__file__ is not None
    path = Path(module.__file__)
    with VecCheckedSession([module.Edited] * 2, workers=2, start_method="spawn") as vec:
        vec.reset(seed=0)
        vec.step(ZEROS)
        path.write_text("half a fi (")
        lose(vec, server=False)
        timer = threading.Timer(1.0, path.write_text, (CODE.format(reward=22.0),))
        timer.start()
        with pytest.warns(UserWarning, match=r"edited_env\.py has changed"):
            infos = vec.step(ZEROS)[4]
        timer.join()
        assert infos["invalid"].tolist() == [False, True]
        assert vec.step(ZEROS)[1].tolist() == [1.0, 22.0]


LAZY = """
import edited_env

class Lazy(edited_env.Edited):
    def {verb}(self, *args, **given):
        import edited_part
        observation, *others = super().{verb}(*args, **given)
        return observation + edited_part.OFFSET, *others
"""


@pytest.fixture(params=["reset", "step"])
def lazy(
    module: ModuleType, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Any, Path]]:
    """The class of an environment that imports a part of itself late, and that part's file."""
    part = tmp_path / "edited_part.py"
    part.write_text("OFFSET = 0")
    (tmp_path / "lazy_env.py").write_text(LAZY.format(verb=request.param))
    yield importlib.import_module("lazy_env").Lazy, part
    del sys.modules["lazy_env"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_is_imported_late_is_compared_with_what_was_there_when_the_session_began(
    lazy: tuple[Any, Path], method: Any
) -> None:
    maker, part = lazy
    with VecCheckedSession([maker] * 2, workers=2, start_method=method) as vec:
        vec.reset(seed=0)
        vec.step(ZEROS)
        lose(vec, server=False)  # as it was: that is replayed
        assert "invalid" not in vec.step(ZEROS)[4]
        part.write_text("OFFSET = 40")
        lose(vec, server=False)
        with pytest.warns(UserWarning, match=r"edited_part\.py has changed since"):
            infos = vec.step(ZEROS)[4]
        assert infos["invalid"].tolist() == [False, True]
        assert "edited_part.py has changed" in vec.incidents[-1].outcomes[1]
        first = vec.step(ZEROS)[0]
        lose(vec, server=False)  # the same code again: that is replayed
        observations, _, _, _, infos = vec.step(ZEROS)
        assert "invalid" not in infos
        assert observations.tolist() == [[5], [first[1, 0] + 1]]
        part.write_text("OFFSET = 50")
        lose(vec, server=False)
        with pytest.warns(UserWarning, match=r"edited_part\.py has changed since its predecessor"):
            assert vec.step(ZEROS)[4]["invalid"].tolist() == [False, True]


def test_what_was_never_replayed_before_it_was_edited_counts_as_edited(
    lazy: tuple[Any, Path],
) -> None:
    maker, part = lazy
    with VecCheckedSession([maker] * 2, workers=2) as vec:
        vec.reset(seed=0)
        vec.step(ZEROS)
        part.write_text("OFFSET = 40")
        lose(vec, server=False)
        with pytest.warns(UserWarning, match=r"edited_part\.py has changed since the session"):
            assert vec.step(ZEROS)[4]["invalid"].tolist() == [False, True]
