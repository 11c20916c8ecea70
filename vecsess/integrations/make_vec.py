"""Sessions by `gymnasium.make_vec`: each id that Gymnasium knows, again in the namespace vecsess.

    >>> import gymnasium, vecsess
    >>> with gymnasium.make_vec("vecsess/CartPole-v1", num_envs=4, workers=2) as envs:
    ...     envs.reset(seed=0)[0].shape
    (4, 4)

An id with a namespace of its own takes a dash for it: "vecsess/ALE-Pong-v5". "vecsess/Env-v0" takes
any: `make_vec("vecsess/Env-v0", env="module:MyEnv-v0")`, or a callable.

The arguments are those of `VecCheckedSession`; what it does not know goes to `gymnasium.make`.
Gymnasium lets no `wrappers` and no `vector_kwargs` through to such ids: `make_vec` of this module
takes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

Env = gymnasium.Env[Any, Any]
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


def make_session(env_id: Any, num_envs: int = 1, **arguments: Any) -> Any:
    """Returns the session that `gymnasium.make_vec` asks for.

    Args:
        env_id: as for `gymnasium.make`.
        num_envs: how many environments.
        arguments: for `VecCheckedSession`, or for `gymnasium.make`.
    """
    from vecsess.session.vector import VecCheckedSession

    known = _own_names()
    own = {name: arguments.pop(name) for name in list(arguments) if name in known}
    env = own.pop("env", env_id)
    if env == ANY:
        raise TypeError('"vecsess/Env-v0" wants to know which: env=...')
    make_kwargs = {**(own.pop("make_kwargs", None) or {}), **arguments}
    return VecCheckedSession(env, num_envs, make_kwargs=make_kwargs or None, **own)


def make_vec(
    env_id: str | EnvSpec,
    num_envs: int = 1,
    vectorization_mode: Any = None,
    vector_kwargs: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[Env], Env]] = (),
    **kwargs: Any,
) -> Any:
    """Returns a session; takes what `gymnasium.make_vec` takes, in its order.

    Args:
        env_id: as for `gymnasium.make`.
        num_envs: how many environments.
        vectorization_mode: any: a session's own way is meant.
        vector_kwargs: arguments for the session.
        wrappers: applied to each environment, in this order.
        kwargs: for the session, or for `gymnasium.make`.

    Example:
        >>> with make_vec("CartPole-v1", 2, vector_kwargs={"workers": 0}) as envs:
        ...     envs.num_envs
        2
    """
    del vectorization_mode
    arguments = {**kwargs, **(vector_kwargs or {})}
    if not wrappers:
        return make_session(env_id, num_envs, **arguments)
    known = {name: arguments.pop(name) for name in list(arguments) if name in _own_names()}
    maker = partial(_make_wrapped, env_id, {**(known.pop("make_kwargs", None) or {}), **arguments})
    return make_session(ANY, num_envs, env=partial(maker, tuple(wrappers)), **known)


def _make_wrapped(env_id: Any, kwargs: dict[str, Any], wrappers: tuple[Any, ...]) -> Any:
    env = gymnasium.make(env_id, **kwargs)
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def _own_names() -> set[str]:
    """Returns the names of the session's own arguments."""
    from vecsess.session.arguments import AsyncArguments
    from vecsess.session.vector import VecCheckedSession

    return {*inspect.signature(VecCheckedSession).parameters, *AsyncArguments.__annotations__}


def __getattr__(name: str) -> Any:
    """Returns the vector entry point of an id."""
    if name == ANY or name in gymnasium.registry:
        return partial(make_session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
