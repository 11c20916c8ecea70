"""What a kill every ten seconds costs in throughput."""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from vecsess.recovery.policy import RestartPolicy
from vecsess.session.vector import VecCheckedSession

N = 64


def throughput_kept(rounds: int, slice_s: float, seed: int) -> float:
    """Returns the throughput with one kill in each slice, divided by that without any.

    Args:
        rounds: slices of each kind, in turn; each kind's median counts.
        slice_s: how long a slice is.
        seed: of the actions and the moments.
    """
    random = np.random.default_rng([seed, 3])
    rates: dict[bool, list[float]] = {False: [], True: []}
    policy = RestartPolicy(max_restarts=None)
    with VecCheckedSession("CartPole-v1", N, workers="auto", restart_policy=policy) as vec:
        vec.reset(seed=seed)
        space = batch_space(vec.single_action_space, N)
        space.seed(seed)
        table = [space.sample() for _ in range(128)]
        _rate(vec, table, min(1.0, slice_s), None, 0)  # warm
        for _ in range(rounds):
            for killed in (False, True):
                at_s = float(random.uniform(0.2, 0.8)) * slice_s if killed else None
                victim = int(random.integers(N))
                rates[killed].append(_rate(vec, table, slice_s, at_s, victim))
        if len(vec.incidents) != rounds:
            raise RuntimeError(f"expected {rounds} incidents, got {len(vec.incidents)}")
    return statistics.median(rates[True]) / statistics.median(rates[False])


def _rate(
    vec: VecCheckedSession,
    table: list[NDArray[Any]],
    slice_s: float,
    kill_at_s: float | None,
    victim: int,
) -> float:
    """Steps for `slice_s`; returns locksteps per second."""
    began, locksteps = time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - began) < slice_s:
        if kill_at_s is not None and elapsed_s > kill_at_s:
            os.kill(vec.pids[victim], signal.SIGKILL)
            kill_at_s = None
        vec.step_checked(table[locksteps % len(table)])
        locksteps += 1
    return locksteps / elapsed_s
