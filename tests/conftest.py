"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import all_gone, processes_below


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fails a test that leaves a process behind."""
    before = processes_below()
    yield
    left = processes_below() - before
    assert all_gone(left, 3.0), f"left behind: {left}"
