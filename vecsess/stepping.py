"""One reset and one step of all environments: checked, recovered, and put into arrays.

What a session does behind its public verbs, which are in vector.py.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array

from vecsess.actions import ActionCheck
from vecsess.contract import Contract, Violation, check_flags, check_observations, check_rewards
from vecsess.errors import (
    ClosedError,
    ContractViolation,
    PendingCallError,
    StateError,
    ThreadError,
    VecsessError,
)
from vecsess.launch import Launched
from vecsess.lockstep import Lockstep
from vecsess.phase import Phase
from vecsess.recovery import Reactions, Recovery
from vecsess.reports import failures_of, values_of, warn_once
from vecsess.rollout import Finals, StepRows
from vecsess.seeds import spread
from vecsess.supervisor import Timeouts, Worker
from vecsess.tree import Tree, leaves, map_leaves
from vecsess.wire.messages import Reset
from vecsess.wire.spaces import assemble, field_name, leaves_of

Array = npt.NDArray[Any]
Infos = dict[str, Any]
E = TypeVar("E", bound=VecsessError)

NO_INFOS, FINAL_INFOS, ALL_INFOS = 0, 1, 2


class Stepping(VectorEnv[Any, Any, Any]):
    """The lockstep of a session, with the checks, the books and the recovery around it.

    Args:
        launched: the workers.
        n: how many environments.
        contract: what a transition must satisfy.
        timeouts: how long each call of an environment may take.
        reactions: what is done about each kind of failure.
        recovery: brings lost environments back.
    """

    def __init__(
        self,
        launched: Launched,
        n: int,
        contract: Contract,
        timeouts: Timeouts,
        reactions: Reactions,
        recovery: Recovery,
    ) -> None:
        self._thread = threading.get_ident()
        self._contract, self._timeouts = contract, timeouts
        self._lockstep, self._local = launched.lockstep, launched.local
        self._reactions, self._recovery = reactions, recovery
        self._describe(launched.description, n)
        self._episodes = np.zeros(n, np.int64)  # how many each environment has finished
        self._begun = np.zeros(n, np.int64)  # the lockstep at which its episode began
        self._unrestored: dict[int, str] = {}
        self.episode_returns = np.zeros(n, np.float64)  # so far, as collection counts them
        self.episode_lengths = np.zeros(n, np.int64)
        self._warned: set[str] = set()
        self._state = Phase.NEW

    def _describe(self, description: Any, n: int) -> None:
        """Takes what the workers say of their environments as Gymnasium's attributes."""
        self.num_envs = n
        self.single_observation_space = description.observation_space
        self.single_action_space = description.action_space
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self.spec = description.spec
        self.render_mode = description.render_mode
        self.metadata = {**description.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self._check_actions = ActionCheck(self.single_action_space, n, self._contract)
        parts = list(leaves_of(self.single_observation_space))
        self._fields = [field_name("observation", part.path) for part in parts]
        self._next_fields = [field_name("next_observation", part.path) for part in parts]

    # --- one reset -------------------------------------------------------------------------------

    def _begin_reset(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None, infos: int
    ) -> None:
        seeds = spread(seed, self.num_envs)
        packed = b"" if options is None else pickle.dumps(options)
        self._episodes[:] = 0
        self._begun[:] = self._lockstep.steps
        self.episode_returns[:], self.episode_lengths[:] = 0.0, 0
        self._recovery.begin_reset(seeds, packed, continued=self._state is Phase.READY)

        def message(worker: Worker, seq: int) -> Reset:
            envs = slice(worker.first_env, worker.first_env + worker.rows)
            return Reset(seq, list(range(worker.rows)), seeds[envs], packed, infos)

        self._state = Phase.RESETTING
        self._lockstep.begin(message, self._timeouts.reset_s)

    def _finish_reset(self, timeout_s: float | None = None) -> tuple[Tree, Infos]:
        self._gather(self._lockstep, timeout_s)
        self._raise_failures(self._lockstep)
        self._recovery.complete_reset()
        observations = self._read_observations()
        self._lockstep.last = leaves(observations)
        infos = self._infos(None)
        self._state = Phase.READY
        return observations, infos

    # --- one step --------------------------------------------------------------------------------

    def _begin_step(self, actions: Any, infos: int) -> None:
        if self._state is not Phase.READY or threading.get_ident() != self._thread:
            self._require(Phase.READY)
        checked = self._check_actions(actions)
        self._recovery.begin_step(checked)
        self._state = Phase.STEPPING
        self._lockstep.begin_step(checked, infos)

    def _finish_step(self, timeout_s: float | None) -> tuple[Tree, Array, Array, Array, Infos]:
        rows = self._new_rows()
        finals = self._complete_step(rows, timeout_s)
        infos = self._infos(finals) if finals is not None or self._lockstep.answers else {}
        return rows.next_observations, rows.rewards, rows.terminated, rows.truncated, infos

    def _complete_step(self, rows: StepRows, timeout_s: float | None) -> Finals | None:
        finals = self._take_step(self._lockstep, rows, timeout_s)
        self._state = Phase.READY
        return finals

    def _take_step(
        self, part: Lockstep, rows: StepRows, timeout_s: float | None = None
    ) -> Finals | None:
        """Waits for a step of some workers, checks it, and copies it into `rows [n, ...]`."""
        self._gather(part, timeout_s)
        if part.answers:
            self._settle_failures(part)
        ended = part.read_step(rows)
        finals = None if ended is None else self._finals(ended)
        while (violation := self._violation(part, rows, finals)) is not None:
            self._settle_violation(part, violation)
            ended = part.read_step(rows)
            finals = None if ended is None else self._finals(ended)
        if part is self._lockstep:
            self._recovery.complete_step(ended)
        else:
            self._recovery.complete_part(part, ended)
        if self._recovery.lost:
            finals = self._mark_lost(part, rows, finals)
        part.steps += 1
        over = ended if finals is None else finals.envs
        if over is not None:
            self._episodes[over] += 1
            self._begun[over] = part.steps
        part.last = leaves(rows.next_observations)
        return finals

    def _mark_lost(self, part: Lockstep, rows: StepRows, finals: Finals | None) -> Finals | None:
        """Turns the rows of lost environments into marked truncations.

        Returns:
            The finals with the last good observation of each of them.
        """
        first, last = part.envs.start, part.envs.stop
        envs = np.array(sorted(e for e in self._recovery.lost if first <= e < last), np.int64)
        if not len(envs):
            return finals
        own = envs - first
        rows.rewards[own], rows.valid[own] = 0.0, False
        rows.terminated[own], rows.truncated[own] = False, True
        arrays = [leaf[own] for leaf in part.last]
        if finals is not None:
            envs = np.concatenate([finals.envs, envs])
            pairs = zip(leaves(finals.observations), arrays, strict=True)
            arrays = [np.concatenate(pair) for pair in pairs]
        order = np.argsort(envs)
        parts = iter([array[order] for array in arrays])
        return Finals(envs[order], assemble(self.single_observation_space, parts))

    def _violation(self, part: Lockstep, rows: StepRows, finals: Finals | None) -> Violation | None:
        """Returns the first breach of the contract: of flags, reward, or an observation."""
        contract, violation = self._contract, None
        if contract.require_exclusive_done_flags:
            violation = check_flags(contract, rows.terminated, rows.truncated)
        if violation is None:
            violation = check_rewards(contract, rows.rewards)
        if violation is None:
            arrays = leaves(rows.next_observations)
            violation = check_observations(contract, arrays, self._next_fields)
        if violation is not None:
            return replace(violation, env=violation.env + part.envs.start)
        if finals is None:
            return None
        violation = check_observations(contract, leaves(finals.observations), self._next_fields)
        return violation and replace(violation, env=int(finals.envs[violation.env]))

    def _finals(self, ended: Array) -> Finals | None:
        if self.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            return None  # what ended is in its row until the next step or reset
        arrays = iter(self._lockstep.read_finals(ended))
        return Finals(ended, assemble(self.single_observation_space, arrays))

    # --- what came back --------------------------------------------------------------------------

    def _gather(self, part: Lockstep, timeout_s: float | None) -> None:
        """Waits for the replies; whatever fails leaves a session that can be reset."""
        try:
            part.gather(timeout_s)
        except TimeoutError as error:
            if isinstance(error, VecsessError):
                self._state = Phase.BROKEN
                raise self._located(error) from error.__cause__
            raise
        except VecsessError as error:
            self._state = Phase.BROKEN
            raise self._located(error) from error.__cause__

    def _settle_failures(self, part: Lockstep) -> None:
        """Raises what environments raised, or cuts their episodes off, as the session was told."""
        warn_once(part.answers, part.workers, self._warned)
        errors = failures_of(part.answers, part.workers)
        for error in errors:
            form = isinstance(error, ContractViolation)
            reaction = self._reactions.on_violation if form else self._reactions.on_error
            if reaction == "raise":
                self._raise_failures(part)
            self._recovery.settle(self._located(error), reaction)

    def _settle_violation(self, part: Lockstep, violation: Violation) -> None:
        error = self._broken(violation)
        if self._reactions.on_violation == "raise":
            raise error
        self._recovery.settle(error, self._reactions.on_violation)

    def _raise_failures(self, part: Lockstep) -> None:
        warn_once(part.answers, part.workers, self._warned)
        errors = failures_of(part.answers, part.workers)
        if errors:
            self._state = Phase.BROKEN
            error = self._located(errors[0])
            if len(errors) > 1:
                error.add_note(f"{len(errors) - 1} more environments failed in the same call")
            raise error from (self._local.last_exception if self._local else None)

    def _broken(self, violation: Violation) -> ContractViolation:
        self._state = Phase.BROKEN
        worker = int(self._lockstep.worker_of[violation.env])
        error = ContractViolation(
            violation.message, worker=worker, env=violation.env, field=violation.field
        )
        return self._located(error)

    def _located(self, error: E) -> E:
        """Adds episode and step of the environment that an error names."""
        if error.env is not None:
            error.episode = int(self._episodes[error.env])
            worker = self._lockstep.workers[int(self._lockstep.worker_of[error.env])]
            steps = self._lockstep.steps if worker.flight is None else worker.flight.steps
            error.step = int(steps - self._begun[error.env])
        return error

    def _infos(self, finals: Finals | None) -> Infos:
        """Returns Gymnasium's dict of arrays with `_key` masks."""
        infos: Infos = {}
        if self._recovery.lost:
            infos["invalid"] = np.zeros(self.num_envs, np.bool_)
            infos["invalid"][list(self._recovery.lost)] = True
        by_env: dict[int, list[tuple[str, Any]]] = {}
        for env, what, value in values_of(self._lockstep.answers, self._lockstep.workers):
            by_env.setdefault(env, []).append((what, value))
        if finals is not None:
            for k, env in enumerate(finals.envs.tolist()):
                last = map_leaves(lambda leaf, k=k: leaf[k], finals.observations)
                infos = self._add_info(infos, {"final_obs": last}, env)
        for env in sorted(by_env):
            for what, value in by_env[env]:
                info = {"final_info": value} if what == "final_info" else value
                infos = self._add_info(infos, info, env)
        return infos

    # --- arrays ----------------------------------------------------------------------------------

    def _new_rows(self) -> StepRows:
        n = self.num_envs
        return StepRows(
            create_empty_array(self.single_observation_space, n, np.empty),
            np.empty(n, np.float64),
            np.empty(n, np.bool_),
            np.empty(n, np.bool_),
            np.empty(n, np.bool_),
        )

    def _read_observations(self) -> Tree:
        """Returns a checked copy of the observations in the slab."""
        observations = create_empty_array(self.single_observation_space, self.num_envs, np.empty)
        arrays = leaves(observations)
        self._lockstep.read_observations(arrays)
        violation = check_observations(self._contract, arrays, self._fields)
        if violation is not None:
            raise self._broken(violation)
        return observations

    def _require(self, *allowed: Phase) -> None:
        """Raises the error that says why this call can't be made now."""
        if threading.get_ident() != self._thread:
            raise ThreadError(
                "expected a call from the thread that made this session, got one from "
                f"{threading.current_thread().name!r}; make a session for each thread"
            )
        if self._state in allowed:
            return
        if self._state is Phase.CLOSED:
            raise ClosedError("this session was closed; make a new one")
        if self._state in (Phase.STEPPING, Phase.RESETTING):
            raise PendingCallError(f"{self._state.value}; wait for it, or reset()")
        raise StateError(f"expected reset() first: {self._state.value}")
