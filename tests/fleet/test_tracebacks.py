"""A worker's traceback shows code of the main script and of a notebook's cell as any other."""

from __future__ import annotations

import linecache
import pickle
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
