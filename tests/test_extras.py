"""What is optional: vecsess does without it, and says what to install where it can't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from tests.documents import CHECKOUT
from vecsess import VecCheckedSession
from vecsess.errors import EnvError, MissingExtraError, VecsessError, extra, hint_at_envs

# Runs the rest of its arguments as a program for which these modules are not installed.
WITHOUT = """
import runpy, sys
missing, *sys.argv = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing.split(",")))
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without(modules: str, program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, modules, str(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_missing_module_is_an_error_that_names_the_extra() -> None:
    with (
        pytest.raises(
            MissingExtraError, match=r"plots needs no_such.*pip install 'vecsess\[plot\]'"
        ),
        extra("plot", needed_by="plots"),
    ):
        raise ModuleNotFoundError("No module named 'no_such'", name="no_such")


def test_a_broken_module_is_told_apart_from_a_missing_one() -> None:
    with (
        pytest.raises(MissingExtraError, match=r"could not import .*old.*--upgrade"),
        extra("sb3", needed_by="this"),
    ):
        raise ImportError("cannot import name 'new' from 'old'")


def test_the_error_is_an_import_error_and_one_of_ours() -> None:
    assert issubclass(MissingExtraError, ImportError)
    assert issubclass(MissingExtraError, VecsessError)


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), extra("train", needed_by="this"):
        raise ZeroDivisionError


CASES = {
    "from vecsess.integrations.sb3 import SB3VecEnv": ("stable_baselines3", "sb3"),
    "from vecsess.integrations.ray import RaySession": ("ray", "ray"),
    "from vecsess.collect.pytorch import TorchRollout": ("torch", "train"),
    "from gymnasium.spaces import Discrete\n"
    "from vecsess import Rollout\n"
    "Rollout.empty(1, 1, Discrete(2), Discrete(2)).to_torch()": ("torch", "train"),
}


@pytest.mark.parametrize("code", CASES)
def test_an_integration_says_what_it_needs(code: str, tmp_path: Path) -> None:
    module, name = CASES[code]
    program = tmp_path / "program.py"
    program.write_text(code)
    done = run_without(module, program)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'vecsess[{name}]'"), done.stderr


@pytest.mark.parametrize(
    ("example", "extras"), [("ppo.py", "train"), ("compare_ppo.py", "train,sb3")]
)
def test_the_examples_that_train_say_what_they_need(example: str, extras: str) -> None:
    done = run_without("torch,stable_baselines3", CHECKOUT / "examples" / example)
    assert done.returncode == 1
    assert f"pip install 'vecsess[{extras}]'" in done.stderr.splitlines()[-1], done.stderr


def test_vecsess_itself_imports_nothing_optional(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("from vecsess import *\nprint(Rollout, VecCheckedSession)")
    done = run_without("torch,stable_baselines3,tensorboard,matplotlib,rich", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_is_not_installed_says_what_to_install(
    workers: int,
) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        raise ModuleNotFoundError("No module named 'ale_py'")

    with pytest.raises(EnvError, match=r"pip install 'vecsess\[envs\]'") as caught:
        VecCheckedSession(make, n=1, workers=workers)
    assert isinstance(caught.value, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("error_type", "message", "hinted"),
    [
        ("DependencyNotInstalled(Exception)", "Box2D is not installed", True),
        ("NameNotFound", "Environment `MiniGrid-Empty-5x5` doesn't exist.", True),
        ("NameNotFound", "Environment `Nope` doesn't exist.", False),
        ("ModuleNotFoundError", "No module named 'my_own'", False),
        ("ValueError", "a bad mujoco model", False),
    ],
)
def test_only_what_the_extra_brings_is_hinted_at(
    error_type: str, message: str, hinted: bool
) -> None:
    assert bool(hint_at_envs(error_type, message)) == hinted
