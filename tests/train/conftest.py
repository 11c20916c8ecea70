"""Fixtures of the tests that train."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _as_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are programs: each finds those beside it, as when it is run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
