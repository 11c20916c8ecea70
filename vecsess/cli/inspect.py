"""`vecsess inspect FILE.npz`: says what is in a batch that `collect --out` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vecsess.cli.archive import Archive, load
from vecsess.cli.figures import short
from vecsess.cli.tables import fitted, spread
from vecsess.fleet.reports import printable
from vecsess.wire.values import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="what collect --out wrote")


def run(options: argparse.Namespace) -> int:
    """Prints shapes, dtypes, ranges, NaN counts, returns and episode lengths."""
    archive = load(options.file)
    console = Console()
    console.print(printable(_headline(archive)), highlight=False, markup=False)
    console.print(arrays_table(console, archive.arrays))
    console.print(_episodes_table(archive.arrays))
    return 0


def _headline(archive: Archive) -> str:
    horizon, n = archive.arrays["rewards"].shape
    about = archive.about
    return (
        f"{horizon} steps of {n} environments, {about.get('env', 'unknown environment')}, "
        f"seed {about.get('seed', '?')}, written by vecsess {about.get('vecsess', '?')}"
    )


def arrays_table(console: Console, arrays: dict[str, Array]) -> Table:
    """Returns a row for each array."""
    rows = []
    for name, array in arrays.items():
        nans = count_nans(array)
        low, high = _ends(array)
        shape = "[" + ", ".join(map(str, array.shape)) + "]"
        cells = {"array": escape(printable(name)), "shape": shape, "dtype": str(array.dtype)}
        rows.append((cells | {"min": low, "max": high, "NaN": f"{nans:,}"}, "red" * bool(nans)))
    order = ("array", "NaN", "shape", "dtype", "max", "min")
    return fitted(console, rows, order, left=("array", "shape", "dtype"))


def count_nans(array: Array) -> int:
    """Returns how many elements are NaN.

    Example:
        >>> count_nans(np.array([1.0, np.nan])), count_nans(np.array([1, 2]))
        (1, 0)
    """
    return int(np.isnan(array).sum()) if array.dtype.kind in "fc" else 0


def _ends(array: Array) -> tuple[str, str]:
    if not array.size or array.dtype.kind not in "biuf":
        return "-", "-"
    if array.dtype.kind == "b":
        return str(array.min()), str(array.max())
    known = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    if not known.size:
        return "-", "-"
    return short(float(known.min())), short(float(known.max()))


def _episodes_table(arrays: dict[str, Array]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    returns = arrays["episode_returns"].tolist()
    lengths = arrays["episode_lengths"].tolist()
    table.add_row("episodes", f"{len(returns):,}")
    table.add_row("return", spread(returns))
    table.add_row("length", spread(lengths))
    table.add_row("rewards", f"sum {short(float(arrays['rewards'].sum()))}")
    table.add_row("invalid rows", f"{int(np.count_nonzero(~arrays['valid'])):,}")
    return table
