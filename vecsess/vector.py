"""N environments in lockstep, each transition checked: the session that trainers use."""

from __future__ import annotations

import os
import secrets
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AutoresetMode

from vecsess.checkpoint import pack_session, recipe_of, unpack_session
from vecsess.contract import Contract, Transition
from vecsess.errors import NoPendingCallError, StateError, VecsessError
from vecsess.launch import EnvLike, Source, cores, group, launch
from vecsess.phase import Phase
from vecsess.recovery import FailureReaction, Incident, Reaction, Reactions, Recovery, RestartPolicy
from vecsess.rollout import Finals, StepRows
from vecsess.stepping import ALL_INFOS, NO_INFOS, Array, Infos, Stepping
from vecsess.supervisor import Timeouts, Worker
from vecsess.tree import Tree, leaves, map_leaves
from vecsess.wire.messages import Close
from vecsess.wire.patience import SPIN_NS


class VecCheckedSession(Stepping):
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
        autoreset_mode: Gymnasium's, or its name: "same_step", "next_step" or "disabled";
            `step_checked` and collection need "same_step".
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
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        preload: Sequence[str] = (),
        timeouts: Timeouts | None = None,
        start_method: str = "fork",
        on_crash: Reaction = "replay",
        on_error: FailureReaction = "raise",
        on_violation: FailureReaction = "raise",
        on_limit: Literal["raise", "quarantine"] = "raise",
        restart_policy: RestartPolicy | None = None,
    ) -> None:
        self._state = Phase.CLOSED  # until all of it stands: `__del__` may come before
        if type(n) is not int or n < 1:
            raise ValueError(f"n: expected a positive number of environments, got {n!r}")
        contract, timeouts = contract or Contract(), timeouts or Timeouts()
        reactions = Reactions(
            on_crash=on_crash, on_error=on_error, on_violation=on_violation, on_limit=on_limit
        )
        groups = group(n, workers)
        mode = _autoreset_mode(autoreset_mode)
        settings = {
            "autoreset_mode": mode.name.lower(),
            "exact": contract.dtype == "exact",
            "keep_rng": True,
            "spin_ns": SPIN_NS if len(groups) <= cores() else 0,
        }
        source = Source.of(env, make_kwargs, n)
        launched = launch(source, groups, n, settings, timeouts, preload, start_method)
        self._supervisor = launched.supervisor
        try:
            recovery = Recovery(launched, n, mode.name.lower(), reactions, restart_policy)
            super().__init__(launched, n, contract, timeouts, reactions, recovery)
        except BaseException:
            launched.abandon()
            raise
        self.metadata["autoreset_mode"] = mode
        self.noise_seed = secrets.randbits(63)
        self.noise_counter = 0
        self._recipe = {
            "env": env if isinstance(env, str) else None,
            "n": n,
            "make_kwargs": make_kwargs if isinstance(env, str) else None,
        }
        _sessions.add(self)

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
        self._require(Phase.NEW, Phase.READY, Phase.BROKEN, Phase.STEPPING, Phase.RESETTING)
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
        if self._state is not Phase.STEPPING:
            raise NoPendingCallError("expected step_async() before step_wait()")
        return self._finish_step(timeout)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the workers; `VectorEnv.close` calls it once."""
        del kwargs
        if self._state is Phase.CLOSED:
            return
        state, self._state = self._state, Phase.CLOSED
        _sessions.discard(self)
        if self._supervisor is None:
            self._local.channel.close()
            return
        self._lockstep.unwatch()  # whoever is lost now need not come back
        try:
            if state in (Phase.NEW, Phase.READY) and self._timeouts.close_s > 0:
                self._lockstep.command(self._close_message, self._timeouts.close_s)
        except (VecsessError, OSError) as error:
            warnings.warn(
                f"a worker did not close in order: {error}", ResourceWarning, stacklevel=2
            )
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
        return self._state is Phase.READY

    def start(self, seed: int | Sequence[int | None] | None = None) -> Tree:
        """Resets every environment and returns only the observations `[N, *obs]`."""
        self._require(Phase.NEW, Phase.READY, Phase.BROKEN, Phase.STEPPING, Phase.RESETTING)
        self._begin_reset(seed, None, NO_INFOS)
        return self._finish_reset()[0]

    def observe(self) -> Tree:
        """Returns a copy of the observations to act on next, `[N, *obs]`."""
        self._require(Phase.READY)
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
        self._require(Phase.READY)
        mode = self.metadata["autoreset_mode"]
        if mode is not AutoresetMode.SAME_STEP:
            raise StateError(
                f"step_checked: expected autoreset_mode='same_step', got {mode.name.lower()!r}; "
                "in others a row may be no transition. Use step(), or make the session without it"
            )
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

    # --- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """Returns the session as plain data, which msgpack can pack: see `restore`.

        It holds the log of resets, actions and checksums, not the environments' memory, so it is
        small, and good on another day, in another process, with other `workers`.

        Raises:
            StateError: not between two steps, or without a log (`on_crash` is not "replay").
        """
        self._require(Phase.READY)
        return pack_session(self, self._recipe)

    @classmethod
    def restore(
        cls, data: dict[str, Any], env: EnvLike | None = None, **settings: Any
    ) -> VecCheckedSession:
        """Returns a session like the one that `checkpoint` was taken of, mid-episode.

        Every environment is brought back by replaying its log, and compared by checksum. One that
        does not come out the same begins a new episode; `unrestored` says which, and a warning.

        Args:
            data: what `checkpoint` returned.
            env: as for the constructor; needed where the environments came from callables.
            settings: as for the constructor, such as `workers`; the rest is as it was.

        Raises:
            StateError: `data` is not a checkpoint, or `env` is missing.
        """
        recipe = {**recipe_of(data), **settings}
        if env is None and recipe["env"] is None:
            raise StateError("expected env: the checkpoint's environments came from callables")
        session = cls(**{**recipe, "env": recipe["env"] if env is None else env})
        try:
            session._resume(data)
        except BaseException:
            session.close()
            raise
        return session

    @property
    def unrestored(self) -> dict[int, str]:
        """The environments that `restore` could not bring back, and why."""
        return self._unrestored

    def _resume(self, data: dict[str, Any]) -> None:
        self._unrestored = unpack_session(self, data)
        if self._unrestored:
            warnings.warn(
                f"environments {sorted(self._unrestored)} could not be restored and have begun "
                "new episodes; see `unrestored`",
                UserWarning,
                stacklevel=3,
            )
        self._state = Phase.READY
        self._lockstep.last = leaves(self._read_observations())

    # --- life ------------------------------------------------------------------------------------

    def __enter__(self) -> VecCheckedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_message(self, worker: Worker, seq: int) -> Close | None:
        return None if worker.dead else Close(seq)

    def __del__(self) -> None:
        if getattr(self, "_state", Phase.CLOSED) is not Phase.CLOSED:
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


def _autoreset_mode(given: AutoresetMode | str) -> AutoresetMode:
    """Returns the mode that is meant by Gymnasium's enum, its value, or its name."""
    for mode in AutoresetMode:
        if given in (mode, mode.value, mode.name.lower()):
            return mode
    names = [mode.name.lower() for mode in AutoresetMode]
    raise ValueError(f"autoreset_mode: expected one of {names}, got {given!r}")


_sessions: weakref.WeakSet[VecCheckedSession] = weakref.WeakSet()


def _abandon_sessions() -> None:
    """In a forked copy of the trainer: let go of what belongs to the parent."""
    for session in list(_sessions):
        session._state = Phase.CLOSED  # this module's own
        if session._supervisor is not None:
            session._supervisor.abandon()
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_sessions)
