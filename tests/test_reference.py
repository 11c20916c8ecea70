"""docs/reference.md: every name of the reference system has one here, and a test."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.documents import CHECKOUT

LINES = (CHECKOUT / "docs" / "reference.md").read_text().splitlines()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in LINES
    if line.startswith("| ") and not line.startswith("| there ")
]

# What the five pages declare; a name that is missing from the tables is a name not done.
DECLARED = [
    "Session",
    "Session.client",
    "Session.observation",
    "Session.start",
    "Session.withSession",
    "Session.reset",
    "Session.stepChecked",
    "resetOnDone",
    "Session.close",
    "Client",
    "Child",
    "Client.child",
    "Client.contract",
    "Client.spawn",
    "makeKwargs",
    "serverScript",
    "Client.reset",
    "Client.stepRaw",
    "Client.close",
    "Client.withClient",
    "requestObj",
    "requireField",
    "stdio",
    "CheckedSession",
    "CheckedSession.Sess",
    "CheckedSession.start",
    "CheckedSession.observe",
    "CheckedSession.stepChecked",
    "CheckedSession.gymnasium",
    "CheckedSession.ofEnv",
    "Spec.RL.Env",
    "Spec.RL.ObservedTransition",
    "Boundary.Contract",
    "Boundary.Transition",
    "collectRolloutSessionWith",
    "collectRolloutCheckedSessionWith",
    "collectRolloutWith",
    "castObs",
    "castReward",
    "predictLogits",
    "predictValue",
    "rngSeed",
    "rngCounter",
    "resetSeed",
    "horizon",
    "Rollout",
    "greedyActionFromLogits",
    "episodeTotalReward",
    "episodeSessPath",
    "averageEpisodeTotalReward",
    "policyLogits",
    "maxSteps",
    "mkSession",
    "baseSeed",
    "episodes",
]


def resolve(name: str) -> Any:
    """Returns the object of a dotted name; the longest part of it that is a module is imported."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module in {name}")


@cache
def ids_in(path: Path) -> set[str]:
    """Returns the ids, without the file, of what pytest would find there."""
    ids = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            ids.add(node.name)
        if isinstance(node, ast.ClassDef):
            ids |= {f"{node.name}::{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return {name for name in ids if name.startswith(("test", "Test"))}


def test_every_row_has_three_cells() -> None:
    assert len(ROWS) >= 60
    assert all(len(row) == 3 and all(row) for row in ROWS), ROWS


@pytest.mark.parametrize("name", DECLARED)
def test_every_name_of_the_five_pages_has_a_row(name: str) -> None:
    pattern = re.compile(rf"(?<![\w.]){re.escape(name)}\b|\.{re.escape(name)}\b")
    assert any(pattern.search(row[0]) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_name_here_exists_and_so_does_its_test(row: tuple[str, str, str]) -> None:
    names = re.findall(r"`(vecsess[\w.]*)`", row[1])
    for name in names:
        if name != "vecsess.Session.client":  # set by its constructor
            resolve(name)
    file, _, test = row[2].strip("`").partition("::")
    assert test in ids_in(CHECKOUT / file), row[2]
