"""Sessions by `gymnasium.make_vec`: each id that Gymnasium knows, again in the namespace vecsess.

    >>> import gymnasium, vecsess
    >>> with gymnasium.make_vec("vecsess/CartPole-v1", num_envs=4, workers=2) as envs:
    ...     envs.reset(seed=0)[0].shape
    (4, 4)

An id with a namespace of its own takes a dash for it: "vecsess/ALE-Pong-v5". "vecsess/Env-v0" takes
any: `make_vec("vecsess/Env-v0", env="module:MyEnv-v0")`, or a callable.

The arguments are those of `VecCheckedSession`; what it does not know goes to `gymnasium.make`. Out
of range Box actions reach the environments, as with Gymnasium's own classes.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import gymnasium

NAMESPACE = "vecsess"
ANY = "Env-v0"


def register_vector_envs() -> None:
    """Registers all ids that Gymnasium knows by now; `import vecsess` has done so once.

    To be called after a package was imported that registers environments, such as `ale_py`.

    Example:
        >>> register_vector_envs()
        >>> "vecsess/CartPole-v1" in gymnasium.registry
        True
    """
    for env_id in [*gymnasium.registry, ANY]:
        ours = f"{NAMESPACE}/{env_id.replace('/', '-')}"
        if env_id.startswith(f"{NAMESPACE}/") or ours in gymnasium.registry:
            continue
        gymnasium.register(ours, vector_entry_point=f"{__name__}:{env_id}")


def make_session(env_id: str, num_envs: int = 1, **arguments: Any) -> Any:
    """Returns the session that `gymnasium.make_vec` asks for.

    Args:
        env_id: as for `gymnasium.make`.
        num_envs: how many environments.
        arguments: for `VecCheckedSession`, or for `gymnasium.make`.
    """
    from vecsess.contract import Contract
    from vecsess.session.vector import VecCheckedSession

    known = inspect.signature(VecCheckedSession).parameters
    own = {name: arguments.pop(name) for name in list(arguments) if name in known}
    env = own.pop("env", env_id)
    if env == ANY:
        raise TypeError('"vecsess/Env-v0" wants to know which: env=...')
    contract = own.pop("contract", None) or Contract(action_range="allow")
    make_kwargs = {**(own.pop("make_kwargs", None) or {}), **arguments}
    return VecCheckedSession(
        env, num_envs, contract=contract, make_kwargs=make_kwargs or None, **own
    )


def __getattr__(name: str) -> Any:
    """Returns the vector entry point of an id."""
    if name == ANY or name in gymnasium.registry:
        return partial(make_session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
