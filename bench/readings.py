"""How a figure is read from a table of plain data, as `--json` writes it.

So figures of a run can be compared and printed later, on any machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from vecsess.bench.overhead import manager_us, step_ns, waiting_us, worker_ns

Data = dict[str, Any]
Figure = Callable[[Data], float | None]  # of a table, or of a slice


def _share_of_slice(name: str) -> Figure:
    def figure(done: Data) -> float | None:
        ideal_s = done["figures"].get(name)
        return ideal_s / done["elapsed_s"] if ideal_s else None

    return figure


def _own(needed: str, figure: Callable[[dict[str, float]], float | None]) -> Figure:
    """The figure of a slice, where the contender measured what it takes."""
    return lambda done: figure(done["figures"]) if needed in done["figures"] else None


IDEAL = _share_of_slice("slept_s")
MANAGER_US = _own("manager_ns", manager_us)
ADDED_NS = _own("host_ns", worker_ns)

OF_SLICES: dict[str, tuple[Figure, str]] = {
    "share of the ideal": (IDEAL, ".1%"),
    "of the ideal if sleep were not late": (_share_of_slice("ideal_s"), ".1%"),
    "manager us a lockstep": (MANAGER_US, ".1f"),
    "us, median lockstep": (
        _own("median_ns", lambda figures: figures["median_ns"] / 1e3),
        ".1f",
    ),
    "us waiting": (_own("waiting_ns", waiting_us), ".1f"),
    "bare ns a step": (_own("host_ns", lambda figures: step_ns(figures, "bare")), ".0f"),
    "EnvHost ns a step": (_own("host_ns", lambda figures: step_ns(figures, "host")), ".0f"),
    "ns added": (ADDED_NS, ".0f"),
}


def median_of_slices(row: Data, figure: Figure) -> float | None:
    """The median over a row's slices, None where none has it."""
    known = [value for done in row.get("slices", []) if (value := figure(done)) is not None]
    return statistics.median(known) if known else None


def row_of(table: Data, key: str) -> Data | None:
    """Finds a contender's row, if it has figures."""
    rows = (row for row in table["rows"] if row["key"] == key and not row["problem"])
    return next(rows, None)


def times(key: str, *others: str) -> Figure:
    """How many times the rate of the fastest of `others`; the median of each round's ratio."""

    def figure(table: Data) -> float | None:
        mine = row_of(table, key)
        known = [row for other in others if (row := row_of(table, other))]
        if mine is None or not known:
            return None
        best = max(known, key=lambda row: float(row["steps_per_s"]))
        return statistics.median(a / b for a, b in zip(_rates(mine), _rates(best), strict=True))

    return figure


def start_s(key: str) -> Figure:
    """The time to the first observation."""
    return lambda table: _read(row_of(table, key), "start_s")


def memory_mb(key: str) -> Figure:
    """PSS of the workers together, in 10^6 bytes."""

    def figure(table: Data) -> float | None:
        size_bytes = _read(row_of(table, key), "pss_bytes")
        return None if size_bytes is None else size_bytes / 1e6

    return figure


def of_slices(key: str, figure: Figure) -> Figure:
    """The median over slices of what a contender measured of itself."""

    def median(table: Data) -> float | None:
        row = row_of(table, key)
        return None if row is None else median_of_slices(row, figure)

    return median


def cpu_times(key: str, other: str) -> Figure:
    """How many times the CPU time of another, for a step."""

    def figure(table: Data) -> float | None:
        mine = _read(row_of(table, key), "cpu_s_per_million_steps")
        theirs = _read(row_of(table, other), "cpu_s_per_million_steps")
        return mine / theirs if mine and theirs else None

    return figure


def cost(key: str, other: str) -> Figure:
    """By how much it is slower than another, as a share."""

    def figure(table: Data) -> float | None:
        ratio = times(key, other)(table)
        return None if ratio is None else 1 - ratio

    return figure


def of_case(name: str, figure: Figure) -> Figure:
    """The figure, where the table is of this case."""
    return lambda table: figure(table) if table["case"]["name"] == name else None


def _rates(row: Data) -> Iterator[float]:
    return (done["steps"] / done["elapsed_s"] for done in row["slices"])


def _read(row: Data | None, name: str) -> float | None:
    return None if row is None or row.get(name) is None else float(row[name])
