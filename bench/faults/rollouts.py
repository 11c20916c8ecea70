"""Random SIGKILLs while workers fill rollouts by themselves, each batch compared bit for bit."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.bench.faults.aim import Aim
from vecsess.bench.faults.deciding import Looking
from vecsess.bench.faults.killer import Killer
from vecsess.bench.faults.tally import Tally
from vecsess.bench.faults.workloads import Workload
from vecsess.collect.acting import acting_of
from vecsess.collect.rollout import Rollout
from vecsess.collect.sources import collect_rollout
from vecsess.session.vector import VecCheckedSession

_BY_ROW = (
    *("actions", "log_probs", "rewards", "terminated", "truncated", "values"),
    *("next_values", "observations", "episode_start"),
)
_BY_BATCH = ("last_observations", "final_observations", "final_steps", "final_envs")


class Rollouts:
    """One workload under way, beside the same in which nobody is killed.

    Args:
        vec: whose workers are killed.
        calm: the same environments; collects step by step.
        hired: kills.
        workload: what is run.
        tally: where it is noted.
        seed: of environments, noise and moments.
    """

    def __init__(
        self,
        vec: VecCheckedSession,
        calm: VecCheckedSession,
        hired: Killer,
        workload: Workload,
        tally: Tally,
        seed: int,
    ) -> None:
        self._vec, self._calm, self._horizon, self._tally = vec, calm, workload.horizon, tally
        self._policy = Looking(vec.single_action_space)
        if acting_of(vec) is None:
            tally.stopped = "the workers can't act here"
        self._compare(seed=seed)
        began_s = time.monotonic()
        self._compare()
        length_s = time.monotonic() - began_s - tally.undisturbed_s[-1]
        self._aim = Aim(vec, hired, np.random.default_rng([seed, 1]), length_s)

    @property
    def under_fire(self) -> bool:
        """Whether a kill was ordered that does not show yet."""
        return self._aim.outstanding > 0

    def segment(self, kills: int) -> None:
        """Collects one rollout under fire, and compares it."""
        tally, aim = self._tally, self._aim
        aim.fire(kills - tally.kills - aim.outstanding)
        self._compare(aim)
        tally.kills = aim.killed
        tally.watch(sum(incident.worker >= 0 for incident in self._vec.incidents))

    def _compare(self, aim: Aim | None = None, seed: int | None = None) -> None:
        tally, policy, horizon = self._tally, self._policy, self._horizon
        ours = collect_rollout(self._vec, policy, horizon, seed=seed, inference="workers")
        if aim is not None:
            tally.latencies_s += aim.hits(time.monotonic())
        began_s = time.monotonic()
        expected = collect_rollout(self._calm, policy, horizon, seed=seed, pace="free")
        tally.undisturbed_s.append(time.monotonic() - began_s)
        tally.locksteps += 1
        tally.marked += int(np.count_nonzero(~ours.valid))
        wrong = wrong_rows(ours, expected)
        tally.wrong["other"] += int(np.count_nonzero(wrong & ours.valid))
        tally.different += bool(wrong.any()) or not same_batch(ours, expected)
        if tally.different > 50:
            tally.stopped = "too much was wrong to go on"


def wrong_rows(one: Rollout, other: Rollout) -> NDArray[np.bool_]:
    """Returns `[T, N]`, where two rollouts differ in a bit."""
    wrong = np.zeros(one.valid.shape, np.bool_)
    for name in _BY_ROW:
        pairs = zip(tree.leaves(getattr(one, name)), tree.leaves(getattr(other, name)), strict=True)
        for ours, theirs in pairs:
            wrong |= (_bytes(ours, 2) != _bytes(theirs, 2)).any(axis=-1)
    return wrong


def same_batch(one: Rollout, other: Rollout) -> bool:
    """Whether what belongs to no row is the same."""
    arrays = (
        (tree.leaves(getattr(one, name)), tree.leaves(getattr(other, name))) for name in _BY_BATCH
    )
    pairs = [pair for ours, theirs in arrays for pair in zip(ours, theirs, strict=True)]
    same = all(np.array_equal(_bytes(ours, 1), _bytes(theirs, 1)) for ours, theirs in pairs)
    return same and one.episodes == other.episodes and one.counter == other.counter


def _bytes(array: Any, axes: int) -> NDArray[np.uint8]:
    """Returns an array's bytes, `[*first axes, bytes]`."""
    lead = array.shape[:axes]
    width = array.dtype.itemsize * int(np.prod(array.shape[axes:], dtype=np.int64))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(*lead, width)
