"""What the bench must show on two cores, as data: each figure, where it is read, its bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vecsess.bench.readings import (
    ADDED_NS,
    IDEAL,
    MANAGER_US,
    Data,
    Figure,
    cost,
    cpu_times,
    memory_mb,
    of_case,
    of_slices,
    share_of_limit,
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


TARGETS = (
    Target(
        what="CartPole, N = 16, auto: times AsyncVectorEnv",
        run="cartpole-16",
        n=16,
        figure=times("ours-auto", "async"),
        least=8,
    ),
    Target(
        what="CartPole, N = 16, auto: times the best layout of PufferLib",
        run="cartpole-16",
        n=16,
        figure=times("ours-auto", "pufferlib"),
        least=1.15,
    ),
    Target(
        what="CartPole, N = 16, auto: times EnvPool (C++) sync",
        run="cartpole-16",
        n=16,
        figure=times("ours-auto", "envpool"),
        least=1.0,
    ),
    Target(
        what="CartPole, N = 16, 16 workers: times AsyncVectorEnv",
        run="cartpole-16",
        n=16,
        figure=times("ours-n", "async"),
        least=2.4,
    ),
    Target(
        what="CartPole, N = 16, 16 workers: times the best peer with a process per environment",
        run="cartpole-16",
        n=16,
        figure=times("ours-n", *PER_PROCESS),
        least=2.8,
    ),
    Target(
        what="CartPole, N = 64, auto: share of the limit",
        run="cartpole-64-256",
        n=64,
        figure=share_of_limit("ours-auto"),
        least=0.76,
        form=_SHARE,
    ),
    Target(
        what="CartPole, N = 256, auto: share of the limit",
        run="cartpole-64-256",
        n=256,
        figure=share_of_limit("ours-auto"),
        least=0.83,
        form=_SHARE,
    ),
    Target(
        what="HalfCheetah, N = 16, auto: share of the limit",
        run="halfcheetah-16",
        n=16,
        figure=share_of_limit("ours-auto"),
        least=0.9,
        form=_SHARE,
    ),
    Target(
        what="HalfCheetah, N = 16, auto: times AsyncVectorEnv",
        run="halfcheetah-16",
        n=16,
        figure=times("ours-auto", "async"),
        least=4.5,
    ),
    Target(
        what="Pong, N = 16, auto: share of the limit",
        run="pong-16",
        n=16,
        figure=share_of_limit("ours-auto"),
        least=0.96,
        form=_SHARE,
    ),
    Target(
        what="Pong, N = 16, auto: times AsyncVectorEnv",
        run="pong-16",
        n=16,
        figure=times("ours-auto", "async"),
        least=1.5,
    ),
    Target(
        what="84x84x4 uint8, busy 100 us a step, rollouts of 128, auto: times the usual loop",
        run="image-busy",
        n=16,
        figure=times("collect-auto", "usual-loop"),
        least=1.8,
    ),
    Target(
        what="84x84x4 uint8, asleep 100 us a step, 16 workers: times the usual loop",
        run="image-asleep",
        n=16,
        figure=times("collect-n", "usual-loop"),
        least=2.3,
    ),
    Target(
        what='heavy-tailed steps, asleep, 16 workers, pace="free": times lockstep',
        run="free",
        n=16,
        figure=times("free-n", "lockstep-n"),
        least=1.5,
    ),
    Target(
        what='heavy-tailed steps, asleep, 16 workers, pace="free": share of the ideal',
        run="free",
        n=16,
        figure=of_slices("free-n", IDEAL),
        least=0.9,
        form=_SHARE,
    ),
    Target(
        what='pace="pipelined", 4 workers, policy by rows: times lockstep',
        run="pipelined",
        n=16,
        figure=times("rows-pipelined", "rows-lockstep"),
        least=1.7,
    ),
    Target(
        what='pace="pipelined", 4 workers, policy by call: times lockstep',
        run="pipelined",
        n=16,
        figure=times("call-pipelined", "call-lockstep"),
        least=1.35,
    ),
    Target(
        what="policy of 2 ms: CPU time a step, times that of blocking",
        run="slow",
        n=16,
        figure=cpu_times("slow-adaptive", "slow-blocking"),
        most=1.05,
    ),
    Target(
        what="policy of 2 ms: throughput, times that of blocking",
        run="slow",
        n=16,
        figure=times("slow-adaptive", "slow-blocking"),
        least=0.98,
    ),
    Target(
        what="manager's time a lockstep, N = 16, 2 workers, us",
        run="manager",
        n=16,
        figure=of_slices("manager", MANAGER_US),
        most=20,
        form=".1f",
    ),
    Target(
        what="manager's time a lockstep, N = 256, 2 workers, us",
        run="manager",
        n=256,
        figure=of_slices("manager", MANAGER_US),
        most=40,
        form=".1f",
    ),
    Target(
        what="what a worker adds to a step of CartPole, ns",
        run="worker",
        n=16,
        figure=of_case("cartpole", of_slices("worker", ADDED_NS)),
        most=700,
        form=".0f",
    ),
    Target(
        what="value checks, N = 16, 2 workers: share of a lockstep",
        run="checks",
        n=16,
        figure=cost("checked", "unchecked"),
        most=0.06,
        form=_SHARE,
    ),
    Target(
        what="start of 16 workers to the first observation, s",
        run="start",
        n=16,
        figure=start_s("ours-n"),
        most=0.3,
        form=".3f",
    ),
    Target(
        what="start of 64 workers to the first observation, s",
        run="start",
        n=64,
        figure=start_s("ours-n"),
        most=1.0,
        form=".3f",
    ),
    Target(
        what="16 idle workers, PSS together, MB",
        run="start",
        n=16,
        figure=memory_mb("ours-n"),
        most=150,
        form=".0f",
    ),
)
