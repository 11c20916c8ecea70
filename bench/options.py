"""What every command is given, and how most of them measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vecsess.bench import registry
from vecsess.bench.cases import Case
from vecsess.bench.contenders import Contender
from vecsess.bench.host import START_TIMEOUT_S
from vecsess.bench.measure import Plan, Table, measure
from vecsess.bench.plots import plot_core_time
from vecsess.bench.report import print_table

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
    peers: str = "all"
    only: str | None = None
    plots: Path | None = None
    kills: int = 2000
    seed: int = 0
    start_limit_s: float = START_TIMEOUT_S / 2
    policy_ms: float = 0.0
    policy_row_us: float = 0.0


def measured_table(
    options: Options,
    n: int,
    contenders: Sequence[Contender],
    console: Console,
    progress: Console,
    *,
    baseline: str = registry.ASYNC.key,
) -> Table:
    """Measures contenders side by side, prints the table, and plots it where that was asked for."""
    table = measure(
        options.case, n, contenders, options.plan, baseline=baseline, tell=teller(progress)
    )
    print_table(console, table)
    if options.plots is not None:
        plot_core_time(table, options.plots / f"core-time-{options.case.name}-{n}.png")
    return table


def teller(progress: Console) -> Callable[[str], None]:
    """Returns what says what is going on."""
    return lambda line: progress.print(line, style="dim", markup=False, highlight=False)
