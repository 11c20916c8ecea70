"""Fixtures that all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.processes import all_gone, processes_below

# A shell has what it starts in the background ignore Ctrl-C, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fails a test that leaves a process behind."""
    before = processes_below()
    yield
    left = processes_below() - before
    assert all_gone(left, 3.0), f"left behind: {left}"
