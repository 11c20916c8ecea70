"""What the bench must show on two cores, as data: each figure, where it is read, its bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vecsess.bench.readings import (
    IDEAL,
    MANAGER_US,
    Data,
    Figure,
    added_ns,
    cost,
    cpu_times,
    memory_mb,
    of_case,
    of_slices,
    start_s,
    times,
)

PER_PROCESS = ("async", "sb3", "tianshou", "torchrl")  # the peers with a process per environment
_SHARE = ".1%"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One line of the table of targets.

    Attributes:
        what: in words.
        run: the key of `RUNS`.
        n: in which table of it.
        figure: reads it from a table; None where it isn't there.
        least: the figure must be at least this, or
        most: at most this.
        form: how it is written.
    """

    what: str
    run: str
    n: int
    figure: Figure
    least: float | None = None
    most: float | None = None
    form: str = ".2f"

    def read(self, tables: Sequence[Data]) -> float | None:
        """Returns the figure from the tables of its run, None where it was not measured."""
        found = (self.figure(table) for table in tables if table["n"] == self.n)
        return next((value for value in found if value is not None), None)

    def met(self, value: float) -> bool:
        """Whether it is as good as it must be."""
        if self.least is not None:
            return value >= self.least
        return self.most is not None and value <= self.most

    @property
    def bound(self) -> str:
        """The target as text."""
        value = self.least if self.least is not None else self.most
        assert value is not None, "every target has a bound"
        return f"{'>=' if self.least is not None else '<='} {self.write(value)}"

    def write(self, value: float) -> str:
        """Writes a figure as this one is written."""
        return format(value, self.form)


def _least(what: str, run: str, n: int, figure: Figure, bound: float, form: str = ".2f") -> Target:
    return Target(what=what, run=run, n=n, figure=figure, least=bound, form=form)


def _most(what: str, run: str, n: int, figure: Figure, bound: float, form: str = ".2f") -> Target:
    return Target(what=what, run=run, n=n, figure=figure, most=bound, form=form)


# One line each, as a table; "rollouts" are by collect_rollout, what names no call is by step().
# ruff: noqa: E501
# fmt: off
TARGETS = (
    _least("HalfCheetah, 16, auto: times AsyncVectorEnv", "halfcheetah-16", 16, times("ours-auto", "async"), 3.3),
    _least("HalfCheetah, 16, auto: times SyncVectorEnv", "halfcheetah-16", 16, times("ours-auto", "sync"), 1.55),
    _least("HalfCheetah, 16, SB3VecEnv auto: times DummyVecEnv", "halfcheetah-16", 16, times("ours-sb3", "dummy"), 1.5),
    _least("HalfCheetah, 16, workers=0: times SyncVectorEnv", "halfcheetah-16", 16, times("ours-0", "sync"), 0.95),
    _most("HalfCheetah, 16, auto: what infos cost, beside step_into", "halfcheetah-16", 16, cost("ours-auto", "into-auto"), 0.08, _SHARE),
    _least("Taxi, 16, auto: times AsyncVectorEnv", "taxi-16", 16, times("ours-auto", "async"), 4),
    _least("Taxi, 16, workers=0: times SyncVectorEnv", "taxi-16", 16, times("ours-0", "sync"), 0.95),
    _least("CartPole, 16, auto: times SyncVectorEnv", "cartpole-16", 16, times("ours-auto", "sync"), 0.95),
    _least("CartPole, 64, auto: times SyncVectorEnv", "cartpole-64-256", 64, times("ours-auto", "sync"), 1.3),
    _least("CartPole, 16, workers=0: times SyncVectorEnv", "cartpole-16", 16, times("ours-0", "sync"), 0.95),
    _least("CartPole, 16, 16 workers: times the best peer with a process each", "cartpole-16", 16, times("ours-n", *PER_PROCESS), 2.8),
    _least("Pong, 16, auto: times AsyncVectorEnv", "pong-16", 16, times("ours-auto", "async"), 1.5),
    _least("rollouts, CartPole, 16, at the workers: times lockstep", "collect-cartpole", 16, times("acting-auto", "collect-auto"), 1.7),
    _least("rollouts, CartPole, 64, at the workers: times lockstep", "collect-cartpole", 64, times("acting-auto", "collect-auto"), 1.35),
    _least("rollouts, CartPole, 16, at the workers: share of bare loops that act", "collect-cartpole", 16, times("acting-auto", "bare-acting"), 0.88, _SHARE),
    _least("rollouts, CartPole, 64, at the workers: share of bare loops that act", "collect-cartpole", 64, times("acting-auto", "bare-acting"), 0.88, _SHARE),
    _least("rollouts, HalfCheetah, 16, at the workers: share of bare loops that act", "collect-halfcheetah", 16, times("acting-auto", "bare-acting"), 0.88, _SHARE),
    _least("rollouts, Pong, 16, at the workers: share of bare loops", "collect-pong", 16, times("acting-auto", "bare-acting"), 0.92, _SHARE),
    _least("rollouts, CartPole, 16, at the workers: times EnvPool and the policy", "collect-cartpole", 16, times("acting-auto", "usual-envpool"), 1.3),
    _least('heavy-tailed steps, asleep, 16 workers, pace="free": times lockstep', "free", 16, times("free-n", "lockstep-n"), 1.5),
    _least('heavy-tailed steps, asleep, pace="free": share of the ideal', "free", 16, of_slices("free-n", IDEAL), 0.9, _SHARE),
    _least('pace="pipelined", policy by rows: times lockstep', "pipelined", 16, times("rows-pipelined", "rows-lockstep"), 1.7),
    _least('pace="pipelined", policy by call: times lockstep', "pipelined", 16, times("call-pipelined", "call-lockstep"), 1.35),
    _most("policy of 2 ms: CPU time a step, times that of blocking", "slow", 16, cpu_times("slow-adaptive", "slow-blocking"), 1.05),
    _least("policy of 2 ms: throughput, times that of blocking", "slow", 16, times("slow-adaptive", "slow-blocking"), 0.98),
    _most("manager's time a lockstep, 16, 2 workers, us", "manager", 16, of_slices("manager", MANAGER_US), 20, ".1f"),
    _most("manager's time a lockstep, 256, 2 workers, us", "manager", 256, of_slices("manager", MANAGER_US), 40, ".1f"),
    _most("what a worker adds to a step of CartPole, ns", "worker", 16, of_case("cartpole", of_slices("worker", added_ns)), 700, ".0f"),
    _most("value checks, 16, 2 workers: share of a lockstep", "checks", 16, cost("checked", "unchecked"), 0.06, _SHARE),
    _most("start of 16 workers to the first observation, s", "start", 16, start_s("ours-n"), 0.3, ".3f"),
    _most("start of 64 workers to the first observation, s", "start", 64, start_s("ours-n"), 1.0, ".3f"),
    _most("16 idle workers, PSS together, MB", "start", 16, memory_mb("ours-n"), 150, ".0f"),
)
# fmt: on
