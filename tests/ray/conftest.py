"""A Ray cluster of three raylets on this machine, each at a loopback address of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import all_gone, processes_below
from vecsess.bench.nodes import Nodes, ray_surroundings

# They take what they share from test_batches.py, which is skipped without ray, and says so.
NEED_RAY = [
    "test_campaign.py",
    "test_drivers.py",
    "test_elastic.py",
    "test_errors.py",
    "test_losses.py",
]
collect_ignore = [] if importlib.util.find_spec("ray") else NEED_RAY


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """The cluster, joined; leaves no process, no folder and nothing in shared memory."""
    pytest.importorskip("ray")
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("one cluster at a time: make test-ray")
    before, shared = processes_below(), _in_shared_memory()
    home = (Path.home() / ".ray").exists()
    folder = Path(tempfile.mkdtemp(prefix="vr-"))  # short: the paths of its sockets are not
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_surroundings(folder).items():
            patch.setenv(name, value)
        cluster = Nodes()
        try:
            cluster.join()
            yield cluster
        finally:
            cluster.end()
            shutil.rmtree(folder, ignore_errors=True)
    left: Any = processes_below() - before
    assert all_gone(left, 20.0), f"left behind: {left}"
    assert _in_shared_memory() <= shared
    assert (Path.home() / ".ray").exists() == home


def _in_shared_memory() -> set[str]:
    return {each.name for each in Path("/dev/shm").iterdir() if "plasma" in each.name}
