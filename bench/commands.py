"""The commands: each takes the options, measures, prints, and returns its tables as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from vecsess.bench import registry
from vecsess.bench.cases import Case
from vecsess.bench.contenders import Contender
from vecsess.bench.faults.command import run_faults
from vecsess.bench.host import START_TIMEOUT_S
from vecsess.bench.measure import Plan, Row, Table, measure, measure_starts
from vecsess.bench.plots import plot_core_time, plot_throughput
from vecsess.bench.report import (
    print_checks,
    print_starts,
    print_table,
    starts_data,
    table_data,
)

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
    """

    case: Case
    sizes: tuple[int, ...]
    plan: Plan
    peers: str = "all"
    only: str | None = None
    plots: Path | None = None
    kills: int = 2000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word of the command line.

    Attributes:
        run: does it, and tells the second console what is going on.
        sizes: each N that it measures unless told otherwise.
        case: likewise, the case.
    """

    about: str
    run: Callable[[Options, Console, Console], Data]
    sizes: tuple[int, ...] = (16,)
    case: str = "cartpole"


def throughput(options: Options, console: Console, progress: Console) -> Data:
    """Prints a table for each N: ours, Gymnasium's and the peers'."""
    contenders = _vector_contenders(options)
    return [table_data(_table(options, n, contenders, console, progress)) for n in options.sizes]


def collect(options: Options, console: Console, progress: Console) -> Data:
    """Prints a table of rollouts, against the usual loop."""
    standard = (registry.BARE, *registry.COLLECTORS)
    contenders = registry.choose(standard, peers="none", only=options.only)
    return [
        table_data(
            _table(options, n, contenders, console, progress, baseline=registry.USUAL_LOOP.key)
        )
        for n in options.sizes
    ]


def checks(options: Options, console: Console, progress: Console) -> Data:
    """Prints what the value checks cost."""
    data = []
    for n in options.sizes:
        table = _table(
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
            options.case, n, contenders, options.plan.rounds, tell=_teller(progress)
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
        tables.append(_table(options, n, contenders, console, progress))
        if next_n is None:
            break
        skipped = [row.contender.key for row in tables[-1].rows if too_large(row, next_n / n)]
        contenders = [each for each in contenders if each.key not in skipped]
        if skipped:
            console.print(f"left out from N = {next_n} on: {', '.join(skipped)}")
    plot_throughput(tables, folder / f"throughput-{options.case.name}.png")
    return [table_data(table) for table in tables]


def faults(options: Options, console: Console, progress: Console) -> Data:
    """Prints what comes of faults, each figure beside its target."""
    return run_faults(options.kills, options.seed, options.peers, console, progress)


def too_large(row: Row, growth: float) -> bool:
    """Whether `growth` times as many workers would hardly fit into memory, or start too slowly."""
    if row.started is None:
        return False
    too_slow = row.started.start_s * growth > START_TIMEOUT_S / 2
    room_bytes = psutil.virtual_memory().available / 2
    return too_slow or row.started.pss_bytes * growth > room_bytes


def _vector_contenders(options: Options) -> list[Contender]:
    standard = (registry.BARE, registry.SYNC, registry.ASYNC, *registry.OURS)
    return registry.choose(standard, peers=options.peers, only=options.only)


def _table(
    options: Options,
    n: int,
    contenders: Sequence[Contender],
    console: Console,
    progress: Console,
    *,
    baseline: str = registry.ASYNC.key,
) -> Table:
    table = measure(
        options.case, n, contenders, options.plan, baseline=baseline, tell=_teller(progress)
    )
    print_table(console, table)
    if options.plots is not None:
        plot_core_time(table, options.plots / f"core-time-{options.case.name}-{n}.png")
    return table


def _teller(progress: Console) -> Callable[[str], None]:
    return lambda line: progress.print(line, style="dim", markup=False, highlight=False)


COMMANDS = {
    "throughput": Command(
        run=throughput, about="steps/s of ours, Gymnasium's and the peers' (the default)"
    ),
    "collect": Command(run=collect, about="rollouts of 128, against the usual loop", case="image"),
    "sweep": Command(
        run=sweep, about="throughput over N, with plots", sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256)
    ),
    "checks": Command(run=checks, about="what the value checks cost"),
    "faults": Command(run=faults, about="the fault campaign: kills, hangs, lies, leaks"),
    "start": Command(run=start, about="time to the first observation, memory", sizes=(16, 64)),
}
