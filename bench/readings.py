"""How a figure is read from a table of plain data, as `--json` writes it.

So figures of a run can be compared and printed later, on any machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

Data = dict[str, Any]
Figure = Callable[[Data], float | None]  # of a table, or of a slice


def _per(name: str, of: str, unit: float = 1.0) -> Figure:
    """What a contender measured of itself, for each of something; None where it has not."""

    def figure(done: Data) -> float | None:
        known = {"slice": 1, "elapsed_s": done.get("elapsed_s"), **done["figures"]}
        value, count = known.get(name), known.get(of)
        return value / count / unit if value is not None and count else None

    return figure


IDEAL = _per("slept_s", "elapsed_s")
MANAGER_US = _per("manager_ns", "locksteps", 1e3)
WAITING_US = _per("waiting_ns", "locksteps", 1e3)
BARE_NS = _per("bare_ns", "bare_steps")
HOST_NS = _per("host_ns", "host_steps")


def added_ns(done: Data) -> float | None:
    """Nanoseconds that `EnvHost.step` adds to an environment step of the bare loop."""
    bare_ns, host_ns = BARE_NS(done), HOST_NS(done)
    return None if bare_ns is None or host_ns is None else host_ns - bare_ns


OF_SLICES: dict[str, tuple[Figure, str]] = {
    "share\nof the ideal": (IDEAL, ".1%"),
    "of the ideal\nif sleep were\nnot late": (_per("ideal_s", "elapsed_s"), ".1%"),
    "manager us\na lockstep": (MANAGER_US, ".1f"),
    "us, median\nlockstep": (_per("median_ns", "slice", 1e3), ".1f"),
    "us\nwaiting": (WAITING_US, ".1f"),
    "bare ns\na step": (BARE_NS, ".0f"),
    "EnvHost ns\na step": (HOST_NS, ".0f"),
    "ns\nadded": (added_ns, ".0f"),
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


def of_row(key: str, name: str, unit: float = 1.0) -> Figure:
    """A figure that stands in a contender's row."""

    def figure(table: Data) -> float | None:
        value = (row_of(table, key) or {}).get(name)
        return None if value is None else float(value) / unit

    return figure


def start_s(key: str) -> Figure:
    """The time to the first observation."""
    return of_row(key, "start_s")


def memory_mb(key: str) -> Figure:
    """PSS of the workers together, in 10^6 bytes."""
    return of_row(key, "pss_bytes", 1e6)


def of_slices(key: str, figure: Figure) -> Figure:
    """The median over slices of what a contender measured of itself."""

    def median(table: Data) -> float | None:
        row = row_of(table, key)
        return None if row is None else median_of_slices(row, figure)

    return median


def cpu_times(key: str, other: str) -> Figure:
    """How many times the CPU time of another, for a step."""

    def figure(table: Data) -> float | None:
        name = "cpu_s_per_million_steps"
        mine, theirs = of_row(key, name)(table), of_row(other, name)(table)
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
