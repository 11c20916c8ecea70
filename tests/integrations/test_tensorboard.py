"""Health as scalars: every figure that a session has of its workers, under one prefix."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest

from tests.processes import all_gone
from vecsess import VecCheckedSession
from vecsess.errors import ClosedError
from vecsess.integrations.tensorboard import log_health


class Writer:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int]] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars[tag] = (scalar_value, global_step)


def test_a_loss_shows_in_the_scalars() -> None:
    first, second = Writer(), Writer()
    with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        vec.reset(seed=0)
        log_health(first, vec, 10)
        os.kill(vec.pids[0], signal.SIGKILL)
        assert all_gone({vec.pids[0]}, 10.0)
        vec.step(np.zeros(4, np.int64))
        log_health(second, vec, 20, prefix="run")
    assert first.scalars["vecsess/restarts"] == (0, 10)
    assert first.scalars["vecsess/rss_bytes"][0] > 1e6
    assert second.scalars["run/restarts"] == second.scalars["run/incidents"] == (1, 20)
    assert all(math.isfinite(value) for value, _ in second.scalars.values())


def test_a_closed_session_has_no_health() -> None:
    vec = VecCheckedSession("CartPole-v1", n=1, workers=0)
    vec.close()
    with pytest.raises(ClosedError):
        log_health(Writer(), vec, 0)
