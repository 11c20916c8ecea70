"""docs/reference.md: every name of the reference system has one here, and a test."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import vecsess
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
    """Returns the object of a dotted name, which must lie in the module that the name says.

    What `vecsess` itself exports is the one exception: its place is where users import it from.
    """
    parts = name.split(".")
    count = next(n for n in range(len(parts), 0, -1) if is_module(".".join(parts[:n])))
    found: Any = importlib.import_module(".".join(parts[:count]))
    public = count == 1 and parts[1] in vecsess.__all__
    for part in parts[count:]:
        owner, found = found, getattr(found, part, None)
        if found is None:  # an attribute that the constructor sets, or a field
            assert part in declared(owner), f"{name}: no {part} in {owner}"
        elif owner is not found and getattr(owner, "__file__", None) and not public:
            assert found.__module__ == owner.__name__, f"{name} lies in {found.__module__}"
    return found


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent is no package
        return False


def declared(owner: type[Any]) -> set[str]:
    """Returns the attributes that a class's constructor sets."""
    return set(re.findall(r"self\.(\w+)", inspect.getsource(owner.__init__)))


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


def test_every_row_says_whether_it_is_the_same() -> None:
    assert len(ROWS) >= 70
    for row in ROWS:
        assert len(row) == 4, row
        assert all(row), row
        assert re.match(r"same\b|different\b", row[2]), row
        if row[2].startswith("different"):
            assert len(row[2]) > len("different: "), f"how and why? {row}"


@pytest.mark.parametrize("name", DECLARED)
def test_every_name_of_the_five_pages_has_a_row(name: str) -> None:
    pattern = re.compile(rf"(?<![\w.]){re.escape(name)}\b|\.{re.escape(name)}\b")
    assert any(pattern.search(row[0]) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_name_here_and_its_test_are_at_that_place(row: tuple[str, ...]) -> None:
    for name in re.findall(r"`(vecsess[\w.]*)`", row[1]):
        resolve(name)
    for parameter, _, default, name in re.findall(
        r"`(\w+)(=([^`]*))?` of `(vecsess[\w.]*)`", row[1]
    ):
        parameters = inspect.signature(resolve(name)).parameters
        assert parameter in parameters, f"{name} has no {parameter}"
        if default:
            assert repr(parameters[parameter].default) == default, f"{parameter} of {name}"
    file, _, test = row[3].strip("`").partition("::")
    assert test in ids_in(CHECKOUT / file), row[3]


@pytest.mark.parametrize(
    "name",
    [
        "vecsess.collect.policies.splitmix_noise",  # lies in another module
        "vecsess.fleet.supervisor.Worker",
        "vecsess.Session.nothing",
        "vecsess.nothing",
        "vecsess.session.checked.nothing",
    ],
)
def test_a_name_that_is_not_there_is_noticed(name: str) -> None:
    with pytest.raises((AssertionError, AttributeError, TypeError, OSError)):
        resolve(name)
