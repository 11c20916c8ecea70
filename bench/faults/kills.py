"""Random SIGKILLs of workers at random moments, every batch compared with the oracle's."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from vecsess.bench.faults.aim import Aim
from vecsess.bench.faults.killer import Killer, killer
from vecsess.bench.faults.ledger import Verdict, judge
from vecsess.bench.faults.oracle import Batch, Oracle
from vecsess.bench.faults.rollouts import Rollouts
from vecsess.bench.faults.tally import Tally
from vecsess.bench.faults.workloads import Workload
from vecsess.errors import VecsessError
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.policy import RestartPolicy
from vecsess.session.vector import VecCheckedSession

Array = NDArray[Any]

SEGMENT = 32  # locksteps between two comparisons


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
        "workers": workload.workers,
        **arguments,
    }
    tally = Tally(label=workload.label)
    with killer() as hired, contextlib.ExitStack() as opened:

        def session() -> VecCheckedSession:
            n = len(workload.makers)
            return opened.enter_context(VecCheckedSession(workload.makers, n, **arguments))

        run: _Run | Rollouts
        try:
            if workload.horizon:
                run = Rollouts(session(), session(), hired, workload, tally, seed)
            else:
                oracle = Oracle(workload.makers, workload.mode)
                opened.enter_context(contextlib.closing(oracle))
                run = _Run(session(), oracle, hired, workload, tally, seed)
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
        self.reset()

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
        for entry in record:
            self._compare(*entry)
        self._tally.watch(sum(incident.worker >= 0 for incident in self._vec.incidents))
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
