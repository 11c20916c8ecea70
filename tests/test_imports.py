"""`import vecsess`: quick, light, and with a small surface in which every name explains itself."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import vecsess
from tests.documents import CHECKOUT
from tests.programs import run
from vecsess.errors import MissingExtraError

HEAVY = ("torch", "matplotlib", "rich", "jax", "ray", "tensorflow", "stable_baselines3")


def test_it_costs_no_more_than_a_handful_of_modules_beside_gymnasium(tmp_path: Path) -> None:
    code = "import gymnasium, sys; before = set(sys.modules); import vecsess\n"
    code += "print(*(set(sys.modules) - before))"
    own = run("-c", code, cwd=tmp_path).stdout.split()
    assert all(name.partition(".")[0] == "vecsess" for name in own), own
    assert len(own) <= 6


@pytest.mark.parametrize("also", ["", "vecsess.VecCheckedSession; vecsess.collect_rollout"])
def test_it_imports_nothing_heavy(also: str, tmp_path: Path) -> None:
    code = f"import sys, vecsess; {also}\nprint(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run("-c", code, cwd=tmp_path).stdout.split()}
    assert "vecsess" in loaded
    assert not loaded & set(HEAVY)


def test_completion_shows_at_most_26_names_and_all_are_there() -> None:
    names = dir(vecsess)
    assert len(names) <= 26  # 25, and `check_env`, whose users look for SB3's at the top
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


# Modules below the top whose names are public too: docs/design.md lists them, and they will stay.
LISTED = set(
    re.findall(r"^- `(vecsess[\w.]*)`", (CHECKOUT / "docs" / "design.md").read_text(), re.MULTILINE)
)
READ = [
    *(CHECKOUT / "docs").glob("*.md"),
    *(CHECKOUT / "examples").glob("*.py"),
    *(CHECKOUT / "examples").glob("*.ipynb"),
    CHECKOUT / "README.md",
]


@pytest.mark.parametrize("path", READ, ids=lambda path: path.name)
def test_what_docs_and_examples_import_has_a_public_path(path: Path) -> None:
    used = set(re.findall(r"(?:from|import) (vecsess\.[\w.]+)(?= import|$| as)", path.read_text()))
    assert used <= LISTED, f"{used - LISTED}: list it in docs/design.md, or use a public name"


@pytest.mark.parametrize("module", sorted(LISTED))
def test_a_public_path_is_there(module: str) -> None:
    assert importlib.util.find_spec(module) is not None
    try:
        importlib.import_module(module)
    except MissingExtraError as error:
        pytest.skip(f"needs an extra: {error}")
