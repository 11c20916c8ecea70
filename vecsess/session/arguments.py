"""What a session's constructor is given: checked first, each refusal with what to write instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypedDict

import gymnasium
from gymnasium.vector import AutoresetMode

from vecsess.contract import Contract
from vecsess.fleet.description import ObservationMode
from vecsess.fleet.launch import Fleet
from vecsess.fleet.plan import (
    Affinity,
    EnvLike,
    Source,
    WorkerEnv,
    WorkerSettings,
    check_niceness,
    cores,
    cpus_in_turn,
    group,
)
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.policy import FailureReaction, Reaction, Reactions, RestartPolicy
from vecsess.recovery.recycling import check_limits
from vecsess.session.conventions import (
    AutoresetName,
    Conventions,
    EpisodeOptions,
    EpisodeSeeds,
    InfoLevel,
    autoreset_mode_of,
)
from vecsess.session.engine import Terms
from vecsess.wire.channel import SPIN_NS
from vecsess.wire.values import Fields, Given

_KINDS = {"contract": Contract, "timeouts": Timeouts, "restart_policy": RestartPolicy}
_EXAMPLES = {
    "contract": "Contract(reward_range=(-1, 1))",
    "timeouts": "Timeouts(step_s=5)",
    "restart_policy": "RestartPolicy(max_restarts=3)",
}


StartMethod = Literal["fork", "spawn"]


class AsyncArguments(TypedDict, total=False):
    """What `AsyncVectorEnv` takes beside `env_fns`, and what it means here.

    Attributes:
        context: "spawn" is `start_method="spawn"`; "fork" and "forkserver" are "fork".
        shared_memory: any; what fits into shared memory goes through it.
        daemon: True; workers end with the trainer, and may start processes of their own.
        max_concurrency: as `workers`.
        worker: None; the loop in a worker is vecsess's own.
    """

    context: str | None
    shared_memory: bool
    daemon: bool
    max_concurrency: int | None
    worker: Given


def taken_as_ours(
    given: AsyncArguments, workers: Given, start_method: StartMethod | None
) -> tuple[Any, str]:
    """Returns `workers` and `start_method` with what `AsyncVectorEnv`'s arguments say of them.

    Raises:
        TypeError: an argument that neither of both has.
        ValueError: one that has no meaning here.
    """
    unknown = sorted(given.keys() - AsyncArguments.__annotations__.keys())
    if unknown:
        raise TypeError(f"VecCheckedSession() got an unexpected keyword argument {unknown[0]!r}")
    if given.get("worker") is not None:
        raise ValueError("worker: expected None; wrap the environment to change what a worker does")
    if not given.get("daemon", True):
        raise ValueError("daemon: expected True; no worker may outlive the trainer")
    methods = {None: "fork", "fork": "fork", "forkserver": "fork", "spawn": "spawn"}
    context = given.get("context")
    if context not in methods:
        raise ValueError(f"context: expected one of {list(methods)}, got {context!r}")
    most = given.get("max_concurrency")
    return most if workers is None else workers, start_method or methods[context]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of a `VecCheckedSession`, by its names; what they come to.

    Raises:
        TypeError, ValueError: one of them is of another type, or is none of what there is.
    """

    env: EnvLike
    n: int | None
    make_kwargs: Fields | None
    contract: Contract | None
    autoreset_mode: AutoresetMode | AutoresetName
    observation_mode: ObservationMode
    copy: bool
    infos: InfoLevel
    episode_seeds: EpisodeSeeds
    episode_options: EpisodeOptions
    preload: Sequence[str]
    timeouts: Timeouts | None
    start_method: StartMethod | None
    on_crash: Reaction
    on_error: FailureReaction
    on_violation: FailureReaction
    on_limit: Literal["raise", "quarantine"]
    restart_policy: RestartPolicy | None
    memory_limit_bytes: int | None
    max_episodes: int | None
    affinity: Affinity
    niceness: int
    first_env: int
    worker_env: WorkerEnv
    pass_env: Sequence[str]

    def __post_init__(self) -> None:
        self._refuse_other_types()
        self.terms  # noqa: B018  # whatever it refuses is refused before anything is started

    def _refuse_other_types(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name}: expected such as {_EXAMPLES[name]}, got {value!r}")
        preload, env = self.preload, self.env
        if isinstance(preload, str):
            raise TypeError(
                f"preload: expected names of modules, such as [{preload!r}], got a text"
            )
        if isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv):
            raise TypeError(
                f"env: expected what makes an environment, got {env}, which is one; each worker "
                "makes its own: pass an id, or a callable such as lambda: gymnasium.make(...)"
            )

    @cached_property
    def count(self) -> int:
        """How many environments there are to be."""
        n, env = self.n, self.env
        if n is None:
            n = len(env) if isinstance(env, Sequence) and not isinstance(env, str) else 16
        if type(n) is not int or n < 1:
            raise ValueError(f"n: expected a positive number of environments, got {n!r}")
        return n

    @cached_property
    def terms(self) -> Terms:
        """On what terms they are stepped."""
        return Terms(
            contract=self.contract or Contract(),
            timeouts=self.timeouts or Timeouts(),
            reactions=Reactions(**_taken(self, Reactions)),
            restart_policy=self.restart_policy or RestartPolicy(),
            conventions=Conventions(
                **_taken(self, Conventions, "autoreset_mode"),
                autoreset_mode=autoreset_mode_of(self.autoreset_mode),
            ),
            **self._limits,
        )

    @property
    def _limits(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in ("memory_limit_bytes", "max_episodes")}

    def fleet(self, workers: int | Literal["auto"] | None, start_method: str) -> Fleet:
        """Starts the workers.

        Args:
            workers: as the session's.
            start_method: "fork" or "spawn".
        """
        groups = group(self.count, workers)
        check_limits(processes=bool(groups), **self._limits)
        contract = self.terms.contract
        settings = WorkerSettings(
            **self.terms.conventions.for_workers(),
            exact=contract.dtype == "exact",
            lenient=contract.form == "lenient",
            cpus=cpus_in_turn(self.affinity),
            niceness=check_niceness(self.niceness),
            spin_ns=SPIN_NS if len(groups) <= cores() else 0,
        )
        return Fleet(
            Source.of(self.env, self.make_kwargs, self.count),
            groups,
            self.count,
            settings,
            self.terms.timeouts,
            self.preload,
            start_method,
            self.observation_mode,
            self.worker_env,
            self.pass_env,
        )

    def remembered(self) -> Fields:
        """Returns what a checkpoint holds of them: all but what depends on the machine."""
        terms, machine = self.terms, ("affinity", "niceness")
        return {
            **_taken(self, Arguments, *machine),
            "n": self.count,
            "contract": terms.contract,
            "timeouts": terms.timeouts,
            "restart_policy": terms.restart_policy,
            "autoreset_mode": terms.conventions.autoreset_mode.name.lower(),
            "preload": list(self.preload),
            "pass_env": list(self.pass_env),
        }


def _taken(given: Arguments, kind: type[Any], *without: str) -> Fields:
    """Returns those arguments that a dataclass has as well."""
    names = (field.name for field in fields(kind))
    return {name: getattr(given, name) for name in names if name not in without}
