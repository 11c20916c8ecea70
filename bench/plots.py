"""Plots as PNG files: throughput over N, and where the time of the cores goes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vecsess.bench.measure import Table
from vecsess.bench.report import core_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, "Color universal design" (2008), which the colour-blind can tell apart.
_PARTS = {  # colour and wording of what `core_time` tells apart
    "environments": ("#009e73", "environments"),
    "workers": ("#e69f00", "the rest of the workers"),
    "trainer": ("#0072b2", "the rest of the trainer"),
    "idle": ("#e6e6e6", "idle"),
}
_OURS = ("#08306b", "#2171b5", "#4aa3df", "#9ecae1")
_OTHERS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000", "#999999")
_MARKS = "os^Dv<>pX"  # where there are more lines than colours
_LABELLED = 4.0  # percent: a number needs that much of a bar


def plot_throughput(tables: Sequence[Table], path: Path) -> None:
    """Draws steps/s over N, a line for each contender, both axes logarithmic."""
    figure, axes = _figure(10, 6)
    colours = {True: itertools.cycle(_OURS), False: itertools.cycle(_OTHERS)}
    marks = itertools.cycle(_MARKS)
    for key, label in _labels(tables).items():
        ours = key.startswith("ours")
        colour, width = next(colours[ours]), 2.5 if ours else 1.2
        rows = [(table.n, table.row(key)) for table in tables]
        points = [(n, row.rate) for n, row in rows if row and row.rate]
        if points:
            at, rates = zip(*points, strict=True)
            mark = next(marks)
            axes.plot(at, rates, marker=mark, ms=4, color=colour, lw=width, label=label)
    limits = [(table.n, table.limit) for table in tables if table.limit]
    if limits:
        axes.plot(*zip(*limits, strict=True), "k--", lw=1, label="limit")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([table.n for table in tables], [str(table.n) for table in tables])
    axes.set(xlabel="environments (N)", ylabel="steps/s")
    axes.set_title(f"{tables[0].case.about}, {tables[0].cores} cores")
    axes.grid(visible=True, alpha=0.3)
    figure.legend(fontsize="small", loc="outside right upper")
    _save(figure, path)


def plot_core_time(table: Table, path: Path) -> None:
    """Draws a bar for each contender: how the time of the cores is shared out."""
    shares = {row.contender.label: core_time(table, row) for row in reversed(table.rows)}
    known = {label: share for label, share in shares.items() if share}
    figure, axes = _figure(9, 1.5 + 0.4 * len(known))
    left = [0.0] * len(known)
    for part, (colour, wording) in _PARTS.items():
        widths = [100 * share[part] for share in known.values()]
        bars = axes.barh(list(known), widths, left=left, color=colour, label=wording)
        numbers = [f"{width:.0f}" if width >= _LABELLED else "" for width in widths]
        dark = part == "trainer"
        axes.bar_label(
            bars, numbers, label_type="center", fontsize=8, color="white" if dark else "black"
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set(xlim=(0, 100), xlabel="% of the time of all cores")
    axes.set_title(f"{table.case.about}, N = {table.n}, {table.cores} cores")
    figure.legend(ncols=len(_PARTS), fontsize="small", loc="outside lower center")
    _save(figure, path)


def _labels(tables: Sequence[Table]) -> dict[str, str]:
    # A contender that has layouts may be laid out otherwise at each N: name it without.
    return {
        row.contender.key: row.contender.label.partition(",")[0]
        for table in tables
        for row in table.rows
        if not row.contender.bare
    }


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModuleNotFoundError("plots need matplotlib: install vecsess[plot]") from error
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
