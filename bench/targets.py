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


@dataclass(frozen=True)
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


# One line each, as a table; "rollouts" are by collect_rollout, what names no call is by step().
# ruff: noqa: E501
# fmt: off
TARGETS = (
    Target("HalfCheetah, 16, auto: times AsyncVectorEnv", "halfcheetah-16", 16, times("ours-auto", "async"), least=3.3),
    Target("HalfCheetah, 16, auto: times SyncVectorEnv", "halfcheetah-16", 16, times("ours-auto", "sync"), least=1.55),
    Target("HalfCheetah, 16, SB3VecEnv auto: times DummyVecEnv", "halfcheetah-16", 16, times("ours-sb3", "dummy"), least=1.5),
    Target("HalfCheetah, 16, workers=0: times SyncVectorEnv", "halfcheetah-16", 16, times("ours-0", "sync"), least=0.95),
    Target("HalfCheetah, 16, auto: what infos cost, beside step_into", "halfcheetah-16", 16, cost("ours-auto", "into-auto"), most=0.08, form=_SHARE),
    Target("Taxi, 16, auto: times AsyncVectorEnv", "taxi-16", 16, times("ours-auto", "async"), least=4),
    Target("Taxi, 16, workers=0: times SyncVectorEnv", "taxi-16", 16, times("ours-0", "sync"), least=0.95),
    Target("CartPole, 16, auto: times SyncVectorEnv", "cartpole-16", 16, times("ours-auto", "sync"), least=0.95),
    Target("CartPole, 64, auto: times SyncVectorEnv", "cartpole-64-256", 64, times("ours-auto", "sync"), least=1.3),
    Target("CartPole, 16, workers=0: times SyncVectorEnv", "cartpole-16", 16, times("ours-0", "sync"), least=0.95),
    Target("CartPole, 16, 16 workers: times the best peer with a process each", "cartpole-16", 16, times("ours-n", *PER_PROCESS), least=2.8),
    Target("Pong, 16, auto: times AsyncVectorEnv", "pong-16", 16, times("ours-auto", "async"), least=1.5),
    Target("rollouts, CartPole, 16, at the workers: times lockstep", "collect-cartpole", 16, times("acting-auto", "collect-auto"), least=1.7),
    Target("rollouts, CartPole, 64, at the workers: times lockstep", "collect-cartpole", 64, times("acting-auto", "collect-auto"), least=1.35),
    Target("rollouts, CartPole, 16, at the workers: share of bare loops that act", "collect-cartpole", 16, times("acting-auto", "bare-acting"), least=0.88, form=_SHARE),
    Target("rollouts, CartPole, 64, at the workers: share of bare loops that act", "collect-cartpole", 64, times("acting-auto", "bare-acting"), least=0.88, form=_SHARE),
    Target("rollouts, HalfCheetah, 16, at the workers: share of bare loops that act", "collect-halfcheetah", 16, times("acting-auto", "bare-acting"), least=0.88, form=_SHARE),
    Target("rollouts, Pong, 16, at the workers: share of bare loops", "collect-pong", 16, times("acting-auto", "bare-acting"), least=0.92, form=_SHARE),
    Target("rollouts, CartPole, 16, at the workers: times EnvPool and the policy", "collect-cartpole", 16, times("acting-auto", "usual-envpool"), least=1.3),
    Target('heavy-tailed steps, asleep, 16 workers, pace="free": times lockstep', "free", 16, times("free-n", "lockstep-n"), least=1.5),
    Target('heavy-tailed steps, asleep, pace="free": share of the ideal', "free", 16, of_slices("free-n", IDEAL), least=0.9, form=_SHARE),
    Target('pace="pipelined", policy by rows: times lockstep', "pipelined", 16, times("rows-pipelined", "rows-lockstep"), least=1.7),
    Target('pace="pipelined", policy by call: times lockstep', "pipelined", 16, times("call-pipelined", "call-lockstep"), least=1.35),
    Target("policy of 2 ms: CPU time a step, times that of blocking", "slow", 16, cpu_times("slow-adaptive", "slow-blocking"), most=1.05),
    Target("policy of 2 ms: throughput, times that of blocking", "slow", 16, times("slow-adaptive", "slow-blocking"), least=0.98),
    Target("manager's time a lockstep, 16, 2 workers, us", "manager", 16, of_slices("manager", MANAGER_US), most=20, form=".1f"),
    Target("manager's time a lockstep, 256, 2 workers, us", "manager", 256, of_slices("manager", MANAGER_US), most=40, form=".1f"),
    Target("what a worker adds to a step of CartPole, ns", "worker", 16, of_case("cartpole", of_slices("worker", added_ns)), most=700, form=".0f"),
    Target("value checks, 16, 2 workers: share of a lockstep", "checks", 16, cost("checked", "unchecked"), most=0.06, form=_SHARE),
    Target("start of 16 workers to the first observation, s", "start", 16, start_s("ours-n"), most=0.3, form=".3f"),
    Target("start of 64 workers to the first observation, s", "start", 64, start_s("ours-n"), most=1.0, form=".3f"),
    Target("16 idle workers, PSS together, MB", "start", 16, memory_mb("ours-n"), most=150, form=".0f"),
)
# fmt: on
