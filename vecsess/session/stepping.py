"""One reset and one step of all environments: checked, recovered, and put into arrays.

What a session does behind its public verbs, which are in vector.py.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from vecsess.contract import Contract, Finals, StepRows, ValueCheck, Violation, check_observations
from vecsess.errors import StateError
from vecsess.fleet.description import Description
from vecsess.fleet.health import Health
from vecsess.fleet.launch import Launched
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.reports import Infos, merge_infos
from vecsess.fleet.worker import Timeouts, Worker
from vecsess.recovery.losses import Recovery
from vecsess.recovery.policy import Reactions
from vecsess.recovery.recycling import Recycling
from vecsess.session.actions import ActionCheck
from vecsess.session.conventions import (
    NO_INFOS,
    Conventions,
    Seed,
    SeedChain,
    split_options,
    spread,
)
from vecsess.session.gate import AT_REST, STARTED, Phase
from vecsess.session.guarded import Guarded
from vecsess.tree import Tree, leaves
from vecsess.wire.leaves import all_leaves_of, assemble, field_name
from vecsess.wire.messages import Reset

Array = npt.NDArray[Any]

_TICK_MASK = 255  # steps between two looks at the clock of health, less one


class Stepping(Guarded):
    """The lockstep of a session, with the checks, the books and the recovery around it.

    Args:
        launched: the workers.
        n: how many environments.
        contract: what a transition must satisfy.
        timeouts: how long each call of an environment may take.
        reactions: what is done about each kind of failure.
        recovery: brings lost environments back.
        conventions: which of Gymnasium's are followed.
    """

    def __init__(
        self,
        launched: Launched,
        n: int,
        contract: Contract,
        timeouts: Timeouts,
        reactions: Reactions,
        recovery: Recovery,
        conventions: Conventions,
    ) -> None:
        super().__init__(launched, n, reactions, recovery)
        self._contract, self._timeouts = contract, timeouts
        self._conventions = conventions
        self._same_step = conventions.autoreset_mode is AutoresetMode.SAME_STEP
        self.autoreset_mode = conventions.autoreset_mode
        self.observation_mode, self.copy = conventions.observation_mode, conventions.copy
        self.noise_seed = secrets.randbits(63)
        self.noise_counter = 0
        self._describe(launched.description, n)
        seed_of = conventions.seed_of
        self._chain = None if seed_of is None else SeedChain(seed_of, n)
        self._shared: Tree | None = None  # what is given out each time where copy=False
        self._unrestored: dict[int, str] = {}
        self.episode_returns = np.zeros(n, np.float64)  # so far, as collection counts them
        self.episode_lengths = np.zeros(n, np.int64)
        about = {"env": self.spec.id if self.spec is not None else "", "n": n}
        self._health = Health(self._lockstep, about)
        self._recycling: Recycling | None = None

    def _describe(self, description: Description, n: int) -> None:
        """Takes what the workers say of their environments as Gymnasium's attributes."""
        self.num_envs = n
        self.single_observation_space = description.observation_space
        self.single_action_space = description.action_space
        self.observation_space = description.observation_batch
        self.action_space = batch_space(self.single_action_space, n)
        self.spec = description.spec
        self.render_mode = description.render_mode
        self.metadata = {**description.metadata, "autoreset_mode": self._conventions.autoreset_mode}
        self._check_actions = ActionCheck(self.single_action_space, n, self._contract)
        self._leaves = parts = list(all_leaves_of(self.single_observation_space))
        self._pipes = any(part.piped for part in parts)
        self._fields = [field_name("observation", part.path) for part in parts]
        fields = [field_name("next_observation", part.path) for part in parts]
        self._check_values = ValueCheck(self._contract, fields)

    # --- one reset -------------------------------------------------------------------------------

    def _begin_reset(
        self, verb: str, seed: Seed, options: dict[str, Any] | None, infos: int
    ) -> None:
        """Sends a reset to all environments, or to those of `options["reset_mask"]`."""
        self._require(verb, *AT_REST)
        seeds = spread(seed, self.num_envs)
        mask, options = split_options(options, self.num_envs)
        envs = list(range(self.num_envs)) if mask is None else np.flatnonzero(mask).tolist()
        if len(envs) < self.num_envs and self._state not in STARTED:
            raise StateError(
                f"{verb}: expected a reset of every environment first: {self._state.value}"
            )
        if self._chain is not None:
            seeds = self._chain.asked(envs, seeds, self._episodes)
        packed = b"" if options is None else cloudpickle.dumps(options)
        self._recovery.begin_reset(
            envs, [seeds[env] for env in envs], packed, continued=self._state in STARTED
        )
        self._open_books(envs)

        def message(worker: Worker, seq: int) -> Reset | None:
            rows = [env - worker.first_env for env in envs if worker.holds(env)]
            own = [seeds[worker.first_env + row] for row in rows]
            return Reset(seq, rows, own, packed, infos) if rows else None

        self._state = Phase.RESETTING
        self._lockstep.begin(message, self._timeouts.reset_s)

    def _open_books(self, envs: list[int]) -> None:
        """Begins to count anew for environments that are reset."""
        for env in envs:
            self._episodes[env], self._begun[env] = 0, self._lockstep.steps
        self.episode_returns[envs], self.episode_lengths[envs] = 0.0, 0
        self._ended[envs] = False

    def _finish_reset(self, timeout_s: float | None = None) -> Tree:
        """Waits for a reset; returns a copy of all observations."""
        self._gather(self._lockstep, timeout_s)
        self._raise_failures(self._lockstep)
        self._recovery.complete_reset()
        observations = self._read_observations()
        self._lockstep.last = leaves(observations)
        self._state = self._rest()
        return observations

    def _rest(self) -> Phase:
        """Returns the phase after a call that went well."""
        disabled = self._conventions.autoreset_mode is AutoresetMode.DISABLED
        return Phase.ENDED if disabled and self._ended.any() else Phase.READY

    # --- one step --------------------------------------------------------------------------------

    def _begin_step(self, actions: Any, infos: int, verb: str = "step") -> None:
        if self._state is not Phase.READY or threading.get_ident() != self._thread:
            self._require(verb, Phase.READY)
        checked = self._check_actions(actions)
        due = self._due_workers() if self._recycling is not None else {}
        self._recovery.begin_step(checked)
        self._state = Phase.STEPPING
        self._lockstep.begin_step(checked, infos)
        if due and self._recycling is not None:
            self._recovery.recycle(due, self._recycling.renewed)

    def _due_workers(self) -> dict[int, str]:
        """Returns the workers to replace now, and why; they have closed their environments."""
        assert self._recycling is not None, "asked only where there are limits"
        due = self._recycling.take_due()
        return self._recovery.begin_recycling(due, self._timeouts.close_s) if due else due

    def _complete_step(self, rows: StepRows, timeout_s: float | None) -> Finals | None:
        finals = self._take_step(self._lockstep, rows, timeout_s)
        self._state = Phase.READY
        if self._same_step:
            return finals
        np.logical_or(rows.terminated, rows.truncated, out=self._ended)
        # The reset of "next_step" is a lockstep, but no step of an episode.
        for env in np.flatnonzero(self._ended).tolist():
            self._begun[env] = self._lockstep.steps + 1
        self._state = self._rest()
        return None

    def _take_step(
        self, part: Lockstep, rows: StepRows, timeout_s: float | None = None
    ) -> Finals | None:
        """Waits for a step of some workers, checks it, and copies it into `rows [n, ...]`."""
        self._gather(part, timeout_s)
        if part.answers:
            self._settle_failures(part)
        arrays = leaves(rows.next_observations)
        ended = part.read_step(rows, arrays)
        finals = None if ended is None else self._finals(ended)
        while (violation := self._violation(part, rows, arrays, finals)) is not None:
            self._settle_violation(part, violation)
            ended = part.read_step(rows, arrays)
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
            for env in over.tolist():
                self._episodes[env] += 1
                self._begun[env] = part.steps
            if self._recycling is not None:
                self._recycling.note(over)
        if not part.steps & _TICK_MASK:
            self._health.tick()
        part.last = arrays
        return finals

    # --- parts -----------------------------------------------------------------------------------

    @property
    def contract(self) -> Contract:
        """What a transition must satisfy."""
        return self._contract

    def divide(self) -> Lockstep:
        """Makes the session ready to be stepped in parts, until `unite`."""
        self._require("divide", Phase.READY)
        self._state = Phase.STEPPING
        return self._lockstep

    def begin_part(self, part: Lockstep, actions: list[Array]) -> None:
        """Sends some workers their actions: checked, `[n, *leaf]` per leaf."""
        self._recovery.begin_part(part, actions)
        part.begin_step(actions, NO_INFOS)

    def take_part(self, part: Lockstep, rows: StepRows) -> Finals | None:
        """Waits for a step of some workers; see `step_into`."""
        return self._take_step(part, rows)

    def unite(self, parts: list[Lockstep]) -> None:
        """Makes one lockstep of the parts, which have taken equally many steps."""
        self._lockstep.steps = parts[0].steps
        leaf_parts = zip(*(part.last for part in parts), strict=True)
        self._lockstep.last = [np.concatenate(leaves_) for leaves_ in leaf_parts]
        for worker in self._lockstep.workers:
            worker.flight = self._lockstep
        self._recovery.meet()
        self._state = Phase.READY

    # --- what came of a step ---------------------------------------------------------------------

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

    def _violation(
        self, part: Lockstep, rows: StepRows, arrays: list[Array], finals: Finals | None
    ) -> Violation | None:
        """Returns the first breach of the contract: of flags, reward, or an observation."""
        check = self._check_values
        violation = check.step(rows.rewards, rows.terminated, rows.truncated, arrays)
        if violation is not None:
            return replace(violation, env=violation.env + part.envs.start)
        if finals is None:
            return None
        violation = check.observations(leaves(finals.observations))
        return violation and replace(violation, env=int(finals.envs[violation.env]))

    def _finals(self, ended: Array) -> Finals | None:
        if not self._same_step:
            return None  # what ended is in its row until the next step or reset
        arrays = iter(self._lockstep.read_finals(ended))
        return Finals(ended, assemble(self.single_observation_space, arrays))

    # --- what came back --------------------------------------------------------------------------

    def _infos(self, finals: Finals | None) -> Infos:
        """Returns Gymnasium's dict of arrays with `_key` masks."""
        infos: Infos = {}
        if self._conventions.info_level != NO_INFOS:
            space, lockstep = self.single_observation_space, self._lockstep
            infos = merge_infos(self._add_info, space, lockstep.answers, lockstep.workers, finals)
        if self._recovery.lost:
            infos["invalid"] = np.zeros(self.num_envs, np.bool_)
            infos["invalid"][list(self._recovery.lost)] = True
        return infos

    # --- arrays ----------------------------------------------------------------------------------

    def _new_batch(self) -> Tree:
        """Returns an uninitialised batch of observations; what goes by pipe as objects `[N]`."""
        n = self.num_envs
        arrays = (np.empty((n, *leaf.shape), leaf.dtype) for leaf in self._leaves)
        return assemble(self.single_observation_space, arrays)

    def _new_rows(self) -> StepRows:
        n = self.num_envs
        flags = [np.empty(n, np.bool_) for _ in range(3)]
        return StepRows(self._new_batch(), np.empty(n, np.float64), *flags)

    def _read_observations(self) -> Tree:
        """Returns a checked copy of the observations in the slab."""
        observations = self._new_batch()
        arrays = leaves(observations)
        self._lockstep.read_observations(arrays)
        violation = check_observations(self._contract, arrays, self._fields)
        if violation is not None:
            raise self._broken(violation)
        return observations
