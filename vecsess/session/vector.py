"""N environments in lockstep, each transition checked: the session that trainers use."""

from __future__ import annotations

import os
import secrets
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, Unpack

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from vecsess.contract import Contract, Finals, StepRows, Transition
from vecsess.errors import ClosedError, StateError
from vecsess.fleet.description import ObservationMode
from vecsess.fleet.health import WorkerHealth
from vecsess.fleet.plan import (
    Affinity,
    EnvLike,
    WorkerEnv,
)
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.policy import FailureReaction, Incident, Reaction, RestartPolicy
from vecsess.session.arguments import Arguments, AsyncArguments, StartMethod, taken_as_ours
from vecsess.session.checkpoint import (
    make_strangers,
    pack_session,
    read_recipe,
    unpack_session,
    write_recipe,
)
from vecsess.session.conventions import (
    NO_INFOS,
    AutoresetName,
    EpisodeOptions,
    EpisodeSeeds,
    InfoLevel,
    Seed,
)
from vecsess.session.engine import Engine
from vecsess.session.gate import STARTED, Phase
from vecsess.session.gym_vector import GymVector
from vecsess.session.signature import check_origin
from vecsess.tree import Tree, leaves, map_leaves
from vecsess.wire.values import Fields, Given


class VecCheckedSession(GymVector, VectorEnv[Any, Any, Any]):  # skrl looks at the direct bases
    """N Gymnasium environments in worker processes, stepped together, every transition checked.

    It is a `gymnasium.vector.VectorEnv`, and the session that `collect_rollout` fills batches
    from. Whatever `workers` is, the results are the same, bit for bit on one kind of CPU, for
    environments whose randomness is in `np_random`.

    Args:
        env: an id (also `module:EnvId`) or an `EnvSpec`, a zero-argument callable that returns a
            `gymnasium.Env`, or a sequence of n such callables.
        n: how many environments; None for as many as `env` has callables, else 16.
        make_kwargs: arguments for `gymnasium.make`, where `env` is an id.
        workers: None for one process per environment, a number to group them, "auto" for one
            process per core, 0 for the trainer's own process (no protection, no deadlines).
        contract: what a transition must satisfy.
        autoreset_mode: Gymnasium's, or its name: "same_step", "next_step" or "disabled";
            `step_checked` and collection need "same_step".
        observation_mode: "same" for equal observation spaces; "different" for such of one shape
            and dtype; or a pair (space of a batch, space of one environment).
        copy: False gives out the same observation arrays with each `reset` and `step`.
        infos: "all"; "final" for those of an episode's last step; "none" costs nothing.
        episode_seeds: "continue" lets an environment's own stream go on from episode to episode,
            as Gymnasium does; "per_episode" gives each a seed of its own: the first the one of
            `reset`, the others `vecsess.wire.episode_seeds.episode_seed(seed, env, episode)`. A
            callable `(seed, env, episode)` returns that seed, or None.
        episode_options: a dict, or a callable `(env, episode)` that returns one or None: the
            options of episodes for which `reset` gave none.
        preload: modules that are imported once, before the workers are forked.
        timeouts: how long each call of an environment may take.
        start_method: "fork" from a fork server, the default, or "spawn" for what can't be forked.
        on_crash: what to do about a worker that died or missed a deadline: bring its environments
            back by "replay", "truncate" their episodes, or "raise".
        on_error: what to do about an environment that raised: "raise", "truncate" its episode, or
            "restart" its worker too.
        on_violation: likewise for a transition that broke the contract.
        on_limit: what to do when `restart_policy` is used up: "raise", or "quarantine" the
            worker, whose rows stay masked while the others go on.
        restart_policy: how often workers are restarted, and how long a replay may take.
        memory_limit_bytes: a worker whose unique memory is more is replaced at the end of an
            episode, and its environments brought back: nothing is lost.
        max_episodes: likewise one whose environments have finished so many episodes together.
        affinity: "spread" ties workers to the cores in turn; core numbers, to these.
        niceness: how much nicer the workers are than the trainer, 0 to 19.
        first_env: index of the first environment, where the session is a part of a larger one:
            seeds, options, noise and policies count from it; errors and arrays from 0.
        worker_env: environment variables of the workers: a dict, or a callable that returns one
            for a worker's index; set before the modules of its environments are imported.
        pass_env: names of variables that workers get although they look like secrets: those like
            `*_TOKEN`, `*_KEY`, `*_SECRET` and `AWS_*` are kept from them.
        asynchronous: arguments of `AsyncVectorEnv`, taken as what they mean here.

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
        n: int | None = None,
        *,
        make_kwargs: Fields | None = None,
        workers: int | Literal["auto"] | None = None,
        contract: Contract | None = None,
        autoreset_mode: AutoresetMode | AutoresetName = AutoresetMode.SAME_STEP,
        observation_mode: ObservationMode = "same",
        copy: bool = True,
        infos: InfoLevel = "all",
        episode_seeds: EpisodeSeeds = "continue",
        episode_options: EpisodeOptions = None,
        preload: Sequence[str] = (),
        timeouts: Timeouts | None = None,
        start_method: StartMethod | None = None,
        on_crash: Reaction = "replay",
        on_error: FailureReaction = "raise",
        on_violation: FailureReaction = "raise",
        on_limit: Literal["raise", "quarantine"] = "raise",
        restart_policy: RestartPolicy | None = None,
        memory_limit_bytes: int | None = None,
        max_episodes: int | None = None,
        affinity: Affinity = None,
        niceness: int = 0,
        first_env: int = 0,
        worker_env: WorkerEnv = None,
        pass_env: Sequence[str] = (),
        **asynchronous: Unpack[AsyncArguments],
    ) -> None:
        named = locals()
        own = Arguments(**{field.name: named[field.name] for field in fields(Arguments)})
        self._fleet = fleet = own.fleet(*taken_as_ours(asynchronous, workers, start_method))
        try:
            super().__init__(Engine(fleet, own.count, own.terms))
        except BaseException:
            fleet.close(0.5, in_order=False)
            raise
        self._recipe = write_recipe(own.remembered())
        self._unrestored: dict[int, str] = {}
        self.first_env = first_env
        self.noise_seed = secrets.randbits(63)
        self.noise_counter = 0
        # Of the episodes under way, as collection counts them: the engine's own arrays, `[N]`.
        self.episode_returns = self.engine.episode_returns
        self.episode_lengths = self.engine.episode_lengths
        _sessions.add(self)

    # --- whole transitions -----------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether the environments have been reset and can be stepped."""
        return self._gate.phase in STARTED

    @property
    def contract(self) -> Contract:
        """What a transition must satisfy."""
        return self.engine.terms.contract

    def start(self, seed: Seed = None) -> Tree:
        """Resets every environment and returns only the observations `[N, *obs]`.

        What of them has no fixed shape, such as texts, comes as an array of N objects.
        """
        with self._gate.during("reset"):
            self.engine.begin_reset("reset", seed, None, NO_INFOS)
            return self.engine.finish_reset()

    def observe(self) -> Tree:
        """Returns a copy of the observations to act on next, `[N, *obs]`."""
        with self._gate.during("observe"):
            return self.engine.read_observations()

    def step_checked(self, actions: Tree) -> Transition:
        """Steps every environment and returns the whole transition.

        Args:
            actions: `[N, *action]`, checked before any worker is told.

        Returns:
            A batch `[N, ...]`; `next_observation` is the true one, before any auto-reset.

        Raises:
            VecsessError: as `step` does.
        """
        with self._gate.during("step_checked"):
            self._require_same_step("step_checked")
            observation = self.engine.read_observations()
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

    def step_into(self, actions: Tree, rows: StepRows) -> Finals | None:
        """Steps every environment, straight into the caller's arrays: what collection runs on.

        Args:
            actions: `[N, *action]`, checked before any worker is told.
            rows: C-contiguous arrays to write to.

        Returns:
            The final observations of the environments whose episode ended, None where none did.

        Raises:
            VecsessError: as `step` does.
        """
        engine = self.engine
        if not engine.same_step:
            self._require_same_step("step_into")
        with self._gate.during("step_into"):
            engine.begin_step(actions, NO_INFOS)
            return engine.finish_step(rows, None)

    def _require_same_step(self, verb: str) -> None:
        """Refuses what needs the reset in the same step."""
        if not self.engine.same_step:
            mode = self._conventions.autoreset_mode.name.lower()
            raise StateError(
                f"`{verb}`: expected autoreset_mode='same_step', got {mode!r}, where a row may be "
                "a reset and no transition. Use step(), or make the session without autoreset_mode"
            )

    # --- what is going on ------------------------------------------------------------------------

    @property
    def incidents(self) -> list[Incident]:
        """What went wrong so far, and what was done about it."""
        return self.engine.recovery.incidents

    def health(self) -> list[WorkerHealth]:
        """Returns how each worker is: memory, CPU, descriptors, steps, who is waited for.

        Cheap enough for every rollout, not for every step. `python -m vecsess top` shows it live.

        Example:
            >>> with VecCheckedSession("CartPole-v1", n=2) as vec:
            ...     [(worker.worker, worker.state) for worker in vec.health()]
            [(0, 'ready'), (1, 'ready')]
        """
        if self._gate.phase is Phase.CLOSED:
            raise ClosedError("health: this session was closed; make a new one")
        return self.engine.health.sample()

    @property
    def pids(self) -> tuple[int, ...]:
        """The process in which each environment lives now, `[N]`; costs next to nothing."""
        return tuple(w.pid for w in self._fleet.workers for _ in range(w.rows))

    def worker_states(self) -> dict[str, int]:
        """Returns how many workers are in each state; costs next to nothing."""
        return self.engine.health.states()

    # --- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self, *, since: int | None = None) -> Fields:
        """Returns the session as plain data, which msgpack can pack: see `restore`.

        It holds the log of resets, actions and checksums, not the environments' memory, so it is
        small, and good on another day, in another process, with other `workers`.

        Args:
            since: only what is new since that lockstep, for who puts logs together: no session can
                be restored from such a one, and it is not signed.

        Raises:
            StateError: not between two steps, or without a log (`on_crash` is not "replay").
        """
        with self._gate.during("checkpoint"):
            return pack_session(self, self._recipe, since=since)

    @classmethod
    def restore(
        cls,
        data: Fields,
        env: EnvLike | None = None,
        *,
        trusted: bool = False,
        **settings: Given,
    ) -> VecCheckedSession:
        """Returns a session like the one that `checkpoint` was taken of, mid-episode.

        It may hold pickles (of attributes that were set, of options), which are run where the
        environments are, with `workers=0` in the trainer. So `checkpoint` signs with a key of the
        user's own, and one that holds any is taken from nobody else.

        Every environment is brought back by replaying its log, and compared by checksum. One that
        does not come out the same begins a new episode; `unrestored` says which, and a warning.

        Args:
            data: what `checkpoint` returned.
            env: as for the constructor; needed where the environments came from callables.
            trusted: take it whoever wrote it, and run what it holds: it is a program then.
            settings: as for the constructor. What is not given is as it was, but for `workers`,
                `affinity` and `niceness`, which are this machine's. What was no plain data, such as
                a callable for `episode_seeds`, must be given again.

        Raises:
            StateError: `data` is not a checkpoint, it holds pickles and another user's signature,
                or none, or something is missing: it is named.
        """
        given = settings if env is None else {**settings, "env": env}
        arguments = read_recipe(data, given)
        own = trusted or check_origin(data)
        session = cls(**arguments) if own else make_strangers(cls, arguments, data)
        try:
            with session._gate.during("restore"):
                session._resume(data)
        except BaseException:
            session.close()
            raise
        return session

    @property
    def unrestored(self) -> dict[int, str]:
        """The environments that `restore` could not bring back, and why."""
        return self._unrestored

    def _resume(self, data: Fields) -> None:
        self._gate.tell()
        self._unrestored = unpack_session(self, data)
        if self._unrestored:
            warnings.warn(
                f"environments {sorted(self._unrestored)} could not be restored and have begun "
                "new episodes; see `unrestored`",
                UserWarning,
                stacklevel=3,
            )
        self.engine.lockstep.last = leaves(self.engine.read_observations())

    # --- life ------------------------------------------------------------------------------------

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the workers; `close` calls it once, and passes its arguments on.

        Args:
            timeout: for the environments to close, in seconds; None for `timeouts.close_s`. What
                is left then is killed.
            terminate: end the workers at once, without waiting for their environments to close.
        """
        if self._gate.phase is Phase.CLOSED:
            return
        pending = self._gate.unawaited
        with self._gate.during("close"):
            close_s = self.engine.terms.timeouts.close_s if timeout is None else timeout
            self._fleet.close(close_s, in_order=not terminate)
            self.engine.health.close()
            _sessions.discard(self)
        if pending:
            gymnasium.logger.warn(
                f"Calling `close` while waiting for a pending call to `{pending}` to complete."
            )

    def __reduce__(self) -> Given:
        raise TypeError(
            "a session can't be pickled or copied: it holds processes. Make another one, or "
            "restore() what checkpoint() returns"
        )

    def __enter__(self) -> VecCheckedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        gate = getattr(self, "_gate", None)  # without one it never stood
        if gate is not None and gate.phase is not Phase.CLOSED:
            warnings.warn(
                f"{self!r} was not closed; use it in a `with`, or call close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self.close()

    def __repr__(self) -> str:
        workers = len(self._fleet.workers) if self._fleet.renewable else 0
        spec = "" if self.spec is None else f"{self.spec.id}, "
        return f"VecCheckedSession({spec}num_envs={self.num_envs}, workers={workers})"


_sessions: weakref.WeakSet[VecCheckedSession] = weakref.WeakSet()


def _abandon_sessions() -> None:
    """In a forked copy of the trainer: let go of what belongs to the parent."""
    for session in list(_sessions):
        session._gate.abandon()  # this module's own
        session._fleet.abandon()
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_sessions)
