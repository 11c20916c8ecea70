"""The commands: each takes the options, measures, prints, and returns its tables as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from vecsess.bench import registry
from vecsess.bench.cases import CASES, Case
from vecsess.bench.contenders import Contender
from vecsess.bench.faults.command import run_faults
from vecsess.bench.measure import Plan, Row, Table, measure, measure_starts
from vecsess.bench.overhead import MANAGER, WORKER
from vecsess.bench.paces import FREE, OVERLAPS, SLOW
from vecsess.bench.plots import plot_core_time, plot_throughput
from vecsess.bench.report import print_checks, print_table, starts_data, table_data
from vecsess.tuning.layouts import autotune

Data = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for, checked.

    Attributes:
        sizes: each N to measure.
        peers: "all", "none" or keys.
        only: keys of the only contenders to measure, or None.
        plots: the folder for PNG files, or None for no plots.
        kills: how many of the fault campaign; everything else in it follows.
        seed: of the fault campaign.
        start_limit_s: a sweep leaves out who would take longer to start.
        policy_ms: how long a call of the policy takes, for `tune`.
        policy_row_us: likewise, for each row.
    """

    case: Case
    sizes: tuple[int, ...]
    plan: Plan
    peers: str
    only: str | None
    plots: Path | None
    kills: int
    seed: int
    start_limit_s: float
    policy_ms: float
    policy_row_us: float


Run = Callable[[Options, Console, Console], Data]
Choose = Callable[[Options], Sequence[Contender]]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word of the command line.

    Attributes:
        run: does it, and tells the second console what is going on.
        sizes: each N that it measures unless told otherwise.
        case: likewise, the case.
        plan: likewise, how long.
    """

    about: str
    run: Run
    sizes: tuple[int, ...] = (16,)
    case: str = "cartpole"
    plan: Plan = field(default_factory=Plan)


def comparing(
    *sets: Choose | Sequence[Contender],
    baseline: str | None = None,
    also: tuple[str, ...] = (),
    then: Callable[[Console, dict[str, Any]], None] | None = None,
) -> Run:
    """Returns what measures contenders side by side, and prints a table for each N.

    Args:
        sets: of contenders, a table each.
        baseline: the key of the one to compare with; the first by default.
        also: cases to measure before the one that was asked for.
        then: says more of a table.
    """

    def run(options: Options, console: Console, progress: Console) -> Data:
        data = []
        cases = {name: CASES[name] for name in also} | {options.case.name: options.case}
        for case, n, chosen in itertools.product(cases.values(), options.sizes, sets):
            contenders = chosen(options) if callable(chosen) else chosen
            given = replace(options, case=case)
            table = _measured(given, n, contenders, console, progress, baseline)
            data.append(table_data(table))
            if then is not None:
                then(console, data[-1])
        return data

    return run


def _measured(
    options: Options,
    n: int,
    contenders: Sequence[Contender],
    console: Console,
    progress: Console,
    baseline: str | None,
) -> Table:
    """Measures contenders side by side, prints the table, and plots it where that was asked for."""
    table = measure(
        options.case,
        n,
        contenders,
        options.plan,
        baseline=baseline or contenders[0].key,
        tell=_teller(progress),
    )
    print_table(console, table_data(table))
    if options.plots is not None:
        plot_core_time(table, options.plots / f"core-time-{options.case.name}-{n}.png")
    return table


def _teller(progress: Console) -> Callable[[str], None]:
    return partial(progress.print, style="dim", markup=False, highlight=False)


def start(options: Options, console: Console, progress: Console) -> Data:
    """Prints start times and memory, each start in a fresh process."""
    standard = [registry.ASYNC, *registry.OURS]
    contenders = registry.choose(standard, peers=options.peers, only=options.only)
    name, rounds, data = options.case.name, options.plan.rounds, []
    for n in options.sizes:
        found = measure_starts(options.case, n, contenders, rounds, tell=_teller(progress))
        data.append(starts_data(name, n, found))
        print_table(console, data[-1])
    return data


def sweep(options: Options, console: Console, progress: Console) -> Data:
    """Prints a table for each N, plots throughput over N; who would grow too large is left out."""
    folder = options.plots or Path("bench-plots")
    options = replace(options, plots=folder)
    contenders = _vectors(options)
    tables: list[Table] = []
    for n, next_n in itertools.zip_longest(options.sizes, options.sizes[1:]):
        tables.append(_measured(options, n, contenders, console, progress, registry.ASYNC.key))
        if next_n is None:
            break
        skipped = [
            row.contender.key
            for row in tables[-1].rows
            if too_large(row, next_n / n, options.start_limit_s)
        ]
        contenders = [each for each in contenders if each.key not in skipped]
        if skipped:
            console.print(f"left out from N = {next_n} on: {', '.join(skipped)}")
    plot_throughput(tables, folder / f"throughput-{options.case.name}.png")
    return [table_data(table) for table in tables]


def too_large(row: Row, growth: float, start_limit_s: float) -> bool:
    """Whether `growth` times as many workers would hardly fit into memory, or start too slowly."""
    if row.started is None:
        return False
    too_slow = row.started.start_s * growth > start_limit_s
    room_bytes = psutil.virtual_memory().available / 2
    return too_slow or row.started.pss_bytes * growth > room_bytes


def tune(options: Options, console: Console, progress: Console) -> Data:
    """Prints which layout to use, and why."""
    about = "which layout; medians of rounds, and shares of the manager's time"
    data = []
    for n in options.sizes:
        found = autotune(
            options.case.env,
            n,
            policy_s=options.policy_ms * 1e-3,
            policy_row_s=options.policy_row_us * 1e-6,
            slice_s=options.plan.seconds,
            rounds=options.plan.rounds,
            tell=_teller(progress),
        )
        data.append({"case": {"name": options.case.name, "about": about}, **asdict(found)})
        print_table(console, data[-1])
    return data


def faults(options: Options, console: Console, progress: Console) -> Data:
    """Prints what comes of faults, each figure beside its target."""
    return run_faults(options.kills, options.seed, options.peers, console, progress)


def _vectors(options: Options) -> list[Contender]:
    bare = (registry.BARE, registry.BARE_LOOPS)
    standard = (*bare, registry.SYNC, registry.ASYNC, *registry.OURS)
    return registry.choose(standard, peers=options.peers, only=options.only)


def _collectors(options: Options) -> list[Contender]:
    standard = (registry.BARE, registry.BARE_ACTING, *registry.COLLECTORS)
    return registry.choose(standard, peers="none", only=options.only)


COMMANDS = {
    "throughput": Command(
        run=comparing(_vectors, baseline=registry.ASYNC.key),
        about="steps/s of ours, Gymnasium's and the peers' (the default)",
    ),
    "collect": Command(
        run=comparing(_collectors, baseline=registry.USUAL_LOOP.key),
        about="rollouts of 128 with a small policy, against the usual loops",
    ),
    "sweep": Command(
        run=sweep, about="throughput over N, with plots", sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256)
    ),
    "checks": Command(
        run=comparing(registry.CHECKS, baseline=registry.UNCHECKED.key, then=print_checks),
        about="what the value checks cost",
    ),
    "free": Command(
        run=comparing((registry.BARE, *FREE), baseline=FREE[0].key),
        about='pace="free" against lockstep, steps of very unequal length',
        case="heavy",
    ),
    "pipelined": Command(
        run=comparing(*OVERLAPS.values()),
        about='pace="pipelined" against lockstep, two policies',
        case="steady",
    ),
    "slow": Command(run=comparing(SLOW), about="what waiting costs beside a policy of 2 ms"),
    "manager": Command(
        run=comparing([MANAGER]),
        about="the manager's own time a lockstep, 2 workers",
        sizes=(16, 256),
    ),
    "worker": Command(
        run=comparing([WORKER], also=("null",)), about="what a worker adds to env.step"
    ),
    "tune": Command(
        run=tune, about="which layout to use, and why", plan=Plan(seconds=0.25, rounds=3)
    ),
    "faults": Command(run=faults, about="the fault campaign: kills, hangs, lies, leaks"),
    "start": Command(run=start, about="time to the first observation, memory", sizes=(16, 64)),
}
