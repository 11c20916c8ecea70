"""`import vecsess`: quick, light, and with a small surface in which every name explains itself."""

from __future__ import annotations

import inspect
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vecsess
from tests.programs import run

ROUNDS = 9
HEAVY = ("torch", "matplotlib", "rich", "jax", "tensorflow", "stable_baselines3")


def import_s(module: str, cwd: Path) -> float:
    """Returns how long a new Python takes to import a module and end."""
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=cwd, check=True)
    return time.perf_counter() - began_s


def test_it_takes_at_most_1_3_times_as_long_as_gymnasium(tmp_path: Path) -> None:
    pairs = [
        (import_s("vecsess", tmp_path), import_s("gymnasium", tmp_path)) for _ in range(ROUNDS)
    ]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert ours <= 1.3 * theirs


@pytest.mark.parametrize("also", ["", "vecsess.VecCheckedSession; vecsess.collect_rollout"])
def test_it_imports_nothing_heavy(also: str, tmp_path: Path) -> None:
    code = f"import sys, vecsess; {also}\nprint(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run("-c", code, cwd=tmp_path).stdout.split()}
    assert "vecsess" in loaded
    assert not loaded & set(HEAVY)


def test_completion_shows_at_most_25_names_and_all_are_there() -> None:
    names = dir(vecsess)
    assert len(names) <= 25
    assert set(names) == set(vecsess.__all__)
    assert all(hasattr(vecsess, name) for name in names)


@pytest.mark.parametrize("name", sorted(set(vecsess.__all__) - {"__version__"}))
def test_every_public_name_explains_itself_with_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(vecsess, name)) or ""
    assert "Example:" in text
    assert ">>> " in text


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        vecsess.nope  # noqa: B018
