"""The commands: each takes the options, measures, prints, and returns its tables as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from rich.console import Console

from vecsess.bench import registry
from vecsess.bench.contenders import Contender
from vecsess.bench.faults.command import run_faults
from vecsess.bench.measure import Plan, Row, Table, measure_starts
from vecsess.bench.options import Data, Options, measured_table, teller
from vecsess.bench.plots import plot_throughput
from vecsess.bench.probes import free, manager, pipelined, slow, tune, worker
from vecsess.bench.report import print_checks, print_starts, starts_data, table_data


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
    run: Callable[[Options, Console, Console], Data]
    sizes: tuple[int, ...] = (16,)
    case: str = "cartpole"
    plan: Plan = field(default_factory=Plan)


def throughput(options: Options, console: Console, progress: Console) -> Data:
    """Prints a table for each N: ours, Gymnasium's and the peers'."""
    contenders = _vector_contenders(options)
    return [
        table_data(measured_table(options, n, contenders, console, progress)) for n in options.sizes
    ]


def collect(options: Options, console: Console, progress: Console) -> Data:
    """Prints a table of rollouts, against the usual loop."""
    standard = (registry.BARE, registry.BARE_ACTING, *registry.COLLECTORS)
    contenders = registry.choose(standard, peers="none", only=options.only)
    return [
        table_data(
            measured_table(
                options, n, contenders, console, progress, baseline=registry.USUAL_LOOP.key
            )
        )
        for n in options.sizes
    ]


def checks(options: Options, console: Console, progress: Console) -> Data:
    """Prints what the value checks cost."""
    data = []
    for n in options.sizes:
        table = measured_table(
            options, n, registry.CHECKS, console, progress, baseline=registry.UNCHECKED.key
        )
        print_checks(console, table)
        data.append(table_data(table))
    return data


def start(options: Options, console: Console, progress: Console) -> Data:
    """Prints start times and memory, each start in a fresh process."""
    standard = [registry.ASYNC, *registry.OURS]
    contenders = registry.choose(standard, peers=options.peers, only=options.only)
    data = []
    for n in options.sizes:
        found = measure_starts(
            options.case, n, contenders, options.plan.rounds, tell=teller(progress)
        )
        print_starts(console, options.case.name, n, found)
        data.append(starts_data(options.case.name, n, found))
    return data


def sweep(options: Options, console: Console, progress: Console) -> Data:
    """Prints a table for each N, plots throughput over N; who would grow too large is left out."""
    folder = options.plots or Path("bench-plots")
    options = replace(options, plots=folder)
    contenders = _vector_contenders(options)
    tables: list[Table] = []
    for n, next_n in itertools.zip_longest(options.sizes, options.sizes[1:]):
        tables.append(measured_table(options, n, contenders, console, progress))
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


def faults(options: Options, console: Console, progress: Console) -> Data:
    """Prints what comes of faults, each figure beside its target."""
    return run_faults(options.kills, options.seed, options.peers, console, progress)


def too_large(row: Row, growth: float, start_limit_s: float) -> bool:
    """Whether `growth` times as many workers would hardly fit into memory, or start too slowly."""
    if row.started is None:
        return False
    too_slow = row.started.start_s * growth > start_limit_s
    room_bytes = psutil.virtual_memory().available / 2
    return too_slow or row.started.pss_bytes * growth > room_bytes


def _vector_contenders(options: Options) -> list[Contender]:
    bare = (registry.BARE, registry.BARE_LOOPS)
    standard = (*bare, registry.SYNC, registry.ASYNC, *registry.OURS)
    return registry.choose(standard, peers=options.peers, only=options.only)


COMMANDS = {
    "throughput": Command(
        run=throughput, about="steps/s of ours, Gymnasium's and the peers' (the default)"
    ),
    "collect": Command(
        run=collect, about="rollouts of 128 with a small policy, against the usual loops"
    ),
    "sweep": Command(
        run=sweep, about="throughput over N, with plots", sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256)
    ),
    "checks": Command(run=checks, about="what the value checks cost"),
    "free": Command(
        run=free, about='pace="free" against lockstep, steps of very unequal length', case="heavy"
    ),
    "pipelined": Command(
        run=pipelined, about='pace="pipelined" against lockstep, two policies', case="steady"
    ),
    "slow": Command(run=slow, about="what waiting costs beside a policy of 2 ms"),
    "manager": Command(
        run=manager, about="the manager's own time a lockstep, 2 workers", sizes=(16, 256)
    ),
    "worker": Command(run=worker, about="what a worker adds to env.step"),
    "tune": Command(
        run=tune, about="which layout to use, and why", plan=Plan(seconds=0.25, rounds=3)
    ),
    "faults": Command(run=faults, about="the fault campaign: kills, hangs, lies, leaks"),
    "start": Command(run=start, about="time to the first observation, memory", sizes=(16, 64)),
}
