"""Random SIGKILLs of workers at random moments, every batch compared with the oracle's."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from vecsess.bench.faults.killer import Killer, killer
from vecsess.bench.faults.ledger import Verdict, judge
from vecsess.bench.faults.oracle import Batch, Oracle
from vecsess.bench.faults.workloads import Workload
from vecsess.errors import VecsessError
from vecsess.fleet.worker import Timeouts, Worker
from vecsess.recovery.policy import RestartPolicy
from vecsess.session.vector import VecCheckedSession

Array = NDArray[Any]

SEGMENT = 32  # locksteps between two comparisons
WARM_RESTARTS = 3  # before the manager's descriptors are counted for the first time


@dataclass(kw_only=True)
class Tally:
    """What the kills of one workload did.

    Attributes:
        kills: how many there were.
        locksteps: how many were completed and compared.
        wrong: rows by what is wrong with them; none of these was marked invalid.
        marked: rows that were marked invalid, as they must be where no replay reproduces.
        different: batches that are not those of the undisturbed run, bit for bit.
        latencies_s: from each kill to the end of the lockstep that recovered from it.
        growth: of the manager's descriptors, threads and zombies, over `restarts` restarts.
        stopped: why the run ended early; "" where it did not.
    """

    label: str
    kills: int = 0
    locksteps: int = 0
    restarts: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    marked: int = 0
    different: int = 0
    latencies_s: list[float] = field(default_factory=list)
    growth: dict[str, int] = field(default_factory=dict)
    stopped: str = ""

    def as_data(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {**vars(self), "wrong": dict(self.wrong)}

    @property
    def sound(self) -> bool:
        """Whether nothing at all went wrong."""
        return not (self.wrong or self.marked or self.different or self.stopped) and not any(
            self.growth.values()
        )


def run_kills(workload: Workload, kills: int, seed: int, **arguments: Any) -> Tally:
    """Runs a workload until `kills` of its workers were killed.

    Args:
        workload: what to run.
        kills: how many.
        seed: of the environments, the actions and the moments.
        arguments: for the session, over its defaults.
    """
    if workload.mode != "same_step":
        arguments = {"autoreset_mode": workload.mode, **arguments}
    arguments = {
        "restart_policy": RestartPolicy(max_restarts=None),
        "timeouts": Timeouts(step_s=20.0, reset_s=20.0),
        **arguments,
    }
    tally = Tally(label=workload.label)
    oracle = Oracle(workload.makers, workload.mode)
    n = len(workload.makers)
    with (
        killer() as hired,
        contextlib.closing(oracle),
        VecCheckedSession(workload.makers, n, workers=workload.workers, **arguments) as vec,
    ):
        run = _Run(vec, oracle, hired, workload, tally, seed)
        try:
            run.reset()
            while (tally.kills < kills or run.under_fire) and not tally.stopped:
                run.segment(kills)
        except VecsessError as error:
            tally.stopped = f"{type(error).__name__}: {error}".splitlines()[0]
    return tally


class _Run:
    """One workload under way."""

    def __init__(
        self,
        vec: VecCheckedSession,
        oracle: Oracle,
        hired: Killer,
        workload: Workload,
        tally: Tally,
        seed: int,
    ) -> None:
        self._vec, self._oracle, self._workload, self._tally = vec, oracle, workload, tally
        self._aim = Aim(vec, hired, np.random.default_rng([seed, 1]))
        self._actions = batch_space(vec.single_action_space, vec.num_envs)
        self._actions.seed(seed)
        self._seed = seed
        self._since_reset = 0
        self._before: dict[str, int] | None = None

    def reset(self) -> None:
        """Resets both sides with the next seed."""
        self._seed += 1000
        self._since_reset = 0
        observations, _ = self._vec.reset(seed=self._seed)
        self._ended = np.zeros(self._vec.num_envs, np.bool_)
        if not np.array_equal(observations, self._oracle.reset(self._seed)):
            self._tally.stopped = "a reset gave other observations than the undisturbed run's"

    @property
    def under_fire(self) -> bool:
        """Whether a kill was ordered that does not show yet."""
        return self._aim.outstanding > 0

    def segment(self, kills: int) -> None:
        """Runs some locksteps under fire, then compares them."""
        record = []
        for _ in range(SEGMENT):
            self._aim.fire(kills - self._tally.kills - self._aim.outstanding)
            mask = self._ended if self._workload.mode == "disabled" else None
            again = None
            if mask is not None and mask.any():
                again = self._vec.reset(options={"reset_mask": mask})[0][mask]
            else:
                mask = None
            actions = self._actions.sample()
            batch, invalid = self._step(actions)
            record.append((actions, batch, invalid, mask, again))
            self._tally.latencies_s += self._aim.hits(time.monotonic())
        self._tally.kills = self._aim.killed
        self._tally.restarts = sum(incident.worker >= 0 for incident in self._vec.incidents)
        for entry in record:
            self._compare(*entry)
        self._watch_growth()
        self._since_reset += SEGMENT
        if self._workload.reset_every and self._since_reset >= self._workload.reset_every:
            self.reset()

    def _step(self, actions: Array) -> tuple[Batch, Array]:
        n = self._vec.num_envs
        observations, rewards, terminated, truncated, infos = self._vec.step(actions)
        masks = infos.get("_final_obs", np.zeros(n, np.bool_))
        finals = {int(env): infos["final_obs"][env] for env in np.flatnonzero(masks)}
        self._ended = terminated | truncated
        batch = Batch(
            observations=observations,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            finals=finals,
        )
        return batch, infos.get("invalid", np.zeros(n, np.bool_))

    def _compare(
        self, actions: Array, batch: Batch, invalid: Array, mask: Array | None, again: Array | None
    ) -> None:
        """Counts what is not as in the undisturbed run."""
        tally = self._tally
        if mask is not None and not np.array_equal(
            np.asarray(again), self._oracle.reset_some(mask)
        ):
            tally.wrong["reset"] += 1
        expected = self._oracle.step(actions)
        tally.locksteps += 1
        tally.marked += int(np.count_nonzero(invalid))
        different = batch.different(expected)
        tally.different += bool(different)
        for env in different:
            if not invalid[env]:
                tally.wrong[self._judge(batch, expected, env).value] += 1
        if tally.different > 50:
            tally.stopped = "too much was wrong to go on"

    def _judge(self, batch: Batch, expected: Batch, env: int) -> Verdict:
        if "ledger" not in self._workload.name:
            return Verdict.OTHER
        return judge(batch.observations[env], expected.observations[env])

    def _watch_growth(self) -> None:
        if self._tally.restarts < WARM_RESTARTS:
            return
        now = resources()
        self._before = self._before or now
        self._tally.growth = {name: now[name] - self._before[name] for name in now}


class Aim:
    """Chooses whom to kill and when, one order at a time or two at once.

    Args:
        vec: whose workers; each lives through a whole lockstep between two deaths.
        hired: who does it.
        random: chooses.
    """

    def __init__(self, vec: VecCheckedSession, hired: Killer, random: np.random.Generator) -> None:
        self._workers: list[Worker] = vec.engine.lockstep.workers  # who else knows pids
        self._hired, self._random = hired, random
        self._targets: dict[int, Worker] = {}  # by pid: ordered, not yet recovered from
        self._killed_s: dict[int, float] = {}
        self._lockstep_s, self._last_s, self._pause = 1e-3, 0.0, 2
        self.killed = 0

    @property
    def outstanding(self) -> int:
        """How many have been ordered and not recovered from."""
        return len(self._targets)

    def fire(self, left: int) -> None:
        """Before a lockstep: orders a kill somewhere in it, unless the last one still shows."""
        self._last_s = time.monotonic()
        self._pause -= 1
        if self._targets or self._pause > 0 or left <= 0:
            return
        count = min(left, len(self._workers), 1 + int(self._random.random() < 0.1))
        delays = np.sort(self._random.uniform(0, 1.5 * self._lockstep_s, count))
        for index, delay_s in zip(
            self._random.choice(len(self._workers), count, replace=False), delays, strict=True
        ):
            worker = self._workers[index]
            self._targets[worker.pid] = worker
            self._hired.order(worker.pid, float(delay_s))

    def hits(self, now_s: float) -> list[float]:
        """After a lockstep: returns the latency of each kill that it has recovered from."""
        struck = [pid for pid, worker in self._targets.items() if worker.pid != pid]
        if not self._targets:
            self._lockstep_s += 0.1 * (min(now_s - self._last_s, 0.1) - self._lockstep_s)
        latencies = []
        for pid in struck:
            while pid not in self._killed_s:
                killed, at_s = self._hired.report()
                self._killed_s[killed] = at_s
            del self._targets[pid]
            latencies.append(now_s - self._killed_s.pop(pid))
            self.killed += 1
        if struck and not self._targets:
            self._pause = 2 + int(self._random.integers(3))
        return latencies


def resources() -> dict[str, int]:
    """Returns how many descriptors, threads and zombies this process has."""
    zombies = 0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            zombies += child.status() == psutil.STATUS_ZOMBIE
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # counts, and no more
        "threads": max(threading.active_count(), len(list(Path("/proc/self/task").iterdir()))),
        "zombies": zombies,
    }
