"""A worker's traceback shows code of the main script and of a notebook's cell as any other."""

from __future__ import annotations

import linecache
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import run
from vecsess import EnvError, VecCheckedSession
from vecsess.wire.code import dumps

SOURCE = """
import gymnasium

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return self.broken(action)

    def broken(self, action):
        return [][action]  # here
"""
TRAINER = """
from vecsess import VecCheckedSession

with VecCheckedSession(Mine, n=1) as vec:
    vec.reset(seed=0)
    try:
        vec.step([0])
    except IndexError as error:
        print(error.remote_traceback)
"""
LINES = ("return self.broken(action)", "return [][action]  # here")


def shown(traceback: str, file: str) -> None:
    """Asserts that a traceback names both functions' file and lines, and shows these."""
    for line in LINES:
        number = SOURCE.splitlines().index(f"        {line}") + 1
        assert f'File "{file}", line {number}, in ' in traceback
        assert line in traceback


def cell(name: str, source: str) -> dict[str, Any]:
    """Runs a notebook's cell as IPython does: its source is in `linecache` alone."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), names)  # what a notebook does
    return names


@pytest.fixture
def cell_name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name for a cell, forgotten after the test."""
    monkeypatch.setattr(linecache, "cache", dict(linecache.cache))
    return "/tmp/ipykernel_7/1234.py"  # no file; IPython calls them so


def test_main_script(tmp_path: Path) -> None:
    """`python script.py`, the environment's class in it."""
    script = tmp_path / "script.py"
    script.write_text(SOURCE + TRAINER)
    shown(run(script, cwd=tmp_path).stdout, str(script))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_cell(cell_name: str, start_method: Any) -> None:
    """A class of a notebook's cell, of which there is no file; a successor has it, too."""
    made = cell(cell_name, SOURCE)["Mine"]
    with VecCheckedSession(made, n=1, start_method=start_method) as vec:
        vec.reset(seed=0)
        with pytest.raises(EnvError) as caught:
            vec.step([0])
    shown(caught.value.remote_traceback, cell_name)


def test_source_travels_once_and_within_bounds(cell_name: str) -> None:
    """All functions of a cell share its source; one that is too long stays behind."""
    functions = "".join(f"def f{index}(): return {index}\n" for index in range(50))
    one = list(cell(cell_name, functions + "# " + "x" * 10_000).values())[2:]
    packed = dumps(one)
    assert packed.count(b"x" * 10_000) == 1
    long = list(cell(cell_name, functions + "# " + "x" * (2 << 20)).values())[2:]
    packed = dumps(long)
    assert len(packed) < 100_000
    assert pickle.loads(packed)[3].__code__.co_filename == cell_name  # ours


CRASH = """
import os, subprocess, sys
import gymnasium
from vecsess import VecCheckedSession

class Crashing(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        if sys.argv[1] == "itself":
            os.abort()
        code = "import faulthandler, os; faulthandler.enable(); os.abort()"
        subprocess.run([sys.executable, "-c", code])
        print("goes on", flush=True)
        return 0, 0.0, False, False, {}

with VecCheckedSession(Crashing, n=1, on_crash="raise") as vec:
    vec.reset(seed=0)
    vec.step([0])
"""


@pytest.mark.parametrize(("who", "code"), [("itself", 1), ("another", 0)])
def test_a_crash_is_told_once(who: str, code: int, tmp_path: Path) -> None:
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    said = run(script, who, cwd=tmp_path, code=code).stderr
    assert said.count("Fatal Python error: Aborted") == 1, said
    assert said.count("(most recent call first)") == 1, said
    assert ("[worker 0] goes on" in said) == (who == "another")


WARNS = """
import warnings
import gymnasium
from vecsess import VecCheckedSession

class Warning_(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        for _ in range(2):
            warnings.warn("the same everywhere")
        warnings.warn(f"of {seed}")
        print("no warning", flush=True)
        return 0, {}

with VecCheckedSession(Warning_, n=3) as vec:
    vec.reset(seed=5)
"""


def test_a_warning_of_every_worker_is_shown_once(tmp_path: Path) -> None:
    script = tmp_path / "warns.py"
    script.write_text(WARNS)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("UserWarning: the same everywhere") == 1, done.stderr
    assert done.stderr.count('warnings.warn("the same everywhere")') == 1, done.stderr
    assert all(f"UserWarning: of {seed}" in done.stderr for seed in (5, 6, 7))
    assert done.stderr.count("no warning") == 3
