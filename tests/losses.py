"""Sessions whose workers are lost, as the tests of recovery use them."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

import numpy as np

from tests.processes import all_gone
from vecsess import VecCheckedSession
from vecsess.bench.faults.faulty import CUE, BreakingEnv
from vecsess.recovery.policy import RestartPolicy

N, GUILTY = 6, 3


def open_session(env: Any = "CartPole-v1", n: int = N, **arguments: Any) -> VecCheckedSession:
    """Returns a session that may restart its workers as often as it likes."""
    arguments.setdefault("restart_policy", RestartPolicy(max_restarts=None))
    return VecCheckedSession(env, n, **arguments)


def kill(vec: VecCheckedSession, env: int, *, wait: bool = False) -> int:
    """Kills the worker of an environment; returns its pid."""
    pid = vec.pids[env]
    os.kill(pid, signal.SIGKILL)
    if wait:
        assert all_gone({pid}, 5.0)
    return pid


def breaking(fault: str, place: str = "step") -> list[Any]:
    """Returns makers of which one makes an environment that breaks on its cue."""
    makers: list[Any] = [BreakingEnv] * N
    makers[GUILTY] = partial(BreakingEnv, fault, place)
    return makers


def cue() -> Any:
    """Returns the actions at which it breaks."""
    return np.full(N, CUE)


def outcomes(vec: VecCheckedSession) -> list[str]:
    """Returns what was done about each loss."""
    return [text for incident in vec.incidents for text in incident.outcomes.values()]
