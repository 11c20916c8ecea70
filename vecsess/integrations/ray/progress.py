"""A bar over the parts of each rollout, as they come: `vec.collect(..., on_part=bar)`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from vecsess.errors import extra

with extra("cli", needed_by="ShardsBar"):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from vecsess.collect.rollout import Rollout

_LINE_EVERY_S = 2.0  # where there is no terminal


class Watched(Protocol):
    """What is shown of a session: `RaySession` has it."""

    num_envs: int

    @property
    def incidents(self) -> Sequence[object]: ...  # noqa: D102


class ShardsBar:
    """Shows how much of a rollout has come, how fast, and what was lost.

    A terminal gets a bar that is filled anew with each rollout, anything else a line now and then.

    Args:
        vec: whose rollouts.
        console: where to; None for standard output.

    Example:
        with ShardsBar(vec) as bar:
            for _ in range(50):
                rollout = vec.collect(policy, 128, on_part=bar)
    """

    def __init__(self, vec: Watched, console: Console | None = None) -> None:
        self._vec, self._console = vec, console or Console()
        self._rollouts, self._steps = 0, 0
        self._came: set[int] = set()  # environments of the rollout under way
        self._began_s = self._told_s = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.fields[counts]}", style="bold"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        total = float(vec.num_envs)
        self._task = self._progress.add_task("", total=total, counts="", figures="starting")

    def __enter__(self) -> ShardsBar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, envs: range, rollout: Rollout) -> None:
        """Counts a part that has come."""
        self._came |= set(envs)
        self._steps += len(envs) * len(rollout.rewards)
        whole = len(self._came) == self._vec.num_envs
        self._rollouts += whole
        counts, figures = f"rollout {self._rollouts + (not whole)}", self._figures()
        self._progress.update(
            self._task, completed=len(self._came), counts=counts, figures=figures, refresh=True
        )
        if not whole:
            return
        self._came.clear()
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told_s >= _LINE_EVERY_S:
            self._told_s = now
            self._console.print(f"{counts}, {figures}", highlight=False, soft_wrap=True)

    def _figures(self) -> str:
        lost, elapsed_s = len(self._vec.incidents), time.monotonic() - self._began_s
        told = "nothing lost" if not lost else "1 loss" if lost == 1 else f"{lost} losses"
        return f"{self._steps / max(elapsed_s, 1e-9):,.0f} steps/s, {told}"
