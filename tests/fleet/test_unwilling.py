"""The trainer is killed with SIGKILL, and a worker does not want to go."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, wait_until
from tests.unwilling import DEEDS

_WITHIN_MS = 10_000  # a second is promised


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("deed", DEEDS)
def test_nothing_outlives_a_killed_trainer(deed: str, method: str, tmp_path: Path) -> None:
    pipe, ready = tmp_path / "pipe", tmp_path / "pipe.ready"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "tests.unwilling", deed, method, str(pipe)]
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as held:
        hung_up = select.poll()
        hung_up.register(held, select.POLLHUP)
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as trainer:
            try:
                assert wait_until(lambda: ready.exists() or trainer.poll() is not None, 60)
                assert not hung_up.poll(0), "what the deed has started is there"
            finally:
                trainer.kill()
        assert hung_up.poll(_WITHIN_MS)
