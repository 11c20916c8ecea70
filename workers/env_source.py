"""Makes the environments of a worker from what the manager sent."""

from __future__ import annotations

import importlib
import itertools
import mmap
import os
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from vecsess.wire.leaves import UnsupportedSpaceError
from vecsess.wire.values import Env, Fields, Given

Maker = Callable[[], Env]


class BuildError(Exception):
    """An environment could not be made; `reason` is what its constructor raised."""

    def __init__(self, row: int, reason: Exception) -> None:
        super().__init__(f"row {row} could not be built")
        self.row = row
        self.reason = reason


def unpacked(source: bytes, fd: int, sizes: list[int]) -> Given:
    """Returns what was pickled; its arrays stay in the memory that all workers share.

    What a worker writes to becomes its own, page by page.

    Args:
        source: the pickle, where it is small.
        fd: else of a memory with the pickle and its buffers; closed here. -1 for none.
        sizes: of the pickle and of each buffer.
    """
    if fd < 0:
        return pickle.loads(source)  # noqa: S301  # from the manager: code goes this way only
    memory = memoryview(mmap.mmap(fd, sum(sizes), flags=mmap.MAP_PRIVATE))
    os.close(fd)
    ends = list(itertools.accumulate(sizes))
    head, *buffers = (memory[end - size : end] for end, size in zip(ends, sizes, strict=True))
    return pickle.loads(head, buffers=buffers)  # noqa: S301  # likewise


def makers(source: Given, first_env: int, rows: int) -> list[Maker]:
    """Returns one zero-argument callable per row.

    Args:
        source: `("id", id, spec or None, kwargs)` or `("callables", list)`, the
            list with one entry for each environment, or with one for all; either may stand behind
            `"registered", registrations`, what is in the trainer's registry.
        first_env: index of the first row's environment.
        rows: how many environments this worker holds.
    """
    kind, *parts = source
    return select(kind, parts, first_env, rows)


def select(kind: str, parts: list[Given], first_env: int, rows: int) -> list[Maker]:
    """Returns the makers of these rows from a source that is not pickled."""
    if kind == "registered":
        register(*parts[0])
        kind, *parts = parts[1:]
    if kind == "id":
        return [lambda: _make(*parts)] * rows
    callables = parts[0]
    return [callables[env % len(callables)] for env in range(first_env, first_env + rows)]


def register(plain: bytes, others: list[tuple[Given, ...]]) -> None:
    """Registers what the trainer has registered.

    Args:
        plain: a pickle of specs.
        others: for each spec that is no plain data its plain fields, a pickle of it or None, and
            why there is none.
    """
    for spec in pickle.loads(plain):  # noqa: S301  # from the manager
        gymnasium.registry[spec.id] = spec
    for fields, packed, why in others:
        point = EntryPoint(fields["id"], packed, why)
        gymnasium.registry[fields["id"]] = EnvSpec(entry_point=point, **fields)


class EntryPoint:
    """What makes environments of an id, unpickled only when somebody asks for that id.

    Args:
        env_id: as the trainer registered it.
        packed: a pickle of its spec; None where it could not be pickled.
        why: in that case.
    """

    def __init__(self, env_id: str, packed: bytes | None, why: str) -> None:
        self._id, self._packed, self._why = env_id, packed, why

    @property
    def metadata(self) -> Given:
        """What the class of the environments has as such, where `gymnasium.make` looks for it."""
        return self._load()[0].metadata

    def __call__(self, **kwargs: Given) -> Env:
        """Returns an environment."""
        creator, defaults = self._load()
        return creator(**{**defaults, **kwargs})  # type: ignore[no-any-return]

    def _load(self) -> tuple[Any, Fields]:
        if self._packed is None:
            raise TypeError(
                f"the trainer has registered {self._id!r}, but what makes it can't be sent to a "
                f"worker: {self._why}. Register it as a text 'module:Class', or use workers=0"
            )
        spec = pickle.loads(self._packed)  # noqa: S301  # from the manager
        point = spec.entry_point
        creator = load_env_creator(point) if isinstance(point, str) else point
        return creator, spec.kwargs


def _make(env_id: str, spec: Given, kwargs: Fields) -> Env:
    if env_id.startswith("ALE/") and env_id not in gymnasium.registry:
        # Atari registers its ids when it is asked to, not by being installed.
        gymnasium.register_envs(importlib.import_module("ale_py"))
    return gymnasium.make(spec if spec is not None else env_id, **kwargs)


def build(maker: Maker) -> Env:
    """Returns the environment that `maker` makes.

    Raises:
        TypeError: it made something else.
        UnsupportedSpaceError: something else than a space is called one.
    """
    env = maker()
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            f"expected the callable to return a gymnasium.Env, got {type(env).__name__}; "
            "wrap other environments in a gymnasium.Env first"
        )
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, gymnasium.Space):
            raise UnsupportedSpaceError(
                f"expected {name} to be a gymnasium.Space, got {type(space).__name__}; supported "
                "are Box, Discrete, MultiDiscrete, MultiBinary, what is made of them, and Text"
            )
    return env
