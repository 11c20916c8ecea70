"""The plot of a collection: episode returns over steps, and steps/s over time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vecsess.cli.archive import require_writable
from vecsess.cli.failures import CommandError
from vecsess.cli.tally import RECENT, Tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS, _LINE = "#9ecae1", "#08519c"


def require_drawable(path: Path) -> None:
    """Refuses a plot that can't be drawn, before anything is collected.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        CommandError: the file can't be written, or not in that format.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError(
            "--plot needs matplotlib, which is not installed. "
            "Install it with: pip install 'vecsess[plot]'"
        )
    require_writable(path)
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise CommandError(f"--plot {path}: expected a name that ends in one of {', '.join(known)}")


def draw(path: Path, tally: Tally, title: str) -> None:
    """Draws what was collected.

    Args:
        path: its suffix decides the format.
        tally: of the collection.
        title: usually the id of the environment.

    Raises:
        CommandError: the file can't be written.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no state

    figure = Figure(figsize=(10, 4), layout="constrained")
    returns, rates = figure.subplots(1, 2)
    _draw_returns(returns, tally)
    _draw_rates(rates, tally)
    figure.suptitle(f"{title}, {tally.num_envs} environments, random actions")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise CommandError(f"--plot {path}: not written: {error.strerror or error}") from error


def _draw_returns(axes: Axes, tally: Tally) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("steps of all environments")
    axes.set_ylabel("return of an episode")
    if not tally.returns:
        axes.text(0.5, 0.5, "no episode has ended yet", ha="center", transform=axes.transAxes)
        return
    axes.plot(tally.ended_at, tally.returns, ".", color=_POINTS, markersize=3, rasterized=True)
    window = min(RECENT, max(1, len(tally.returns) // 5))
    mean = np.convolve(tally.returns, np.ones(window) / window, "valid")
    axes.plot(tally.ended_at[window - 1 :], mean, color=_LINE, label=f"mean of {window}")
    axes.legend(loc="upper right")


def _draw_rates(axes: Axes, tally: Tally) -> None:
    from matplotlib.ticker import EngFormatter

    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("seconds")
    axes.set_ylabel("steps/s")
    # A flat stretch up to the first point, which ends there.
    points = [(0.0, tally.rates[0][1]), *tally.rates] if tally.rates else []
    axes.step([s for s, _ in points], [rate for _, rate in points], where="pre", color=_LINE)
    mean = f"mean {tally.steps_per_s:,.0f}"
    axes.axhline(tally.steps_per_s, color=_POINTS, linestyle="--", label=mean)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
