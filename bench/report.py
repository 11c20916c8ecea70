"""What is shown: tables as plain data, and their columns, on the terminal as in RESULTS.md."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from vecsess.bench.host import Started
from vecsess.bench.measure import Plan, Row, Table, cores_available
from vecsess.bench.readings import OF_SLICES, Data, cost, median_of_slices, row_of

SCHEMA = 1
_PACKAGES = "vecsess gymnasium numpy stable-baselines3 tianshou torchrl torch pufferlib envpool"
_MIB = 1024 * 1024

Column = tuple[str, Callable[[Data], Any], str]  # heading, value of a row, how it is written


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
    for package in (*_PACKAGES.split(), "mujoco", "ale-py"):
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


def table_data(table: Table) -> Data:
    """Puts a table into plain data, each slice included."""
    case = table.case
    return {
        "case": {
            "name": case.name,
            "about": case.about,
            "step_time": asdict(case.step_time) if case.step_time else None,
        },
        "n": table.n,
        "cores": table.cores,
        "baseline": table.baseline,
        "limit_steps_per_s": table.limit,
        "rows": [_row_data(table, row) for row in table.rows],
    }


def starts_data(case_name: str, n: int, found: Sequence[tuple[Row, list[Started]]]) -> Data:
    """Puts start times into plain data."""
    about = "to the first observation; medians; idle after reset"
    return {
        "case": {"name": case_name, "about": about},
        "n": n,
        "rows": [
            {
                **_who(row),
                **{name: _median_of(starts, name) for name in _STARTED},
                "starts": [asdict(started) for started in starts],
            }
            for row, starts in found
        ],
    }


def _row_data(table: Table, row: Row) -> Data:
    return {
        **_who(row),
        "steps_per_s": row.rate,
        "times_baseline": table.times_baseline(row),
        "share_of_limit": table.share_of_limit(row),
        "cpu_s_per_million_steps": row.cpu_s_per_million,
        "cores_used": row.cores_used,
        **{name: row.started and getattr(row.started, name) for name in _STARTED},
        "core_time": core_time(table, row),
        "slices": [asdict(done) for done in row.slices],
    }


def _who(row: Row) -> Data:
    contender = row.contender
    known = {"key": contender.key, "label": contender.label}
    return {**known, "problem": row.problem, "details": row.details}


def _median_of(starts: Sequence[Started], name: str) -> float | None:
    return statistics.median(getattr(started, name) for started in starts) if starts else None


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


# --- columns -------------------------------------------------------------------------------------


def shown(table: Data) -> tuple[str, list[str], list[list[str]]]:
    """Returns title, headings and cells of a table of plain data; the first column says who."""
    rows = _rows(table)
    if "layouts" in table:
        who, key, columns = "workers", "workers", list(_LAYOUT)
    else:
        standard = _THROUGHPUT if "limit_steps_per_s" in table else _START
        known = (*standard, *_OWN)
        columns = [each for each in known if any(each[1](row) is not None for row in rows)]
        columns = columns or list(standard)
        who, key = "contender", "label"
    headings = [heading.format(baseline=table.get("baseline")) for heading, _, _ in columns]
    cells = []
    for row in rows:
        written = [_written(value(row), form) for _, value, form in columns]
        if row.get("problem"):
            written = [row["problem"], *[""] * (len(columns) - 1)]
        cells.append([str(row[key]), *written])
    return _title(table), [who, *headings], cells


def print_table(console: Console, table: Data) -> None:
    """Prints the table; below it, a line each, why there are no figures, and advice."""
    title, (who, *headings), cells = shown(table)
    grid = Grid(title=title, caption=_about(table["case"]), title_justify="left")
    grid.caption_justify = "left"
    grid.add_column(who, no_wrap=True, vertical="bottom")
    for heading in headings:
        grid.add_column(heading, justify="right", vertical="bottom")
    rows = _rows(table)
    for row, written in zip(rows, cells, strict=True):
        best = "bold green" if row == table.get("best") else None
        grid.add_row(*written, style="dim" if row.get("problem") else best)
    console.print(grid)
    for row in rows:
        if row.get("details"):  # the first line; the rest is in the JSON file
            line = f"{row['label']}: {row['details'].splitlines()[0]}"
            console.print(line, markup=False, highlight=False)
    for line in table.get("advice", ()):
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)


def print_checks(console: Console, table: Data) -> None:
    """Says in one line what the value checks cost."""
    share = cost("checked", "unchecked")(table)
    if share is not None:
        console.print(f"value checks: {share:.1%} of a lockstep at N = {table['n']}, 2 workers")


def _rows(table: Data) -> list[Data]:
    return list(table["layouts"] if "layouts" in table else table["rows"])


def _title(table: Data) -> str:
    title = f"{table['case']['name']}, N = {table['n']}"
    if "cores" in table:
        title += f", {table['cores']} cores"
    limit, bare = (
        table.get("limit_steps_per_s"),
        None if "layouts" in table else row_of(table, "bare"),
    )
    if limit and bare:
        title += f"; limit {limit / bare['steps_per_s']:.0f} x bare = {limit:,.0f} steps/s"
    return title


def _about(case: Data) -> str:
    about, step_time = str(case["about"]), case.get("step_time")
    if not step_time:
        return about
    how = "asleep" if step_time["sleeping"] else "busy"
    spread = f", log-normal with sigma {step_time['sigma']:g}" if step_time["sigma"] else ""
    return f"{about}; {how} {step_time['mean_us']:g} us a step{spread}"


def _written(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _column(heading: str, name: str, form: str, unit: float = 1) -> Column:
    def value(row: Data) -> Any:
        found = row.get(name)
        return found if found is None or unit == 1 else found / unit

    return heading, value, form


_STARTED = ("start_s", "pss_bytes", "processes")
_START_S = _column("start\ns", "start_s", ".3f")
_MEMORY = _column("workers'\nPSS MiB", "pss_bytes", ".1f", _MIB)
_RATE = _column("steps/s", "steps_per_s", ",.0f")
_CORES = _column("cores\nused", "cores_used", ".2f")
_START = (_START_S, _column("processes", "processes", ".0f"), _MEMORY)
_THROUGHPUT = (
    _RATE,
    _column("times\n{baseline}", "times_baseline", ".2f"),
    _column("share of\nthe limit", "share_of_limit", ".1%"),
    _column("CPU s /\n1M steps", "cpu_s_per_million_steps", ".2f"),
    _CORES,
    _START_S,
    _MEMORY,
)
_SHARES = ("environments", "waiting", "copying", "policy")  # of the manager's time
_LAYOUT = (
    _column("pace", "pace", ""),
    _RATE,
    _CORES,
    *(_column(name, name, ".0%") for name in _SHARES),
)
_OWN = [
    (heading, partial(median_of_slices, figure=figure), form)
    for heading, (figure, form) in OF_SLICES.items()
]


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
