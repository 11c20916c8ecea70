"""What a session's constructor is given: checked first, each refusal with what to write instead."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import gymnasium

from vecsess.contract import Contract
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.policy import RestartPolicy
from vecsess.wire.values import Given

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


def check_arguments(
    env: Given, contract: Given, timeouts: Given, restart_policy: Given, preload: Given
) -> None:
    """Refuses what is of another type.

    Raises:
        TypeError: one of them.
    """
    for name, value, kind in (
        ("contract", contract, Contract),
        ("timeouts", timeouts, Timeouts),
        ("restart_policy", restart_policy, RestartPolicy),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name}: expected such as {_EXAMPLES[name]}, got {value!r}")
    if isinstance(preload, str):
        raise TypeError(f"preload: expected names of modules, such as [{preload!r}], got a text")
    if isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv):
        raise TypeError(
            f"env: expected what makes an environment, got {env}, which is one; each worker makes "
            "its own: pass an id, or a callable such as lambda: gymnasium.make(...)"
        )
