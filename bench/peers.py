"""The peers, each as its documentation shows it; installed or not, none is needed.

Peers are imported by name when they are opened: they are no dependency of ours, and most of them
have no types, so everything that comes from them is `Any`. To have all of them:

    pip install torch stable-baselines3 tianshou torchrl envpool
    pip install pettingzoo shimmy
    pip install --no-deps "gym<=0.23" pufferlib  # it asks for an old NumPy, and works without
"""

from __future__ import annotations

import importlib
import inspect
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecsess.bench.cases import Case
from vecsess.bench.contenders import Adapter, Contender, VectorAdapter


def _import(name: str) -> Any:
    return importlib.import_module(name)


def open_stable(case: Case, n: int, *, kind: str) -> Adapter:
    """Stable-Baselines3: its loop in one process, or a process each and everything by pickle."""
    vec = getattr(_import("stable_baselines3.common.vec_env"), kind)([case.make] * n)
    return VectorAdapter(vec, n, vec.seed)


class ShmemAdapter(VectorAdapter):
    """Tianshou, `ShmemVectorEnv`; it leaves auto-reset to its collector, so we do it here."""

    def __init__(self, case: Case, n: int) -> None:
        """Starts the workers."""
        vec = _import("tianshou.env").ShmemVectorEnv([case.make] * n)
        super().__init__(vec, n, vec.seed)
        self.step = self._step  # type: ignore[method-assign]

    def _step(self, actions: Any) -> None:
        """One lockstep, then a reset of those that are done."""
        _, _, terminated, truncated, _ = self._vec.step(actions)
        done = np.flatnonzero(terminated | truncated)
        if done.size:
            self._vec.reset(done)


class TorchAdapter(Adapter):
    """TorchRL, `ParallelEnv` around `GymWrapper`: a process per environment, tensors."""

    def __init__(self, case: Case, n: int) -> None:
        """Names the workers; TorchRL starts them on the first reset."""
        self._vec = _import("torchrl.envs").ParallelEnv(n, partial(_wrap_for_torch, case))
        self.steps_per_call = n

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Turns each batch into a tensor."""
        torch = _import("torch")
        return [torch.as_tensor(batch) for batch in actions]

    def reset(self) -> None:
        """Resets all, and keeps the tensors that the next step is made of."""
        self._vec.set_seed(0)
        self._state = self._vec.reset()

    def step(self, actions: Any) -> None:
        """One lockstep with auto-reset."""
        self._state["action"] = actions
        _, self._state = self._vec.step_and_maybe_reset(self._state)

    def close(self) -> None:
        """Closes all."""
        self._vec.close()


def _wrap_for_torch(case: Case) -> Any:
    # Discrete actions as numbers: one-hot, the default, would only add work.
    return _import("torchrl.envs").GymWrapper(case.make(), categorical_action_encoding=True)


def open_puffer(case: Case, n: int, *, workers: int) -> Adapter:
    """PufferLib, `Multiprocessing`: k environments a worker, which spins on a shared byte."""
    emulation, vector = _import("pufferlib.emulation"), _import("pufferlib.vector")
    # From version 2 on, more workers than cores have to be asked for.
    known = inspect.signature(vector.Multiprocessing).parameters
    overwork = {"overwork": True} if "overwork" in known else {}
    vec = vector.make(
        partial(emulation.GymnasiumPufferEnv, env_creator=case.make),
        backend=vector.Multiprocessing,
        num_envs=n,
        num_workers=workers,
        **overwork,
    )
    return VectorAdapter(vec, n)


def import_puffer() -> None:
    """Imports PufferLib from an empty directory: it leaves a link in the current one."""
    with tempfile.TemporaryDirectory() as empty, chdir(empty):
        _import("pufferlib.vector")


def puffer_layouts(n: int, cores: int) -> tuple[Contender, ...]:
    """The layouts that its `autotune` would try: one worker, one a core, one an environment.

    More than eight spinning workers a core would only take minutes to lose.
    """
    return tuple(
        replace(
            PUFFER,
            label=f"{PUFFER.label}, {workers} worker{'s' if workers > 1 else ''}",
            open=partial(open_puffer, workers=workers),
            layouts=None,
        )
        for workers in sorted({1, cores, n})
        if n % workers == 0 and workers <= min(n, 8 * cores)
    )


PUFFER = Contender(
    key="pufferlib",
    label="PufferLib Multiprocessing",
    package="pufferlib",
    load=import_puffer,
    open=partial(open_puffer, workers=1),
    layouts=puffer_layouts,
    settle_s=0.6,  # an idle worker spins for half a second before it begins to sleep
)


def over_envpool(case: Case, n: int, **given: Any) -> Any:
    """EnvPool's environments in C++, on threads."""
    make = _import("envpool").make
    return make(case.envpool_id, env_type="gymnasium", num_envs=n, seed=0, **given)


class PoolAdapter(VectorAdapter):
    """EnvPool in its synchronous mode: its own environments, in C++, on threads."""

    def __init__(self, case: Case, n: int, *, threads: int | None = None) -> None:
        """Builds its environment of the same name."""
        asked = {} if threads is None else {"num_threads": threads}
        vec = over_envpool(case, n, **asked)
        super().__init__(vec, n, lambda seed: None)  # seeded as it was made

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Casts each batch to the dtype that EnvPool's own space names."""
        dtype = self._vec.action_space.dtype
        return [batch.astype(dtype) for batch in actions]


def pool_layouts(n: int, cores: int) -> tuple[Contender, ...]:
    """EnvPool with its own choice of threads, one, one a core, and one an environment."""
    counts = [None, *sorted({1, cores, min(n, 4 * cores)})]
    return tuple(
        replace(
            ENVPOOL,
            label=f"{ENVPOOL.label}, {'its own' if count is None else count} threads",
            open=partial(PoolAdapter, threads=count),
            layouts=None,
        )
        for count in counts
    )


def in_envpool(case: Case, n: int) -> bool:
    """Whether EnvPool has an environment of this case."""
    del n
    return case.envpool_id is not None


ENVPOOL = Contender(
    key="envpool",
    label="EnvPool sync (C++ environments)",
    package="envpool",
    load=partial(_import, "envpool"),
    open=PoolAdapter,
    layouts=pool_layouts,
    applies=in_envpool,
    own_environments=True,
)
