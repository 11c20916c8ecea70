"""A sample of all combinations of faults, spans, reactions, limits, paces, groupings and modes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vecsess.bench.faults.product import (
    AXES,
    TABLES,
    Cell,
    cells,
    expected,
    outcome,
    read_tables,
    sample,
)

pytestmark = pytest.mark.usefixtures("no_process_left")
SAMPLE = sample(60, seed=1)
SPECIFIED = read_tables(TABLES.read_text())


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("cell", SAMPLE, ids=str)
def test_each_combination_comes_out_as_specified(cell: Cell) -> None:
    before = _descriptors()
    assert outcome(cell) == expected(cell, SPECIFIED)
    assert _descriptors() == before


@pytest.mark.parametrize("axis", AXES)
def test_the_sample_holds_each_value(axis: str) -> None:
    assert {getattr(cell, axis) for cell in SAMPLE} == set(AXES[axis])


def test_every_combination_has_an_outcome() -> None:
    assert len(cells()) > 1000
    assert all(expected(cell, SPECIFIED) for cell in cells())
