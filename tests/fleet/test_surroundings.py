"""Workers find what the trainer finds: path, folder, arguments, options, modules loaded by path."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.envs import CountingEnv
from tests.losses import kill
from tests.processes import ROOT, run_script
from vecsess import VecCheckedSession

MODULE = """
import sys
import gymnasium

def make():
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.told = ascii({says})
    return env
"""
SCRIPT = """
import os, signal, sys
here = {here!r}
{before}
from vecsess import VecCheckedSession
method = os.environ["METHOD"]
with VecCheckedSession(mine.make, n=2, workers=1, start_method=method) as vec:
    vec.reset(seed=0)
    first = vec.get_attr("told")
    vec.reset(seed=0)
    os.kill(vec.health()[0].pid, signal.SIGKILL)
    vec.step([0, 1])
    assert vec.get_attr("told") == first, (vec.get_attr("told"), first)
    print(first[0])
"""


@dataclass(frozen=True)
class Case:
    """A trainer in odd surroundings, and what its environments say of theirs."""

    says: str  # an expression, evaluated where the environment is made
    expected: str
    before: str = "sys.path.insert(0, here)\nimport mine"  # the beginning of the script
    options: tuple[str, ...] = ()  # of Python
    arguments: tuple[str, ...] = ()  # of the script


MOVED = """
there = os.path.join(here, os.fsdecode({name!r}))
os.mkdir(there)
os.rename(os.path.join(here, "mine.py"), os.path.join(there, "mine.py"))
"""
LOADED = """
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("mine", os.path.join(there, "mine.py"))
mine = sys.modules["mine"] = module_from_spec(spec)
spec.loader.exec_module(mine)
"""
BESIDE = "\nsys.path.insert(0, here)\nimport mine"
LONG = "sys.path[:0] = [f'/nowhere/{i:0200}' for i in range(1000)]"
GONE = "os.mkdir('gone')\nos.chdir('gone')\nos.rmdir(os.path.join(here, 'gone'))"
OTHERS = "from pathlib import Path\nsys.path[:0] = [Path(here), here.encode(), 3, None]"
FOLDER = "__import__('os').getcwd()[-3:]"
CASES = {
    "a path of other things than texts": Case("1", "1", OTHERS + BESIDE),
    "a path that is not UTF-8": Case(
        "2", "2", MOVED.format(name=b"caf\xe9 \xff") + "sys.path.insert(0, there)\nimport mine"
    ),
    "a path of 200 KB": Case("3", "3", LONG + BESIDE),
    "a folder that was deleted": Case("4", "4", GONE + BESIDE),
    "a folder that is not UTF-8": Case(
        FOLDER, r"'dd\udcff'", "os.mkdir(b'odd\\xff')\nos.chdir(b'odd\\xff')" + BESIDE
    ),
    "a folder of its own": Case(FOLDER, "'lse'", "os.mkdir('else')\nos.chdir('else')" + BESIDE),
    "the trainer's arguments": Case("sys.argv[1:]", "['--size', '3']", arguments=("--size", "3")),
    "-O": Case("sys.flags.optimize", "1", options=("-O",)),
    "-W": Case("sys.warnoptions[-1:]", "['once::Warning']", options=("-Wonce::Warning",)),
    "-X": Case(
        "[sys._xoptions['mine'], sys.flags.utf8_mode]",
        "['yes', 1]",
        options=("-Xmine=yes", "-Xutf8"),
    ),
    "-I": Case("sys.flags.isolated", "1", f"sys.path.append({str(ROOT)!r})" + BESIDE, ("-I",)),
    "a module loaded by path": Case("6", "6", MOVED.format(name=b"apart") + LOADED),
}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("name", CASES)
def test_workers_see_what_the_trainer_sees(name: str, method: str, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / "mine.py").write_text(MODULE.format(says=case.says))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(tmp_path), before=case.before))
    done = subprocess.run(
        [sys.executable, *case.options, str(script), *case.arguments],
        env={**os.environ, "METHOD": method},
        cwd=tmp_path,
        capture_output=True,
        timeout=100,
        text=True,
        check=False,
    )
    assert done.stdout == case.expected + "\n", done.stderr


# --- variables of the workers' environment -------------------------------------------------------

EARLY = """
import importlib
import os
import gymnasium
seen = [os.environ.get(name) for name in ("DEVICE", "BOTH")]

def make():
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.seen = list(seen)
    return env
"""
SHARED = {"DEVICE": "7", "BOTH": "set"}


def device(worker: int) -> dict[str, str]:
    return {"DEVICE": str(worker)}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (SHARED, [["7", "set"]] * 2),
        (device, [["0", "ours"], ["1", "ours"]]),
        ({}, [[None, "ours"]] * 2),
        (None, [[None, "ours"]] * 2),
    ],
    ids=["for all", "for each", "none", "not asked"],
)
def test_variables_are_set_before_modules_are_imported(
    variables: Any, expected: Any, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "early_module.py").write_text(EARLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("BOTH", "ours")
    early = importlib.import_module("early_module")
    try:
        with VecCheckedSession(early.make, n=2, start_method=method, worker_env=variables) as vec:
            vec.reset(seed=0)
            assert list(vec.get_attr("seen")) == expected
            vec.reset(seed=0)
            for env in (0, 1):
                kill(vec, env)
                vec.step([0, 1])
            assert list(vec.get_attr("seen")) == expected
    finally:
        del sys.modules["early_module"]
    assert os.environ.get("DEVICE") is None


@pytest.mark.parametrize(
    ("variables", "workers", "error"),
    [
        ({"A": 1}, 1, TypeError),
        ({1: "A"}, 1, TypeError),
        ("A=1", 1, TypeError),
        (lambda worker: None, 1, TypeError),
        ({"A": "1"}, 0, ValueError),
    ],
)
def test_what_can_not_be_set(variables: Any, workers: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="worker_env: expected"):
        VecCheckedSession(n=2, workers=workers, worker_env=variables)


class OpenEnv(CountingEnv):
    """Tells what its process holds."""

    def variables(self) -> dict[str, str]:
        return dict(os.environ)

    def descriptors(self) -> list[str]:
        found = []
        for fd in range(3, 256):
            with contextlib.suppress(OSError):
                found.append(str(Path(f"/proc/self/fd/{fd}").readlink()).partition(":[")[0])
        return found


SECRETS = ("WANDB_API_KEY", "GITHUB_TOKEN", "TOKEN", "my_secret", "AWS_PROFILE", "DB_PASSWORD")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_secrets_stay_with_the_trainer(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, "KEYBOARD", "MONKEY"):
        monkeypatch.setenv(name, "value")
    arguments: dict[str, Any] = {"start_method": method, "pass_env": ["TOKEN", "NONE_SUCH"]}
    with VecCheckedSession(OpenEnv, n=1, **arguments) as vec:
        variables = vec.call("variables")[0]
    assert set(SECRETS).intersection(variables) == {"TOKEN"}
    assert {"KEYBOARD", "MONKEY", "PATH"} <= variables.keys()


def test_names_to_pass_are_not_a_text() -> None:
    with pytest.raises(TypeError, match="pass_env: expected a sequence"):
        VecCheckedSession("CartPole-v1", n=1, pass_env="TOKEN")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_holds_its_own_pipes_and_memory_and_nothing_else(method: Any) -> None:
    """Nor does the successor of a lost one, nor what the trainer has left inheritable."""
    read_fd, write_fd = os.pipe()
    os.set_inheritable(read_fd, True)
    os.set_inheritable(write_fd, True)
    try:
        with VecCheckedSession(OpenEnv, n=3, start_method=method) as vec:
            vec.reset(seed=0)
            for _ in range(2):
                for index, held in enumerate(vec.call("descriptors")):
                    memory = [name for name in held if f"/memfd:vecsess-{index}-" in name]
                    assert memory, held  # a map of it keeps a duplicate
                    # And the one from which all read the policy, which none of them can write.
                    shared = [name for name in held if "/memfd:vecsess-broadcast" in name]
                    others = [name for name in held if name not in (*memory, *shared)]
                    assert others == ["pipe", "pipe"]
                kill(vec, 1)
                vec.step([0, 0, 0])
    finally:
        os.close(read_fd)
        os.close(write_fd)


DAEMON = """
import os, signal, sys
result = open("result", "w")
assert result.fileno() > 2
for fd in sys.argv[1:]:
    os.close(int(fd))
import numpy as np
from vecsess import VecCheckedSession
for method in ("fork", "spawn"):
    with VecCheckedSession("CartPole-v1", n=2, start_method=method) as vec:
        vec.reset(seed=0)
        os.kill(vec.pids[0], signal.SIGKILL)
        for _ in range(3):
            os.write(1, b"printed")
            os.write(2, b"printed")
            assert vec.step_checked(np.zeros(2, np.int64)).valid.all()
result.write("done")
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_a_trainer_may_have_closed_its_standard_descriptors(tmp_path: Path, closed: str) -> None:
    run_script(DAEMON, tmp_path, *closed)
    assert (tmp_path / "result").read_text() == "done"
