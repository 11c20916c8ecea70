"""The tables that follow a collection."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.table import Table
from rich.text import Text

from vecsess.cli.failures import brief
from vecsess.cli.figures import plural, seconds, short, size
from vecsess.cli.tally import Tally
from vecsess.fleet.health import WorkerHealth
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


def workers_table(rows: list[WorkerHealth]) -> Table:
    """Returns a row per worker."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("worker", justify="right", no_wrap=True)
    table.add_column("pid", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("restarts", "rss", "cpu", "steps/s", "step p50", "p99", "waited"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.worker),
            str(row.pid),
            row.state,
            str(row.restarts),
            size(row.rss_bytes),
            "-" if row.cpu_percent is None else f"{row.cpu_percent:.0f} %",
            f"{row.steps_per_s:,.0f}",
            seconds(row.step_p50_s),
            seconds(row.step_p99_s),
            seconds(row.waited_s),
            style="red" if row.state in ("dead", "quarantined") else "",
        )
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
    table.add_column("incident")
    table.add_column("times", justify="right")
    table.add_column("what was done", overflow="fold")
    table.add_column("the last one", overflow="fold")
    for (kind, done), count in times.items():
        table.add_row(kind, f"{count:,}", done, Text(cases[kind, done]))
    return table


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
