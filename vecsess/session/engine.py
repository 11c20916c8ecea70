"""One reset and one step of all environments: checked, noted, recovered, and put into arrays.

What stands behind every verb of a session. It has a lockstep, a gate, and a recovery; the verbs
themselves, and what libraries expect of them, are in gym_vector.py and vector.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from gymnasium.vector import AutoresetMode

from vecsess.contract import Contract, Finals, StepRows, ValueCheck, Violation, check_observations
from vecsess.errors import CallTimeout, ContractViolation, StateError, VecsessError
from vecsess.fleet.health import Health
from vecsess.fleet.launch import Fleet
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.reports import failures_of, warn_once
from vecsess.fleet.worker import OutOfTimeError, Timeouts, Worker
from vecsess.recovery.losses import Recovery
from vecsess.recovery.policy import Reactions, RestartPolicy
from vecsess.recovery.progress import Progress
from vecsess.recovery.recycling import Recycling
from vecsess.session.actions import ActionCheck
from vecsess.session.conventions import (
    NO_INFOS,
    Conventions,
    Seed,
    SeedChain,
    split_options,
    spread,
    warn_of_second_reset,
)
from vecsess.session.gate import PENDING, STARTED, Gate
from vecsess.tree import Tree, leaves
from vecsess.wire.code import dumps
from vecsess.wire.leaves import all_leaves_of, assemble, field_name
from vecsess.wire.messages import Reset, Rollout
from vecsess.wire.values import Array, Fields

E = TypeVar("E", bound=VecsessError)

_TICK_MASK = 255  # steps between two looks at the clock of health, less one


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """On what terms a session steps its environments.

    Attributes:
        contract: what a transition must satisfy.
        timeouts: how long each call of an environment may take.
        reactions: what is done about each kind of failure.
        restart_policy: how often workers are restarted, and how long a replay may take.
        conventions: which of Gymnasium's are followed.
        memory_limit_bytes: past it a worker is recycled; None for any.
        max_episodes: likewise.
    """

    contract: Contract
    timeouts: Timeouts
    reactions: Reactions
    restart_policy: RestartPolicy
    conventions: Conventions
    memory_limit_bytes: int | None
    max_episodes: int | None


class Engine:
    """The lockstep of a session, with the checks, the books and the recovery around it.

    Args:
        fleet: the workers.
        n: how many environments.
        terms: on which they are stepped.

    Attributes:
        gate: which verb may be called when.
        progress: where each environment stands.
        recovery: brings lost environments back.
        health: how the workers are.
        episode_returns: `[N]` float64, so far, as collection counts them.
        episode_lengths: `[N]` int64, likewise.
    """

    def __init__(self, fleet: Fleet, n: int, terms: Terms) -> None:
        self.fleet, self.n, self.terms = fleet, n, terms
        self.lockstep = lockstep = fleet.lockstep
        conventions = terms.conventions
        mode = conventions.autoreset_mode
        self.same_step = mode is AutoresetMode.SAME_STEP
        counts = [worker.rows for worker in fleet.workers]
        self.progress = Progress(counts, mode.name.lower())
        disabled = mode is AutoresetMode.DISABLED
        self.gate = Gate(self._ended if disabled else list)
        blank, self._no_reward = (
            min(max(0.0, bounds[0]), bounds[1]) if bounds else 0.0
            for bounds in (terms.contract.obs_range, terms.contract.reward_range)
        )
        self.recovery = Recovery(fleet, self.progress, terms.reactions, terms.restart_policy, blank)
        self._recycling: Recycling | None = None
        if terms.memory_limit_bytes is not None or terms.max_episodes is not None:
            self._recycling = Recycling(lockstep, terms.memory_limit_bytes, terms.max_episodes)
        seed_of = conventions.seed_of
        self._chain = None if seed_of is None else SeedChain(seed_of, n)
        self.episode_returns = np.zeros(n, np.float64)
        self.episode_lengths = np.zeros(n, np.int64)
        self._warned: set[str] = set()
        spec = fleet.description.spec
        about = {"env": "" if spec is None else spec.id, "n": n}
        self.health = Health(lockstep, about, lambda: self.progress.t)
        self.space = space = fleet.description.observation_space
        self.leaves = parts = list(all_leaves_of(space))
        self._forms = [((n, *part.shape), part.dtype) for part in parts]
        self._bare = [part.path for part in parts] == [()]  # no dict and no tuple
        self._check_actions = ActionCheck(fleet.description.action_space, n, terms.contract)
        self._fields = [field_name("observation", part.path) for part in parts]
        fields = [field_name("next_observation", part.path) for part in parts]
        self._check_values = ValueCheck(terms.contract, fields)

    def _ended(self) -> list[int]:
        return np.flatnonzero(self.progress.ended).tolist()

    # --- one reset -------------------------------------------------------------------------------

    def begin_reset(self, verb: str, seed: Seed, options: Fields | None, infos: int) -> None:
        """Sends a reset to all environments, or to those of `options["reset_mask"]`."""
        seeds = spread(seed, self.n, self.terms.conventions.first_env)
        mask, options = split_options(options, self.n)
        envs = list(range(self.n)) if mask is None else np.flatnonzero(mask).tolist()
        started = self.gate.phase in STARTED
        if len(envs) < self.n and not started:
            raise StateError(
                f"{verb}: expected a reset of every environment first: {self.gate.phase.value}"
            )
        if mask is not None and self.same_step and self.progress.just_reset(envs):
            warn_of_second_reset(envs, self._warned)
        if self._chain is not None:
            seeds = self._chain.asked(envs, seeds, self.progress.episodes)
        packed = b"" if options is None else dumps(options)
        self.gate.tell()
        own_seeds = [seeds[env] for env in envs]
        self.recovery.begin_reset(
            envs, own_seeds, packed, continued=started, masked=mask is not None
        )
        self.episode_returns[envs], self.episode_lengths[envs] = 0.0, 0

        def message(worker: Worker, seq: int) -> Reset | None:
            rows = [env - worker.first_env for env in envs if worker.holds(env)]
            own = [seeds[worker.first_env + row] for row in rows]
            return Reset(seq, rows, own, packed, infos) if rows else None

        self.lockstep.flight.begin(message, self.terms.timeouts.reset_s)

    def finish_reset(self, timeout_s: float | None = None) -> Tree:
        """Waits for a reset; returns a copy of all observations."""
        self.gather(self.lockstep, timeout_s)
        self.raise_failures(fresh=True)
        self.recovery.complete_reset()
        observations = self.read_observations()
        before, self.lockstep.last = self.lockstep.last, leaves(observations)
        if cut := sorted(self.recovery.unmarked):  # beside a mask: their last ones are still due
            self.lockstep.last = [leaf.copy() for leaf in self.lockstep.last]
            for leaf, old in zip(self.lockstep.last, before, strict=True):
                leaf[cut] = old[cut]
        return observations

    # --- one step --------------------------------------------------------------------------------

    def begin_step(self, actions: Tree, infos: int) -> None:
        """Checks the actions, notes them, and sends them."""
        self._send(self.lockstep, self._check_actions(actions), infos)

    def _send(self, part: Lockstep, actions: list[Array], infos: int) -> None:
        """Notes actions and sends them; workers that are due are replaced meanwhile."""
        self.gate.tell()
        due = self._due_workers(part.own)
        if part is self.lockstep:
            self.recovery.begin_step(actions)
        else:
            self.recovery.begin_part(part, actions)
        part.begin_step(actions, infos)
        self._recycle(due)

    def _due_workers(self, own: slice) -> dict[int, str]:
        """Returns the workers to replace now, and why; they have closed their environments."""
        if self._recycling is None:
            return {}
        due = self._recycling.take_due(own)
        return self.recovery.begin_recycling(due, self.terms.timeouts.close_s) if due else due

    def _recycle(self, due: dict[int, str]) -> None:
        """Replaces workers that have closed their environments."""
        if due and self._recycling is not None:
            self.recovery.recycle(due, self._recycling.renewed)

    def finish_step(self, rows: StepRows, timeout_s: float | None) -> Finals | None:
        """Waits for a step of all, checks it, and copies it into `rows [N, ...]`."""
        try:
            return self.take_step(self.lockstep, rows, timeout_s)
        except OutOfTimeError as late:
            raise self._too_late(timeout_s, late) from late

    def take_step(
        self, part: Lockstep, rows: StepRows, timeout_s: float | None = None
    ) -> Finals | None:
        """Waits for a step of some workers, checks it, and copies it into `rows [n, ...]`."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self.gather(part, timeout_s)
        if part.flight.answers:
            self._settle_failures(part, until)
        arrays = leaves(rows.next_observations)
        ended = part.rows.read_step(rows, arrays)
        finals = None if ended is None else self._finals(ended)
        while (violation := self._violation(part, rows, arrays, finals)) is not None:
            self._settle_violation(violation, until)
            ended = part.rows.read_step(rows, arrays)
            finals = None if ended is None else self._finals(ended)
        if part is self.lockstep:
            self.recovery.complete_step(ended)
        else:
            self.recovery.complete_part(part, ended)
        if self.recovery.lost:
            finals = self._mark_lost(part, rows, finals)
        over = ended if finals is None else finals.envs
        if over is not None and self._recycling is not None:
            self._recycling.note(over)
        if not self.progress.t & _TICK_MASK:
            self.health.tick()
        part.last = arrays
        return finals if self.same_step else None

    # --- parts -----------------------------------------------------------------------------------

    def begin_part(self, part: Lockstep, actions: list[Array]) -> None:
        """Sends some workers their actions: checked, `[n, *leaf]` per leaf."""
        self._send(part, actions, NO_INFOS)

    def unite(self, parts: list[Lockstep]) -> None:
        """Makes one lockstep of the parts, which have taken equally many steps."""
        leaf_parts = zip(*(part.last for part in parts), strict=True)
        self._meet([np.concatenate(leaves_) for leaves_ in leaf_parts])

    def _meet(self, last: list[Array]) -> None:
        """All workers have come to the same lockstep again; `last` was given out last."""
        self.lockstep.last = last
        for worker in self.lockstep.workers:
            worker.flight = self.lockstep.flight
        self.recovery.meet()

    # --- rollouts that the workers fill; see acting.py -------------------------------------------

    def begin_rollout(self, make: Callable[[Worker, int], Rollout]) -> None:
        """Sends every worker the command to act by itself."""
        self.gate.tell()
        self._recycle(self._due_workers(slice(None)))
        self.recovery.begin_rollout()
        self.lockstep.flight.begin(make, self.terms.timeouts.step_s)

    def end_rollout(self, last: list[Array], ended: Array) -> None:
        """All workers have come to the same lockstep again.

        Args:
            last: the observations given out last, `[N, *leaf]` per leaf.
            ended: the environments whose episode did, each as often as that happened.
        """
        self._meet(last)
        if self._recycling is not None:
            self._recycling.note(ended)
        self.health.tick()

    def passes(self, rewards: Array, arrays: list[Array]) -> bool:
        """Whether nothing can be wrong with steps, however many; see `ValueCheck.passes`."""
        return self._check_values.passes(rewards, arrays)

    def first_violation(
        self, rows: StepRows, ends: Array, finals: list[Array]
    ) -> tuple[int, Violation] | None:
        """Returns the first breach of the contract in many steps, and in which it is.

        Args:
            rows: `[T, n, ...]`.
            ends: `[K]`, the steps that ended episodes, each as often as it did.
            finals: the final observations, `[K, *leaf]` per leaf.
        """
        arrays = leaves(rows.next_observations)
        for t in range(len(rows.rewards)):
            terminated, truncated = rows.terminated[t], rows.truncated[t]
            now = [leaf[t] for leaf in arrays]
            found = self._check_values.step(rows.rewards[t], terminated, truncated, now)
            if found is not None:
                return t, found
            found = self._check_values.observations([leaf[ends == t] for leaf in finals])
            if found is not None:
                return t, replace(found, env=int(np.flatnonzero(terminated | truncated)[found.env]))
        return None

    # --- what came of a step ---------------------------------------------------------------------

    def _mark_lost(self, part: Lockstep, rows: StepRows, finals: Finals | None) -> Finals | None:
        """Turns the rows of lost environments into marked truncations.

        Returns:
            The finals with the last good observation of each of them.
        """
        first, last = part.rows.envs.start, part.rows.envs.stop
        envs = np.array(sorted(e for e in self.recovery.lost if first <= e < last), np.int64)
        if not len(envs):
            return finals
        self.recovery.mark(envs.tolist())
        own = envs - first
        rows.rewards[own], rows.valid[own] = 0.0, False
        rows.terminated[own], rows.truncated[own] = False, True
        if not self.same_step:
            self.progress.wait(envs)
        arrays = [leaf[own] for leaf in part.last]
        if finals is not None:  # one whose next episode has ended in the same step is told of once
            others = ~np.isin(finals.envs, envs)
            envs = np.concatenate([finals.envs[others], envs])
            pairs = zip(leaves(finals.observations), arrays, strict=True)
            arrays = [np.concatenate([final[others], own]) for final, own in pairs]
        order = np.argsort(envs)
        parts = iter([array[order] for array in arrays])
        return Finals(envs[order], assemble(self.space, parts))

    def _violation(
        self, part: Lockstep, rows: StepRows, arrays: list[Array], finals: Finals | None
    ) -> Violation | None:
        """Returns the first breach of the contract: of flags, reward, or an observation."""
        check = self._check_values
        if self.recovery.lost:  # what they have for rewards now is nobody's
            first, last = part.rows.envs.start, part.rows.envs.stop
            own = [env - first for env in self.recovery.lost if first <= env < last]
            rows.rewards[own] = self._no_reward
        violation = check.step(rows.rewards, rows.terminated, rows.truncated, arrays)
        if violation is not None:
            return replace(violation, env=violation.env + part.rows.envs.start)
        if finals is None:
            return None
        violation = check.observations(leaves(finals.observations))
        return violation and replace(violation, env=int(finals.envs[violation.env]))

    def _finals(self, ended: Array) -> Finals | None:
        if not self.same_step:
            return None  # what ended is in its row until the next step or reset
        return Finals(ended, self._batch_of(self.lockstep.rows.read_finals(ended)))

    # --- what came back --------------------------------------------------------------------------

    def gather(self, part: Lockstep, timeout_s: float | None = None) -> None:
        """Waits for the replies; whatever fails leaves a session that can be reset."""
        self.gate.tell()
        flight = part.flight
        try:
            flight.gather(timeout_s)
        except VecsessError as error:
            raise self.located(error) from error.__cause__
        except OutOfTimeError as late:
            raise self._too_late(timeout_s, late) from late
        except BaseException:  # such as Ctrl-C
            self.gate.hold(resumable=flight.resumable)
            raise

    def _too_late(self, timeout_s: float | None, late: OutOfTimeError) -> CallTimeout:
        pending = PENDING[self.gate.phase]
        return CallTimeout(
            f"expected all answers within timeout={timeout_s} s: {late}; the {pending} is still "
            f"pending: {pending}_wait() again, or reset()"
        )

    def _settle_failures(self, part: Lockstep, until: float | None) -> None:
        """Raises what environments raised, or cuts their episodes off, as the session was told."""
        answers, workers = part.flight.answers, part.workers
        warn_once(answers, workers, self._warned)
        lost = self.recovery.lost
        # Settling one may have the others of its worker step once more, and answer anew.
        while errors := [e for e in failures_of(part.flight.answers, workers) if e.env not in lost]:
            error = errors[0]
            reaction = self.terms.reactions.to(error)
            if reaction == "raise":
                self.raise_failures(part)
            self.recovery.settle(self.located(error), reaction, until)

    def _settle_violation(self, violation: Violation, until: float | None) -> None:
        error = self._broken(violation)
        reaction = self.terms.reactions.on_violation
        if reaction == "raise":
            raise error
        self.recovery.settle(error, reaction, until)

    def raise_failures(self, part: Lockstep | None = None, *, fresh: bool = False) -> None:
        """Raises what environments raised in a call.

        Args:
            part: whose answers are looked at; None for all.
            fresh: it was a reset, so that they are at the beginning of an episode.
        """
        part = part or self.lockstep
        warn_once(part.flight.answers, part.workers, self._warned)
        errors = failures_of(part.flight.answers, part.workers)
        if errors:
            error = errors[0] if fresh else self.located(errors[0])
            if fresh and error.env is not None:
                error.episode = error.step = 0
            if len(errors) > 1:
                error.add_note(f"{len(errors) - 1} more environments failed in the same call")
            local = self.fleet.local
            raise error from (local.last_exception if local else None)

    def _broken(self, violation: Violation) -> ContractViolation:
        worker = self.lockstep.holder(violation.env).index
        error = ContractViolation(
            violation.message, worker=worker, env=violation.env, field=violation.field
        )
        return self.located(error)

    def located(self, error: E) -> E:
        """Adds episode and step of the environment that an error names."""
        if error.env is not None:
            error.episode = self.progress.episodes[error.env]
            error.step = self.progress.step_of(error.env)
        return error

    # --- checkpoints -----------------------------------------------------------------------------

    def dump(self) -> Fields:
        """Returns what later steps and recoveries depend on, as plain data.

        Raises:
            StateError: there is no log to take it from.
        """
        return {
            "recovery": self.recovery.dump(),
            "chain": None if self._chain is None else self._chain.dump(),
            # A replay brings back an environment, not what went by pipe before.
            "piped": self.lockstep.rows.dump_piped(),
        }

    def load(self, plain: Fields) -> dict[int, str]:
        """Brings every environment to where `dump` found it.

        Returns:
            Those that could not be brought back, and why; they have begun new episodes.
        """
        if self._chain is not None and plain["chain"] is not None:
            self._chain.load(plain["chain"])
        failed = self.recovery.load(plain["recovery"])
        self.lockstep.rows.load_piped(plain["piped"], set(failed))
        return failed

    # --- arrays ----------------------------------------------------------------------------------

    def new_batch(self) -> Tree:
        """Returns an uninitialised batch of observations; what goes by pipe as objects `[N]`."""
        return self._batch_of([np.empty(shape, dtype) for shape, dtype in self._forms])

    def _batch_of(self, arrays: list[Array]) -> Tree:
        return arrays[0] if self._bare else assemble(self.space, iter(arrays))

    def new_rows(self) -> StepRows:
        """Returns uninitialised rows for one lockstep."""
        flags = [np.empty(self.n, np.bool_) for _ in range(3)]
        return StepRows(self.new_batch(), np.empty(self.n, np.float64), *flags)

    def read_observations(self) -> Tree:
        """Returns a checked copy of the observations in the slab."""
        observations = self.new_batch()
        arrays = leaves(observations)
        self.lockstep.rows.read_observations(arrays)
        violation = check_observations(self.terms.contract, arrays, self._fields)
        if violation is not None:
            raise self._broken(violation)
        return observations
