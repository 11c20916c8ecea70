"""docs/gymnasium.md names tests that are there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.documents import CHECKOUT

PAGE = (CHECKOUT / "docs" / "gymnasium.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w./]+\.py)((?:::\w+)*)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "a session |" not in line]


@pytest.mark.parametrize(("path", "names"), NAMED, ids=map("".join, NAMED))
def test_a_test_that_is_named_exists(path: str, names: str) -> None:
    scope: ast.AST = ast.parse((CHECKOUT / "tests" / "gymnasium" / path).read_text())
    for name in names.split("::")[1:]:
        found = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", "") == name]
        assert found, f"{path} has no {name}"
        scope = found[0]


def test_every_row_names_one_or_says_why_not() -> None:
    without = [row for row in ROWS if ".py" not in row and "[2]" not in row]
    assert without == ["| environments | test |"]
