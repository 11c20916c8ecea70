"""The tables that follow a collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from vecsess.cli.failures import brief
from vecsess.cli.figures import plural, seconds, short, size
from vecsess.cli.tally import Tally
from vecsess.recovery.policy import Incident


def summary_table(tally: Tally) -> Table:
    """Returns what was collected, in sum."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    rollouts, steps = plural(tally.rollouts, "rollout"), plural(tally.steps, "step")
    table.add_row("collected", f"{rollouts}, {steps} in {seconds(tally.elapsed_s)}")
    table.add_row("steps/s", f"{tally.steps_per_s:,.0f}")
    table.add_row("episodes", f"{len(tally.returns):,}")
    table.add_row("return", spread(tally.returns))
    table.add_row("length", spread(tally.lengths))
    table.add_row("invalid rows", f"{tally.invalid:,}", style="red" if tally.invalid else "")
    return table


# The columns of a table of workers, the most important first.
WORKER_COLUMNS = (
    *("worker", "state", "steps/s", "restarts", "step p50", "cpu", "pid", "waited"),
    *("p99", "unique", "rss", "threads", "files"),
)
_ANY_WIDTH = 10_000
_STYLES = {"dead": "red", "quarantined": "red", "stopped": "yellow"}


def workers_table(
    console: Console, workers: Iterable[Mapping[str, Any]], title: str | None = None
) -> Table:
    """Returns a row per worker.

    Args:
        console: says how many columns there is room for.
        workers: each the fields of a `WorkerHealth`.
        title: stands above.
    """
    rows = [(worker_cells(worker), _STYLES.get(worker["state"], "")) for worker in workers]
    return fitted(console, rows, WORKER_COLUMNS, left=("state",), title=title)


def worker_cells(worker: Mapping[str, Any]) -> dict[str, str]:
    """Returns what is shown of a worker, by column, in the order in which they stand."""
    cpu = worker["cpu_percent"]
    return {
        "worker": str(worker["worker"]),
        "pid": str(worker["pid"]),
        "state": worker["state"],
        "restarts": str(worker["restarts"]),
        "unique": size(worker["unique_bytes"]),
        "rss": size(worker["rss_bytes"]),
        "cpu": "-" if cpu is None else f"{cpu:.0f} %",
        "files": str(worker["open_files"] or "-"),
        "threads": str(worker["threads"] or "-"),
        "steps/s": f"{worker['steps_per_s']:,.0f}",
        "step p50": seconds(worker["step_p50_s"]),
        "p99": seconds(worker["step_p99_s"]),
        "waited": seconds(worker["waited_s"]),
    }


def fitted(
    console: Console,
    rows: Sequence[tuple[Mapping[str, str], str]],
    order: Sequence[str],
    *,
    left: Container[str] = (),
    title: str | None = None,
) -> Table:
    """Returns a table of as many columns as there is room for, none of them cut.

    Args:
        console: has the width.
        rows: for each its cells by column, all with the same columns, and its style.
        order: the columns, the most important first; the first one always stays.
        left: which are no numbers.
        title: stands above.
    """
    chosen: list[str] = []
    for name in order:
        wider = _table(rows, [*chosen, name], left)
        wanted = console.measure(wider, options=console.options.update(width=_ANY_WIDTH)).maximum
        if wanted <= console.width or not chosen:
            chosen.append(name)
    table = _table(rows, chosen, left)
    hidden = len(order) - len(chosen)
    table.title, table.title_justify = title, "left"
    table.caption = f"{plural(hidden, 'column')} more in a wider terminal" if hidden else None
    return table


def _table(
    rows: Sequence[tuple[Mapping[str, str], str]], chosen: list[str], left: Container[str]
) -> Table:
    """Returns a table of the chosen columns, in the order of the cells."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    names = [name for name in (rows[0][0] if rows else chosen) if name in chosen]
    for name in names:
        justify: JustifyMethod = "left" if name in left else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for cells, style in rows:
        table.add_row(*(Text(cells[name]) for name in names), style=style)
    return table


def incidents_table(incidents: list[Incident]) -> Table:
    """Returns a row for each kind of loss and what was done about it, with its last case."""
    times: Counter[tuple[str, str]] = Counter()
    cases: dict[tuple[str, str], str] = {}
    for incident in incidents:
        for outcome in incident.outcomes.values():
            done, _, remark = outcome.partition("; ")
            times[incident.kind, done] += 1
            case = brief(incident.what)
            cases[incident.kind, done] = f"{case}; {remark}" if remark else case
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("incident", no_wrap=True)
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("what was done", overflow="fold")
    table.add_column("the last one", overflow="fold")
    for (kind, done), count in times.items():
        table.add_row(kind, f"{count:,}", done, Text(cases[kind, done]))
    return table


def reproducers(incidents: list[Incident]) -> list[str]:
    """Returns the files that the incidents name and that are still there."""
    outcomes = (outcome for incident in incidents for outcome in incident.outcomes.values())
    named = (outcome.partition("; reproducer: ")[2] for outcome in outcomes)
    return [path for path in dict.fromkeys(named) if path and Path(path).exists()]


def spread(values: list[float] | list[int]) -> str:
    """Returns mean and extremes.

    Example:
        >>> spread([9, 11])
        'mean 10, min 9, max 11'
    """
    if not values:
        return "no episode has ended yet"
    mean = sum(values) / len(values)
    return f"mean {short(mean)}, min {short(min(values))}, max {short(max(values))}"
