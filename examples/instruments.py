"""What surrounds the training in `ppo.py`: progress bar, scalars, learning curve, and chaos."""

import contextlib
import logging
import math
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vecsess.errors import extra

with extra("train", needed_by="this example"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from torch.utils.tensorboard import SummaryWriter

Curve = list[tuple[int, float]]  # (environment steps, return) of each episode


class Instruments:
    """Progress bar and TensorBoard scalars of one run."""

    def __init__(self, title: str, total: int, done: int, logged: int, logdir: str | None):
        self.writer = SummaryWriter(logdir) if logdir else None
        self.logged = logged  # episodes; a resumed run does not repeat them
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} steps, return {task.fields[mean]:.1f}"),
            TimeRemainingColumn(),
        )
        self.task = self.bar.add_task(title, total=total, completed=done, mean=math.nan)

    def show(self, steps: int, curve: Curve, scalars: dict[str, float]) -> None:
        recent = [value for _, value in curve[-100:]]
        mean = float(np.mean(recent)) if recent else math.nan
        self.bar.update(self.task, completed=steps, mean=mean)
        if self.writer is None:
            return
        for step, value in curve[self.logged :]:
            self.writer.add_scalar("charts/episodic_return", value, step)
        self.logged = len(curve)
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, steps)

    def __enter__(self) -> "Instruments":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()


class Chaos:
    """Kills a worker at random, again and again: the session brings each back where it was.

    It knows nothing of the session: it finds the workers as the processes of this one's fork
    servers, as the kernel does when it runs out of memory.

    Args:
        mean_seconds: between two kills; None for no chaos.
    """

    def __init__(self, mean_seconds: float | None):
        self.mean_seconds, self.kills = mean_seconds, 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        rng = np.random.default_rng()  # without a seed, on purpose: no two runs are alike
        while not self.stopped.wait(rng.exponential(self.mean_seconds)):
            with contextlib.suppress(psutil.NoSuchProcess):
                servers = psutil.Process().children()
                workers = [worker for server in servers for worker in server.children()]
                if workers:
                    workers[rng.integers(len(workers))].send_signal(signal.SIGKILL)
                    self.kills += 1

    def __enter__(self) -> "Chaos":
        if self.mean_seconds:
            logging.getLogger("vecsess").setLevel(logging.ERROR)  # it reports each incident
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.mean_seconds:
            self.stopped.set()
            self.thread.join()
            print(f"{self.kills} workers were killed")


def draw(curve: Curve, title: str, path: Path, goal: float | None = None) -> None:
    """Draws each episode, the mean of the last 100, and the goal, over environment steps."""
    steps, returns = np.array(curve, dtype=float).reshape(-1, 2).T
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Any = figure.add_subplot(xlabel="environment steps", ylabel="return", title=title)
    axes.plot(steps, returns, ".", markersize=2, alpha=0.3, label="episode")
    sums, ends = np.cumsum(np.insert(returns, 0, 0.0)), np.arange(1, len(returns) + 1)
    starts = np.maximum(0, ends - 100)
    axes.plot(steps, (sums[ends] - sums[starts]) / (ends - starts), label="mean of the last 100")
    if goal is not None:
        axes.axhline(goal, color="grey", linestyle="--", linewidth=1, label=f"goal: {goal:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
