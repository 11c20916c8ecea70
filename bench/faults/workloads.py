"""What is run under kills: environments, groupings and auto-reset modes.

What lives here is imported by workers: nothing but gymnasium and numpy.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium

from vecsess.bench.faults.ledger import LedgerEnv

Env = gymnasium.Env[Any, Any]
Maker = Callable[[], Env]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Environments in a grouping, under an auto-reset mode.

    Attributes:
        makers: one callable for each environment.
        workers: how many processes; None for one per environment.
        share: how many of the campaign's kills it takes, relative to the others.
        reset_every: reset with a seed after so many locksteps; 0 for never.
        horizon: of rollouts that the workers fill by themselves; 0 where the trainer steps.
    """

    name: str
    makers: tuple[Maker, ...]
    workers: int | None
    mode: str = "same_step"
    share: float = 1.0
    reset_every: int = 0
    horizon: int = 0

    @property
    def label(self) -> str:
        """Returns its name, grouping and mode."""
        n = len(self.makers)
        acting = f", rollouts of {self.horizon} at the workers" if self.horizon else ""
        return f"{self.name} x{n}, {self.workers or n} workers, {self.mode}{acting}"


def ledgers(n: int, **arguments: Any) -> tuple[Maker, ...]:
    """Returns n makers of ledgers."""
    return tuple(partial(LedgerEnv, index, **arguments) for index in range(n))


def make_registered(env_id: str) -> Env:
    """Makes an environment by its id; Atari registers its ids when it is asked to."""
    if env_id.startswith("ALE/"):
        gymnasium.register_envs(importlib.import_module("ale_py"))
    env: Env = gymnasium.make(env_id)
    return env


def _same(env_id: str, n: int) -> tuple[Maker, ...]:
    return (partial(make_registered, env_id),) * n


def modes_of(session: type) -> Sequence[str]:
    """Returns the auto-reset modes that a class of sessions can be asked for."""
    if "autoreset_mode" not in inspect.signature(session).parameters:
        return ("same_step",)
    return ("same_step", "next_step", "disabled")


def workloads(modes: Sequence[str]) -> list[Workload]:
    """Returns all that can be run here, the ledgers in every mode and grouping."""
    found = []
    for mode in modes:
        add = partial(Workload, mode=mode)
        found += [
            add(name="ledger", makers=ledgers(6), workers=None, share=2),
            add(name="ledger", makers=ledgers(7), workers=3, share=2),
            add(name="ledger", makers=ledgers(8), workers=2, share=2),
            add(name="ledger", makers=ledgers(3), workers=1),
            add(
                name="counting ledger",
                makers=ledgers(6, counted=True),
                workers=3,
                share=2,
                reset_every=3000,
            ),
        ]
    found += [
        Workload(name="CartPole-v1", makers=_same("CartPole-v1", 16), workers=None, share=3),
        Workload(name="CartPole-v1", makers=_same("CartPole-v1", 16), workers=2, share=3),
        Workload(name="Taxi-v4", makers=_same("Taxi-v4", 8), workers=4),
    ]
    acting = partial(Workload, horizon=64)
    found += [
        acting(name="ledger", makers=ledgers(6), workers=None),
        acting(name="ledger", makers=ledgers(7), workers=3, share=2),
        acting(name="counting ledger", makers=ledgers(6, counted=True), workers=2),
        acting(name="CartPole-v1", makers=_same("CartPole-v1", 16), workers=2, share=3),
    ]
    if _installed("mujoco"):
        makers = _same("HalfCheetah-v5", 4)
        found.append(Workload(name="HalfCheetah-v5", makers=makers, workers=2, share=0.5))
        found.append(acting(name="HalfCheetah-v5", makers=makers, workers=2, share=0.5))
    if _installed("ale_py"):
        makers = _same("ALE/Pong-v5", 2)
        found.append(Workload(name="Pong-v5", makers=makers, workers=None, share=0.3))
    return found


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
