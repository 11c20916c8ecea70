"""N environments in lockstep, each transition checked: the session that trainers use."""

from __future__ import annotations

import enum
import os
import pickle
import secrets
import threading
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array

from vecsess.actions import ActionCheck
from vecsess.contract import (
    Contract,
    Transition,
    Violation,
    check_flags,
    check_observations,
    check_rewards,
)
from vecsess.errors import (
    ClosedError,
    ContractViolation,
    EnvError,
    NoPendingCallError,
    PendingCallError,
    StateError,
    ThreadError,
    VecsessError,
)
from vecsess.launch import EnvLike, Source, cores, group, launch
from vecsess.recovery import FailureReaction, Incident, Reaction, Reactions, Recovery, RestartPolicy
from vecsess.reports import failures_of, values_of, warn_once
from vecsess.rollout import Finals, StepRows
from vecsess.supervisor import Timeouts, Worker
from vecsess.tree import Tree, leaves, map_leaves
from vecsess.wire.messages import Close, Reset
from vecsess.wire.patience import SPIN_NS
from vecsess.wire.spaces import assemble, field_name, leaves_of

Array = npt.NDArray[Any]
Infos = dict[str, Any]
E = TypeVar("E", bound=VecsessError)

NO_INFOS, FINAL_INFOS, ALL_INFOS = 0, 1, 2


class _State(enum.Enum):
    """What a session waits for; the value is what an error says of it."""

    NEW = "it has not been reset yet"
    READY = "it is ready to step"
    STEPPING = "a step is under way"
    RESETTING = "a reset is under way"
    BROKEN = "its last call failed"
    CLOSED = "it was closed"


class VecCheckedSession(VectorEnv[Any, Any, Any]):
    """N Gymnasium environments in worker processes, stepped together, every transition checked.

    It is a `gymnasium.vector.VectorEnv`, and the session that `collect_rollout` fills batches
    from. Whatever `workers` is, the results are the same, bit for bit, for environments whose
    randomness is in `np_random`.

    Args:
        env: an id (also `module:EnvId`), a zero-argument callable that returns a `gymnasium.Env`,
            or a sequence of n such callables.
        n: how many environments.
        make_kwargs: arguments for `gymnasium.make`, where `env` is an id.
        workers: None for one process per environment, a number to group them, "auto" for one
            process per core, 0 for the trainer's own process (no protection, no deadlines).
        contract: what a transition must satisfy.
        preload: modules that are imported once, before the workers are forked.
        timeouts: how long each call of an environment may take.
        start_method: "fork" from a fork server, or "spawn" for what can't be forked.
        on_crash: what to do about a worker that died or missed a deadline: bring its environments
            back by "replay", "truncate" their episodes, or "raise".
        on_error: what to do about an environment that raised: "raise", "truncate" its episode, or
            "restart" its worker too.
        on_violation: likewise for a transition that broke the contract.
        on_limit: what to do when `restart_policy` is used up: "raise", or "quarantine" the
            worker, whose rows stay masked while the others go on.
        restart_policy: how often workers are restarted, and how long a replay may take.

    Raises:
        EnvError: an environment could not be made; also the builtin exception that it raised.
        SpaceError: a space that can't be carried, or spaces that do not agree.
        SpawnError: the workers could not be started.

    Example:
        >>> with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        ...     observations, infos = vec.reset(seed=0)
        ...     observations.shape
        (4, 4)
    """

    def __init__(
        self,
        env: EnvLike = "CartPole-v1",
        n: int = 16,
        *,
        make_kwargs: dict[str, Any] | None = None,
        workers: int | str | None = None,
        contract: Contract | None = None,
        preload: Sequence[str] = (),
        timeouts: Timeouts | None = None,
        start_method: str = "fork",
        on_crash: Reaction = "replay",
        on_error: FailureReaction = "raise",
        on_violation: FailureReaction = "raise",
        on_limit: Literal["raise", "quarantine"] = "raise",
        restart_policy: RestartPolicy | None = None,
    ) -> None:
        self._state = _State.CLOSED  # until all of it stands: `__del__` may come before
        if type(n) is not int or n < 1:
            raise ValueError(f"n: expected a positive number of environments, got {n!r}")
        self._thread = threading.get_ident()
        self._contract = contract or Contract()
        self._timeouts = timeouts or Timeouts()
        groups = group(n, workers)
        settings = {
            "autoreset_mode": "same_step",
            "exact": self._contract.dtype == "exact",
            "keep_rng": True,
            "spin_ns": SPIN_NS if len(groups) <= cores() else 0,
        }
        source = Source.of(env, make_kwargs, n)
        launched = launch(
            source, groups, n, settings, self._timeouts, preload, start_method
        )
        self._lockstep, self._supervisor = launched.lockstep, launched.supervisor
        self._local = launched.local
        self._describe(launched.description, n)
        self._episodes = np.zeros(n, np.int64)  # how many each environment has finished
        self._begun = np.zeros(n, np.int64)  # the lockstep at which its episode began
        self._steps = 0
        self._last: list[Array] = []  # the observations given out last, by reference
        self._reactions = Reactions(
            on_crash=on_crash, on_error=on_error, on_violation=on_violation, on_limit=on_limit
        )
        self._recovery = Recovery(launched, n, "same_step", self._reactions, restart_policy)
        self._warned: set[str] = set()
        self.noise_seed = secrets.randbits(63)
        self.noise_counter = 0
        self._state = _State.NEW
        _sessions.add(self)

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

    # --- Gymnasium -------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Tree, Infos]:
        """Resets every environment.

        Args:
            seed: an int gives environment i the seed `seed + i`; a sequence one each; None lets
                each go on with its own stream.
            options: passed on to every environment.

        Returns:
            Observations `[N, *obs]` of the space's dtype, and infos as Gymnasium's.

        Raises:
            EnvError: an environment raised; the session can be reset again.
            ContractViolation: an observation is not of its space's form, or not finite.
        """
        self._require(_State.NEW, _State.READY, _State.BROKEN, _State.STEPPING, _State.RESETTING)
        self._begin_reset(seed, options, ALL_INFOS)
        return self._finish_reset()

    def step(self, actions: Any) -> tuple[Tree, Array, Array, Array, Infos]:
        """Steps every environment; one whose episode ends is reset in the same step.

        Args:
            actions: `[N, *action]`, checked before any worker is told.

        Returns:
            Observations `[N, *obs]` (the reset's where an episode ended), rewards `[N]` float64,
            terminations and truncations `[N]` bool, infos with `final_obs` and `final_info`.

        Raises:
            ActionError: not a batch of the action space; nothing has happened.
            EnvError: an environment raised; reset before the next step.
            ContractViolation: a transition broke the contract; reset before the next step.
            WorkerError: a worker died, missed a deadline, or breached the protocol.
        """
        self._begin_step(actions, ALL_INFOS)
        return self._finish_step(None)

    def step_async(self, actions: Any) -> None:
        """Sends the actions without waiting for what comes of them."""
        self._begin_step(actions, ALL_INFOS)

    def step_wait(self, timeout: float | None = None) -> tuple[Tree, Array, Array, Array, Infos]:
        """Waits for what `step_async` began.

        Args:
            timeout: in seconds; past it the step stays pending: wait again, or reset.

        Raises:
            TimeoutError: the timeout passed.
        """
        if self._state is not _State.STEPPING:
            raise NoPendingCallError("expected step_async() before step_wait()")
        return self._finish_step(timeout)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the workers; `VectorEnv.close` calls it once."""
        del kwargs
        if self._state is _State.CLOSED:
            return
        state, self._state = self._state, _State.CLOSED
        _sessions.discard(self)
        if self._supervisor is None:
            self._local.channel.close()
            return
        try:
            if state in (_State.NEW, _State.READY) and self._timeouts.close_s > 0:
                self._lockstep.command(self._close_message, self._timeouts.close_s)
        except (VecsessError, OSError) as error:
            warnings.warn(f"a worker did not close in order: {error}", ResourceWarning, stacklevel=2)
        finally:
            self._supervisor.close(self._timeouts.close_s)

    # --- checked ---------------------------------------------------------------------------------

    @property
    def incidents(self) -> list[Incident]:
        """What went wrong so far, and what was done about it."""
        return self._recovery.incidents

    @property
    def started(self) -> bool:
        """Whether the environments have been reset and can be stepped."""
        return self._state is _State.READY

    def start(self, seed: int | Sequence[int | None] | None = None) -> Tree:
        """Resets every environment and returns only the observations `[N, *obs]`."""
        self._require(_State.NEW, _State.READY, _State.BROKEN, _State.STEPPING, _State.RESETTING)
        self._begin_reset(seed, None, NO_INFOS)
        return self._finish_reset()[0]

    def observe(self) -> Tree:
        """Returns a copy of the observations to act on next, `[N, *obs]`."""
        self._require(_State.READY)
        return self._read_observations()

    def step_checked(self, actions: Any) -> Transition:
        """Steps every environment and returns the whole transition.

        Args:
            actions: `[N, *action]`, checked before any worker is told.

        Returns:
            A batch `[N, ...]`; `next_observation` is the true one, before any auto-reset.

        Raises:
            As `step` does.
        """
        self._require(_State.READY)
        observation = self._read_observations()
        rows = self._new_rows()
        finals = self.step_into(actions, rows)
        following = rows.next_observations
        if finals is not None:
            following = map_leaves(np.copy, following)
            for leaf, last in zip(leaves(following), leaves(finals.observations), strict=True):
                leaf[finals.envs] = last
        return Transition(
            observation,
            actions,
            rows.rewards,
            following,
            rows.terminated,
            rows.truncated,
            rows.valid,
        )

    def step_into(self, actions: Any, rows: StepRows) -> Finals | None:
        """Steps every environment, straight into the caller's arrays: what collection runs on.

        Args:
            actions: `[N, *action]`, checked before any worker is told.
            rows: C-contiguous arrays to write to.

        Returns:
            The final observations of the environments whose episode ended, None where none did.

        Raises:
            As `step` does.
        """
        self._begin_step(actions, NO_INFOS)
        return self._complete_step(rows, None)

    # --- one reset -------------------------------------------------------------------------------

    def _begin_reset(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None, infos: int
    ) -> None:
        seeds = _spread(seed, self.num_envs)
        packed = b"" if options is None else pickle.dumps(options)
        self._episodes[:] = 0
        self._begun[:] = self._steps
        self._recovery.begin_reset(seeds, packed, continued=self._state is _State.READY)

        def message(worker: Worker, seq: int) -> Reset:
            envs = slice(worker.first_env, worker.first_env + worker.rows)
            return Reset(seq, list(range(worker.rows)), seeds[envs], packed, infos)

        self._state = _State.RESETTING
        self._lockstep.begin(message, self._timeouts.reset_s)

    def _finish_reset(self, timeout_s: float | None = None) -> tuple[Tree, Infos]:
        self._gather(timeout_s)
        self._raise_failures()
        self._recovery.complete_reset()
        observations = self._read_observations()
        self._last = leaves(observations)
        infos = self._infos(None)
        self._state = _State.READY
        return observations, infos

    # --- one step --------------------------------------------------------------------------------

    def _begin_step(self, actions: Any, infos: int) -> None:
        if self._state is not _State.READY or threading.get_ident() != self._thread:
            self._require(_State.READY)
        checked = self._check_actions(actions)
        self._recovery.begin_step(checked)
        self._state = _State.STEPPING
        self._lockstep.begin_step(checked, infos)

    def _finish_step(
        self, timeout_s: float | None
    ) -> tuple[Tree, Array, Array, Array, Infos]:
        rows = self._new_rows()
        finals = self._complete_step(rows, timeout_s)
        infos = self._infos(finals) if finals is not None or self._lockstep.answers else {}
        return rows.next_observations, rows.rewards, rows.terminated, rows.truncated, infos

    def _complete_step(self, rows: StepRows, timeout_s: float | None) -> Finals | None:
        self._gather(timeout_s)
        if self._lockstep.answers:
            self._settle_failures()
        ended = self._lockstep.read_step(rows)
        finals = None if ended is None else self._finals(ended)
        while (violation := self._violation(rows, finals)) is not None:
            self._settle_violation(violation)
            ended = self._lockstep.read_step(rows)
            finals = None if ended is None else self._finals(ended)
        self._recovery.complete_step(ended)
        if self._recovery.lost:
            finals = self._mark_lost(rows, finals)
        self._steps += 1
        if finals is not None:
            self._episodes[finals.envs] += 1
            self._begun[finals.envs] = self._steps
        self._last = leaves(rows.next_observations)
        self._state = _State.READY
        return finals

    def _mark_lost(self, rows: StepRows, finals: Finals | None) -> Finals:
        """Turns the rows of lost environments into marked truncations.

        Returns:
            The finals with the last good observation of each of them.
        """
        lost = sorted(self._recovery.lost)
        rows.rewards[lost], rows.valid[lost] = 0.0, False
        rows.terminated[lost], rows.truncated[lost] = False, True
        envs = np.array(lost, np.int64)
        arrays = [leaf[lost] for leaf in self._last]
        if finals is not None:
            envs = np.concatenate([finals.envs, envs])
            pairs = zip(leaves(finals.observations), arrays, strict=True)
            arrays = [np.concatenate(pair) for pair in pairs]
        order = np.argsort(envs)
        parts = iter([array[order] for array in arrays])
        return Finals(envs[order], assemble(self.single_observation_space, parts))

    def _violation(self, rows: StepRows, finals: Finals | None) -> Violation | None:
        """Returns the first breach of the contract: flags, reward, observation, next observation."""
        contract = self._contract
        if contract.require_exclusive_done_flags:
            violation = check_flags(contract, rows.terminated, rows.truncated)
            if violation is not None:
                return violation
        violation = check_rewards(contract, rows.rewards)
        if violation is None:
            violation = check_observations(
                contract, leaves(rows.next_observations), self._next_fields
            )
        if violation is None and finals is not None:
            violation = check_observations(
                contract, leaves(finals.observations), self._next_fields
            )
            if violation is not None:
                env = int(finals.envs[violation.env])
                return Violation(env, violation.field, violation.message)
        return violation

    def _finals(self, ended: Array) -> Finals:
        arrays = iter(self._lockstep.read_finals(ended))
        return Finals(ended, assemble(self.single_observation_space, arrays))

    # --- what came back --------------------------------------------------------------------------

    def _gather(self, timeout_s: float | None) -> None:
        """Waits for the replies; whatever fails leaves a session that can be reset."""
        try:
            self._lockstep.gather(timeout_s)
        except TimeoutError as error:
            if isinstance(error, VecsessError):
                self._state = _State.BROKEN
                raise self._located(error) from error.__cause__
            raise
        except VecsessError as error:
            self._state = _State.BROKEN
            raise self._located(error) from error.__cause__

    def _settle_failures(self) -> None:
        """Raises what environments raised, or cuts their episodes off, as the session was told."""
        warn_once(self._lockstep.answers, self._lockstep.workers, self._warned)
        errors = failures_of(self._lockstep.answers, self._lockstep.workers)
        for error in errors:
            form = isinstance(error, ContractViolation)
            reaction = self._reactions.on_violation if form else self._reactions.on_error
            if reaction == "raise":
                self._raise_failures()
            self._recovery.settle(self._located(error), reaction)

    def _settle_violation(self, violation: Violation) -> None:
        error = self._broken(violation)
        if self._reactions.on_violation == "raise":
            raise error
        self._recovery.settle(error, self._reactions.on_violation)

    def _raise_failures(self) -> None:
        warn_once(self._lockstep.answers, self._lockstep.workers, self._warned)
        errors = failures_of(self._lockstep.answers, self._lockstep.workers)
        if errors:
            self._state = _State.BROKEN
            error = self._located(errors[0])
            if len(errors) > 1:
                error.add_note(f"{len(errors) - 1} more environments failed in the same call")
            raise error from (self._local.last_exception if self._local else None)

    def _broken(self, violation: Violation) -> ContractViolation:
        self._state = _State.BROKEN
        worker = int(self._lockstep.worker_of[violation.env])
        error = ContractViolation(
            violation.message, worker=worker, env=violation.env, field=violation.field
        )
        return self._located(error)

    def _located(self, error: E) -> E:
        """Adds episode and step of the environment that an error names."""
        if error.env is not None:
            error.episode = int(self._episodes[error.env])
            error.step = int(self._steps - self._begun[error.env])
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

    # --- life ------------------------------------------------------------------------------------

    def _require(self, *allowed: _State) -> None:
        """Raises the error that says why this call can't be made now."""
        if threading.get_ident() != self._thread:
            raise ThreadError(
                "expected a call from the thread that made this session, got one from "
                f"{threading.current_thread().name!r}; make a session for each thread"
            )
        if self._state in allowed:
            return
        if self._state is _State.CLOSED:
            raise ClosedError("this session was closed; make a new one")
        if self._state in (_State.STEPPING, _State.RESETTING):
            raise PendingCallError(f"{self._state.value}; wait for it, or reset()")
        raise StateError(f"expected reset() first: {self._state.value}")

    def __enter__(self) -> VecCheckedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_message(self, worker: Worker, seq: int) -> Close | None:
        return None if worker.dead else Close(seq)

    def __del__(self) -> None:
        if getattr(self, "_state", _State.CLOSED) is not _State.CLOSED:
            warnings.warn(
                f"{self!r} was not closed; use it in a `with`, or call close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self.close()

    def __repr__(self) -> str:
        workers = 0 if self._supervisor is None else len(self._supervisor.workers)
        return f"VecCheckedSession({self.num_envs} environments, {workers} workers)"


def _spread(seed: int | Sequence[int | None] | None, n: int) -> list[int | None]:
    """Returns a seed for each environment, as Gymnasium's vector environments do."""
    if seed is None:
        return [None] * n
    if isinstance(seed, int | np.integer):
        return [int(seed) + env for env in range(n)]
    if len(seed) != n:
        raise ValueError(f"seed: expected one for each of the {n} environments, got {len(seed)}")
    return [None if part is None else int(part) for part in seed]


_sessions: weakref.WeakSet[VecCheckedSession] = weakref.WeakSet()


def _abandon_sessions() -> None:
    """In a forked copy of the trainer: let go of what belongs to the parent."""
    for session in list(_sessions):
        session._state = _State.CLOSED  # noqa: SLF001  # this module's own
        if session._supervisor is not None:  # noqa: SLF001
            session._supervisor.abandon()  # noqa: SLF001
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_sessions)
