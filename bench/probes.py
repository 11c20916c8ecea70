"""Commands that ask one question each: paces, waiting, the manager, the worker, the layout."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table as Grid

from vecsess.bench import registry
from vecsess.bench.cases import CASES, Case
from vecsess.bench.contenders import Contender
from vecsess.bench.measure import Row, Table, measure
from vecsess.bench.options import Data, Options, measured_table, teller
from vecsess.bench.overhead import MANAGER, WORKER, manager_us, step_ns, waiting_us, worker_ns
from vecsess.bench.paces import FREE, OVERLAPS, POLICIES, SLOW
from vecsess.bench.report import print_details, table_data
from vecsess.tuning.lanes import LayoutFigures
from vecsess.tuning.layouts import Tuning, autotune


def free(options: Options, console: Console, progress: Console) -> Data:
    """Prints what it brings that workers need not wait for each other."""
    tables = [
        measured_table(options, n, (registry.BARE, *FREE), console, progress, baseline=FREE[0].key)
        for n in options.sizes
    ]
    for table in tables:
        for contender in FREE:
            _print_share(console, table.row(contender.key))
    return [table_data(table) for table in tables]


def _print_share(console: Console, row: Row | None) -> None:
    drawn = row and row.median(lambda done: done.figures["ideal_s"] / done.elapsed_s)
    slept = row and row.median(lambda done: done.figures["slept_s"] / done.elapsed_s)
    if row is not None and drawn is not None:
        console.print(
            f"{row.contender.label}: {slept:.1%} of the ideal, which is the slowest environment's "
            f"steps alone; {drawn:.1%} if this machine's sleep were not late"
        )


def pipelined(options: Options, console: Console, progress: Console) -> Data:
    """Prints what it brings that policy and environments work at once, for two policies."""
    return [
        table_data(measured_table(options, n, pair, console, progress, baseline=pair[0].key))
        for n in options.sizes
        for pair in (OVERLAPS[kind] for kind in POLICIES)
    ]


def slow(options: Options, console: Console, progress: Console) -> Data:
    """Prints throughput and CPU time beside a slow policy, by how a wait spins."""
    return [
        table_data(measured_table(options, n, SLOW, console, progress, baseline=SLOW[0].key))
        for n in options.sizes
    ]


def manager(options: Options, console: Console, progress: Console) -> Data:
    """Prints how long the manager itself takes for a lockstep."""
    tables = [_measure(options, options.case, n, MANAGER, progress) for n in options.sizes]
    grid = _grid(
        f"{options.case.name}: the manager's time a lockstep, 2 workers",
        "step_into, less the time in which it spins or polls; medians of rounds",
        ("N", "us", "us, median lockstep", "us waiting"),
    )
    for table in tables:
        row = table.rows[0]
        grid.add_row(
            str(table.n),
            *_cells(
                row,
                manager_us,
                lambda figures: figures["median_ns"] / 1e3,
                waiting_us,
            ),
        )
    console.print(grid)
    print_details(console, [table.rows[0] for table in tables])
    return [table_data(table) for table in tables]


def worker(options: Options, console: Console, progress: Console) -> Data:
    """Prints what `EnvHost.step` adds to a bare loop, for an environment of no cost and a case."""
    cases = [CASES["null"], *([] if options.case.name == "null" else [options.case])]
    tables = [_measure(options, case, n, WORKER, progress) for case in cases for n in options.sizes]
    grid = _grid(
        "EnvHost.step against a bare loop over the same environments, auto-reset included",
        "ns an environment step; in turns of 64 calls, half of N in one process; medians",
        ("case", "bare", "EnvHost", "added"),
    )
    for table in tables:
        grid.add_row(
            f"{table.case.name}, N = {table.n}",
            *_cells(
                table.rows[0],
                lambda figures: step_ns(figures, "bare"),
                lambda figures: step_ns(figures, "host"),
                worker_ns,
                form=",.0f",
            ),
        )
    console.print(grid)
    print_details(console, [table.rows[0] for table in tables])
    return [table_data(table) for table in tables]


def _measure(
    options: Options, case: Case, n: int, contender: Contender, progress: Console
) -> Table:
    return measure(
        case, n, [contender], options.plan, baseline=contender.key, tell=teller(progress)
    )


def median_figure(
    figures: Sequence[dict[str, float]], figure: Callable[[dict[str, float]], float | None]
) -> float | None:
    """Returns the median over slices of a figure that contenders measured of themselves."""
    known = [value for each in figures if (value := figure(each)) is not None]
    return statistics.median(known) if known else None


def _cells(
    row: Row, *figures: Callable[[dict[str, float]], float | None], form: str = ",.1f"
) -> list[str]:
    if row.problem:
        return [row.problem]
    own = [done.figures for done in row.slices]
    values = [median_figure(own, figure) for figure in figures]
    return ["-" if value is None else format(value, form) for value in values]


def _grid(title: str, caption: str, headings: Sequence[str]) -> Grid:
    grid = Grid(title=title, caption=caption, title_justify="left", caption_justify="left")
    for heading in headings:
        grid.add_column(heading, justify="right")
    return grid


# --- tune ----------------------------------------------------------------------------------------


def tune(options: Options, console: Console, progress: Console) -> Data:
    """Prints which layout to use, and why."""
    data = []
    for n in options.sizes:
        found = autotune(
            options.case.env,
            n,
            policy_s=options.policy_ms * 1e-3,
            policy_row_s=options.policy_row_us * 1e-6,
            slice_s=options.plan.seconds,
            rounds=options.plan.rounds,
            tell=teller(progress),
        )
        print_tuning(console, options.case.name, found)
        data.append({"case": {"name": options.case.name}, **asdict(found)})
    return data


def print_tuning(console: Console, name: str, found: Tuning) -> None:
    """Prints the layouts and the advice."""
    grid = _grid(
        f"{name}, N = {found.n}, {found.cores} cores: which layout",
        "medians of rounds; shares of the manager's time",
        ("workers", "pace", "steps/s", "cores\nused", "envs", "waiting", "copying", "policy"),
    )
    for layout in found.layouts:
        grid.add_row(*_layout_cells(layout), style="bold green" if layout == found.best else None)
    console.print(grid)
    for line in found.advice:
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)


def _layout_cells(layout: LayoutFigures) -> list[str]:
    shares = (layout.environments, layout.waiting, layout.copying, layout.policy)
    return [
        str(layout.workers),
        layout.pace,
        f"{layout.steps_per_s:,.0f}",
        f"{layout.cores_used:.2f}",
        *(f"{share:.0%}" for share in shares),
    ]
