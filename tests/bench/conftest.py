"""Fixtures of the bench's tests."""

from __future__ import annotations

from multiprocessing import resource_tracker

import pytest


@pytest.fixture(scope="session", autouse=True)
def _resource_tracker() -> None:
    """Starts the process that Python's `spawn` keeps to the end, so that no test is blamed."""
    resource_tracker.ensure_running()
