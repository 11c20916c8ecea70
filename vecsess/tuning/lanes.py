"""One layout under measurement: its rollouts, and where their time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vecsess.collect.acting import acting_of
from vecsess.collect.paced import Pace
from vecsess.collect.policies import (
    AnyPolicy,
    Decision,
    Policy,
    RandomPolicy,
    as_policy,
    noise_kind_of,
)
from vecsess.collect.sources import Inference, collect_rollout
from vecsess.errors import PolicyError
from vecsess.session.vector import VecCheckedSession
from vecsess.tree import Tree
from vecsess.tuning.step_cost import StepCost
from vecsess.wire.values import Given, Space

ROLLOUT = 128  # locksteps, as rollouts usually are: what travels once a rollout is for so many


@dataclass(frozen=True, kw_only=True)
class LayoutFigures:
    """What came of one layout.

    Attributes:
        workers: 0 for the trainer's own process.
        pace: as for `collect_rollout`.
        steps_per_s: environment steps a second, the median of `rates`.
        rates: of each round.
        inference: where the policy acted, as for `collect_rollout`; at the workers its time
            is a part of what the manager waits for.
        cores_used: how many cores manager and workers kept busy.
        environments: share of the manager's time in which it waited for steps themselves.
        waiting: likewise, for the slowest, for messages and for a core.
        copying: likewise, its own work: commands, checks, copies, books.
        policy: likewise, in the policy.
    """

    workers: int
    pace: Pace
    steps_per_s: float
    rates: tuple[float, ...]
    cores_used: float
    environments: float
    waiting: float
    copying: float
    policy: float
    inference: Inference = "trainer"

    @property
    def name(self) -> str:
        """How it is written as arguments."""
        how = f"pace={self.pace!r}" if self.inference == "trainer" else "inference='workers'"
        return f"workers={self.workers}, {how}"


class TimedPolicy:
    """A policy, or a stand-in that sleeps as long as one would take; counts its time."""

    def __init__(self, policy: AnyPolicy | None, space: Space, call_s: float, row_s: float) -> None:
        self.given: AnyPolicy = RandomPolicy(space) if policy is None else policy
        self._policy: Policy = as_policy(self.given, space)
        self.noise_size = self._policy.noise_size
        self.noise_kind = noise_kind_of(self._policy)
        self._call_s, self._row_s = call_s, row_s
        self.spent_s = 0.0

    def act(self, observations: Tree, *, envs: NDArray[np.int64], **given: Given) -> Decision:
        """Decides as the policy does."""
        began_s = time.perf_counter()
        decision = self._policy.act(observations, envs=envs, **given)
        self._spend(began_s, len(envs))
        return decision

    def value(self, observations: Tree, *, envs: NDArray[np.int64]) -> Given:
        """Values as the policy does."""
        began_s = time.perf_counter()
        values = self._policy.value(observations, envs=envs)
        self._spend(began_s, len(envs))
        return values

    @property
    def stands_in(self) -> bool:
        """Whether it sleeps for one that can't be elsewhere, such as on a GPU."""
        return self._call_s + self._row_s > 0

    def _spend(self, began_s: float, rows: int) -> None:
        asleep_s = self._call_s + rows * self._row_s
        if asleep_s:
            time.sleep(asleep_s)
        self.spent_s += time.perf_counter() - began_s


def open_lanes(vec: VecCheckedSession, paces: Sequence[Pace], policy: TimedPolicy) -> list[Lane]:
    """Starts a session, and returns a lane for each pace."""
    vec.start(seed=0)
    return [Lane(vec, pace, policy) for pace in paces]


def acting_lanes(vec: VecCheckedSession, policy: TimedPolicy) -> list[Lane]:
    """Returns the lane of a started session whose workers act; none where they can't."""
    lane = Lane(vec, "lockstep", policy, "workers")
    if policy.stands_in or acting_of(vec) is None:
        return []
    try:
        lane.warm_up(0.0)
    except PolicyError:  # can't be sent, or only acts here
        vec.start(seed=0)
        return []
    return [lane]


def run_lanes(
    lanes: Sequence[Lane], slice_s: float, rounds: int, tell: Callable[[str], None]
) -> None:
    """Runs each lane once a round; another one begins each time."""
    for lane in lanes:
        lane.warm_up(slice_s)
    for turn in range(rounds):
        tell(f"round {turn + 1} of {rounds}")
        first = turn % len(lanes)
        for lane in [*lanes[first:], *lanes[:first]]:
            lane.run()


@dataclass(kw_only=True)
class _Sums:
    """What a lane has spent, in seconds."""

    steps: int = 0
    wall_s: float = 0.0
    waited_s: float = 0.0
    policy_s: float = 0.0
    cpu_s: float = 0.0
    rates: list[float] = field(default_factory=list)


class Lane:
    """One layout under measurement."""

    def __init__(
        self,
        vec: VecCheckedSession,
        pace: Pace,
        policy: TimedPolicy,
        inference: Inference = "trainer",
    ) -> None:
        apart = vec.engine.fleet.supervisor is not None
        self._workers = vec.engine.lockstep.workers if apart else []
        self._vec, self._pace, self._inference = vec, pace, inference
        self._policy, self._waits = policy, vec.engine.lockstep.flight.waits
        self._horizon = 1
        self._sums = _Sums()

    def warm_up(self, slice_s: float) -> None:
        """Finds out how many locksteps make a slice."""
        for _ in range(2):
            took_s = self._collect()
            self._horizon = max(1, min(4096, int(self._horizon * slice_s / took_s)))
        self._sums = _Sums()

    def run(self) -> None:
        """Collects one rollout."""
        sums, waits, policy = self._sums, self._waits, self._policy
        waited_ns, policy_s, cpu_s = waits.ns, policy.spent_s, self._cpu_s()
        took_s = self._collect()
        steps = self._horizon * self._vec.num_envs
        sums.steps += steps
        sums.wall_s += took_s
        sums.waited_s += (waits.ns - waited_ns) * 1e-9
        sums.policy_s += policy.spent_s - policy_s
        sums.cpu_s += self._cpu_s() - cpu_s
        sums.rates.append(steps / took_s)

    @property
    def rate(self) -> float:
        """Steps/s, the median of the rounds."""
        return statistics.median(self._sums.rates)

    def figures(self, step: StepCost, cores: int) -> LayoutFigures:
        """Returns what was measured."""
        sums, workers = self._sums, max(1, len(self._workers))
        at_once = min(workers, cores)
        rows = -(-self._vec.num_envs // workers)
        spread_s = sums.steps * step.mean_s * step.cpu_share / at_once
        in_turn_s = sums.steps / self._vec.num_envs * rows * step.mean_s
        envs_s = min(sums.waited_s, max(spread_s, in_turn_s))
        return LayoutFigures(
            workers=len(self._workers),
            pace=self._pace,
            inference=self._inference,
            steps_per_s=self.rate,
            rates=tuple(sums.rates),
            cores_used=sums.cpu_s / sums.wall_s,
            environments=envs_s / sums.wall_s,
            waiting=(sums.waited_s - envs_s) / sums.wall_s,
            copying=max(0.0, sums.wall_s - sums.waited_s - sums.policy_s) / sums.wall_s,
            policy=sums.policy_s / sums.wall_s,
        )

    def _collect(self) -> float:
        began_s = time.perf_counter()
        if self._inference == "trainer":
            collect_rollout(self._vec, self._policy, self._horizon, pace=self._pace)
        for done in range(0, self._horizon if self._inference == "workers" else 0, ROLLOUT):
            part = min(ROLLOUT, self._horizon - done)
            collect_rollout(self._vec, self._policy.given, part, inference="workers")
        return time.perf_counter() - began_s

    def _cpu_s(self) -> float:
        """Returns the CPU time so far of manager and workers."""
        spent_s = time.process_time()
        for worker in self._workers:
            # Linux: the CPU-time clock of any process, to the nanosecond.
            spent_s += time.clock_gettime((~worker.pid << 3) | 2)
        return spent_s
