"""How a collection shows itself while it runs: a live bar, plain lines, or nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vecsess.cli.figures import plural, short
from vecsess.cli.tally import Tally

Show = Callable[[Tally, dict[str, int]], None]

BAR_EVERY_S, LINE_EVERY_S = 0.2, 2.0
_TEXT_WIDTH = 68  # of what stands beside the bar, with room for larger numbers
_FIGURES_WIDTH = 48  # of that without the states; what there is no room for is left out, not cut
_LABELS_WIDTH = 112  # with names beside the clocks


@contextlib.contextmanager
def watch(console: Console, rollouts: int, horizon: int, *, quiet: bool) -> Iterator[Show]:
    """Yields what is to be called with the tally and the workers' states, as often as one likes.

    Args:
        console: where to; a terminal gets a bar, anything else a line now and then.
        rollouts: how many there will be.
        horizon: `T` of each.
        quiet: show nothing.
    """
    if quiet:
        yield lambda tally, states: None
    elif console.is_terminal:
        with _bar(console) as progress:
            yield _bar_show(progress, rollouts, horizon)
    else:
        yield _line_show(console, rollouts)


def states_text(states: dict[str, int]) -> str:
    """Returns what the workers do.

    Example:
        >>> states_text({"ready": 16}), states_text({"ready": 15, "restarting": 1})
        ('16 workers ready', '15 ready, 1 restarting')
    """
    if len(states) == 1:
        ((state, count),) = states.items()
        return f"{plural(count, 'worker')} {state}"
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _bar(console: Console) -> Progress:
    # Refreshed by hand: a refresh from a thread of its own would take turns with the collection.
    # Not as wide as the terminal, whose echo of Ctrl-C would break the line otherwise.
    width = console.width
    columns: list[ProgressColumn] = [
        TextColumn("{task.fields[counts]}", style="bold"),
        TextColumn("{task.fields[figures]}"),
    ]
    if width >= _TEXT_WIDTH:
        columns.append(TextColumn("{task.fields[states]}", style="dim"))
    if width >= _FIGURES_WIDTH:
        columns.append(TimeElapsedColumn())
    if width >= _LABELS_WIDTH:
        columns.insert(-1, TextColumn("elapsed", style="dim"))
        columns += [TextColumn("left", style="dim"), TimeRemainingColumn()]
    if width >= _TEXT_WIDTH + 8:
        columns.insert(0, BarColumn(bar_width=min(40, width - _TEXT_WIDTH)))
    return Progress(*columns, console=console, auto_refresh=False)


def _bar_show(progress: Progress, rollouts: int, horizon: int) -> Show:
    task = progress.add_task("", total=1.0, counts="", figures="starting", states="")
    shown_s = 0.0

    def show(tally: Tally, states: dict[str, int]) -> None:
        nonlocal shown_s
        done = tally.rollouts == rollouts
        if not done and time.monotonic() - shown_s < BAR_EVERY_S:
            return
        shown_s = time.monotonic()
        progress.update(
            task,
            completed=tally.steps / (rollouts * horizon * tally.num_envs),
            counts=f"{tally.rollouts}/{rollouts}",
            figures=_figures(tally),
            states=states_text(states),
            refresh=True,
        )

    return show


def _line_show(console: Console, rollouts: int) -> Show:
    shown_s = time.monotonic()

    def show(tally: Tally, states: dict[str, int]) -> None:
        nonlocal shown_s
        if tally.rollouts < rollouts and time.monotonic() - shown_s < LINE_EVERY_S:
            return
        shown_s = time.monotonic()
        console.print(
            f"rollout {tally.rollouts}/{rollouts}, {plural(tally.steps, 'step')}, "
            f"{_figures(tally)}, {states_text(states)}",
            highlight=False,
            soft_wrap=True,
        )

    return show


def _figures(tally: Tally) -> str:
    return f"{tally.steps_per_s:,.0f} steps/s, return {short(tally.recent_return)}"
