"""What is shown: the table on the terminal and the same as plain data. Plots are in `plots`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from vecsess.bench.host import Started
from vecsess.bench.measure import Plan, Row, Table, cores_available

SCHEMA = 1
_PACKAGES = (
    "vecsess",
    "gymnasium",
    "numpy",
    "stable-baselines3",
    "tianshou",
    "torchrl",
    "torch",
    "pufferlib",
    "envpool",
    "mujoco",
    "ale-py",
)
_MIB = 1024 * 1024


def machine() -> dict[str, Any]:
    """Describes the machine as it is now, as far as it matters to the figures; no names."""
    return {
        "cores": cores_available(),
        "cores_online": os.cpu_count(),
        "cpu": _cpu_model(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": os.getloadavg()[0],
    }


def versions() -> dict[str, str | None]:
    """Names the version of each package that takes part, None where it isn't installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def document(
    command: str, plan: Plan, on: dict[str, Any], tables: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Puts one run into plain data: everything that a stranger needs to repeat and judge it."""
    return {
        "schema": SCHEMA,
        "command": command,
        "plan": asdict(plan),
        "machine": on,
        "versions": versions(),
        "tables": list(tables),
    }


def table_data(table: Table) -> dict[str, Any]:
    """Puts a table into plain data, each slice included."""
    return {
        "case": _case_data(table),
        "n": table.n,
        "cores": table.cores,
        "baseline": table.baseline,
        "limit_steps_per_s": table.limit,
        "rows": [_row_data(table, row) for row in table.rows],
    }


def starts_data(
    case_name: str, n: int, found: Sequence[tuple[Row, list[Started]]]
) -> dict[str, Any]:
    """Puts start times into plain data."""
    return {
        "case": {"name": case_name},
        "n": n,
        "rows": [
            {
                "key": row.contender.key,
                "label": row.contender.label,
                "problem": row.problem,
                "start_s": _median_of(starts, "start_s"),
                "pss_bytes": _median_of(starts, "pss_bytes"),
                "processes": _median_of(starts, "processes"),
                "starts": [asdict(started) for started in starts],
            }
            for row, starts in found
        ],
    }


def print_table(console: Console, table: Table) -> None:
    """Prints the one table."""
    grid = _grid(_title(table), _about(table))
    for heading in (
        "steps/s",
        f"times\n{table.baseline}",
        "share of\nthe limit",
        "CPU s /\n1M steps",
        "cores\nused",
        "start\ns",
        "workers'\nPSS MiB",
    ):
        grid.add_column(heading, justify="right", vertical="bottom")
    for row in table.rows:
        if row.problem:
            grid.add_row(row.contender.label, row.problem, style="dim")
        else:
            grid.add_row(row.contender.label, *_cells(table, row))
    console.print(grid)
    print_details(console, table.rows)


def print_starts(
    console: Console, case_name: str, n: int, found: Sequence[tuple[Row, list[Started]]]
) -> None:
    """Prints start times and memory."""
    grid = _grid(f"{case_name}, N = {n}: to the first observation", "medians; idle after reset")
    for heading in ("start s", "processes", "PSS MiB together"):
        grid.add_column(heading, justify="right")
    for row, starts in found:
        if row.problem:
            grid.add_row(row.contender.label, row.problem, style="dim")
            continue
        grid.add_row(
            row.contender.label,
            _number(_median_of(starts, "start_s"), ".3f"),
            _number(_median_of(starts, "processes"), ".0f"),
            _number(_mib(_median_of(starts, "pss_bytes")), ".1f"),
        )
    console.print(grid)
    print_details(console, [row for row, _ in found])


def print_checks(console: Console, table: Table) -> None:
    """Says in one line what the value checks cost."""
    checked, unchecked = table.row("checked"), table.row("unchecked")
    times = checked.times(unchecked) if checked else None
    if times is not None:
        console.print(f"value checks: {1 - times:.1%} of a lockstep at N = {table.n}, 2 workers")


def core_time(table: Table, row: Row) -> dict[str, float] | None:
    """Says where the time of the cores goes, as shares of all there is (cores times wall time).

    What the environments themselves take is the bare environment's CPU time a step. The rest of
    the workers' CPU time is what the workers add (protocol, copies, waiting by spinning), and the
    rest of the trainer's likewise.
    """
    bare = table.row("bare")
    env_s = bare.median(lambda done: done.cpu_s / done.steps) if bare else None
    if env_s is None or not row.slices or row.contender.own_environments:
        return None
    steps = sum(done.steps for done in row.slices)
    wall_s = sum(done.elapsed_s for done in row.slices) * table.cores
    manager_s = sum(done.manager_cpu_s for done in row.slices)
    workers_s = sum(done.workers_cpu_s for done in row.slices)
    in_workers = row.started is not None and row.started.processes > 0
    envs_s = min(env_s * steps, workers_s if in_workers else manager_s)
    if row.contender.bare:
        envs_s, workers_s, manager_s = workers_s + manager_s, 0.0, 0.0
    elif in_workers:
        workers_s -= envs_s
    else:
        manager_s -= envs_s
    used = {"environments": envs_s, "workers": workers_s, "trainer": manager_s}
    shares = {part: seconds / wall_s for part, seconds in used.items()}
    return {**shares, "idle": max(0.0, 1 - sum(shares.values()))}


def _row_data(table: Table, row: Row) -> dict[str, Any]:
    return {
        "key": row.contender.key,
        "label": row.contender.label,
        "problem": row.problem,
        "details": row.details,
        "steps_per_s": row.rate,
        "times_baseline": table.times_baseline(row),
        "share_of_limit": table.share_of_limit(row),
        "cpu_s_per_million_steps": row.cpu_s_per_million,
        "cores_used": row.cores_used,
        "start_s": row.started and row.started.start_s,
        "pss_bytes": row.started and row.started.pss_bytes,
        "processes": row.started and row.started.processes,
        "core_time": core_time(table, row),
        "slices": [asdict(done) for done in row.slices],
    }


def _case_data(table: Table) -> dict[str, Any]:
    case = table.case
    return {
        "name": case.name,
        "about": case.about,
        "step_time": asdict(case.step_time) if case.step_time else None,
    }


def _cells(table: Table, row: Row) -> list[str]:
    started = row.started
    return [
        _number(row.rate, ",.0f"),
        _number(table.times_baseline(row), ".2f"),
        _number(table.share_of_limit(row), ".1%"),
        _number(row.cpu_s_per_million, ".2f"),
        _number(row.cores_used, ".2f"),
        _number(started.start_s if started else None, ".3f"),
        _number(_mib(started.pss_bytes if started else None), ".1f"),
    ]


def _about(table: Table) -> str:
    step_time = table.case.step_time
    if step_time is None:
        return table.case.about
    how = "asleep" if step_time.sleeping else "busy"
    spread = f", log-normal with sigma {step_time.sigma:g}" if step_time.sigma else ""
    return f"{table.case.about}; {how} {step_time.mean_us:g} us a step{spread}"


def _title(table: Table) -> str:
    limit = table.limit
    title = f"{table.case.name}, N = {table.n}, {table.cores} cores"
    if limit is None:
        return title
    factor = table.case.limit_factor(table.n, table.cores)
    return f"{title}; limit {factor} x bare = {limit:,.0f} steps/s"


def _grid(title: str, caption: str) -> Grid:
    grid = Grid(title=title, caption=caption, title_justify="left", caption_justify="left")
    grid.add_column("contender", no_wrap=True)
    return grid


def print_details(console: Console, rows: Sequence[Row]) -> None:
    """Says in a line each why there are no figures."""
    for row in rows:
        if row.details:  # the first line; the rest is in the JSON file
            line = f"{row.contender.label}: {row.details.splitlines()[0]}"
            console.print(line, markup=False, highlight=False)


def _median_of(starts: Sequence[Started], name: str) -> float | None:
    return statistics.median(getattr(started, name) for started in starts) if starts else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _mib(size_bytes: float | None) -> float | None:
    return None if size_bytes is None else size_bytes / _MIB


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
