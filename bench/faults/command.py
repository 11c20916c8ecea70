"""The command `faults` of the bench: runs the campaign and prints the table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from vecsess.bench.faults.campaign import Figure, Scale, as_data, run_campaign
from vecsess.bench.faults.peers import Stand, stands
from vecsess.bench.faults.tally import Tally


def run_faults(
    kills: int, seed: int, peers: str, console: Console, progress: Console
) -> list[dict[str, Any]]:
    """Runs the campaign.

    Args:
        kills: of workers; everything else is scaled with it.
        seed: of environments, actions and moments.
        peers: "all", "none", or keys, separated by commas.
        console: for the tables.
        progress: for what is going on.

    Returns:
        One table as plain data, with `failed`.
    """
    with _own_console(progress) as told:

        def tell(line: str) -> None:
            told.print(line, style="dim", markup=False, highlight=False)

        figures, tallies = run_campaign(Scale.of(kills), seed, tell)
        console.print(figures_table(figures))
        console.print(workloads_table(tallies))
        found: list[Stand] = []
        if peers != "none":
            tell("the same kills, done to others")
            found = stands(None if peers == "all" else peers.split(","))
            console.print(stands_table(found))
    data = as_data(figures, tallies)
    data["stands"] = [asdict(stand) for stand in found]
    return [data]


@contextmanager
def _own_console(progress: Console) -> Iterator[Console]:
    """Yields a console that still writes when the campaign has silenced descriptor 2."""
    if not progress.stderr:
        yield progress
        return
    with os.fdopen(os.dup(2), "w") as copy:
        yield Console(file=copy, force_terminal=progress.is_terminal)


def figures_table(figures: list[Figure]) -> Table:
    """Returns the campaign's table."""
    table = Table(title="fault campaign", title_justify="left")
    table.add_column("figure", overflow="fold")
    table.add_column("target")
    table.add_column("result", overflow="fold")
    table.add_column("")
    for figure in figures:
        table.add_row(
            "\n  ".join([figure.name, *figure.details]),
            figure.target,
            figure.result,
            "[green]reached[/green]" if figure.reached else "[red]MISSED[/red]",
        )
    return table


def workloads_table(tallies: list[Tally]) -> Table:
    """Returns what the kills did to each workload."""
    table = Table(title="kills by workload", title_justify="left")
    table.add_column("workload")
    for name in ("kills", "locksteps", "wrong rows", "marked rows", "recovery p50", "p99"):
        table.add_column(name, justify="right")
    for tally in tallies:
        ordered = sorted(tally.latencies_s) or [float("nan")]
        p50, p99 = (ordered[int(share * (len(ordered) - 1))] * 1e3 for share in (0.5, 0.99))
        table.add_row(
            tally.label,
            f"{tally.kills:,}",
            f"{tally.locksteps:,}",
            str(sum(tally.wrong.values())),
            str(tally.marked),
            f"{p50:.0f} ms",
            f"{p99:.0f} ms",
            style="" if tally.sound else "red",
        )
    return table


def stands_table(found: list[Stand]) -> Table:
    """Returns where each library stands after the same kills."""
    table = Table(title="the same kills, CartPole-v1 x4", title_justify="left")
    table.add_column("library")
    table.add_column("kills survived", justify="right")
    table.add_column("then")
    for stand in found:
        table.add_row(stand.label, f"{stand.survived} of {stand.kills}", stand.how)
    return table
