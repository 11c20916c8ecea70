"""`vecsess top [PID]`: a running session's workers, live, from another terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from vecsess.cli.failures import CommandError
from vecsess.cli.figures import plural, seconds, size
from vecsess.fleet.health import NAME, read_health

_LINK = f"/memfd:{NAME} (deleted)"
_WIDTH = 120
_TRIES = 5  # a sample that is being written is whole a moment later


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add = parser.add_argument
    add("pid", type=int, nargs="?", metavar="PID", help="of the trainer; all of yours by default")
    add("--once", action="store_true", help="print once and end")
    add("--every", type=float, default=1.0, metavar="SECONDS", help="between two looks (1)")


def run(options: argparse.Namespace) -> int:
    """Shows until the sessions have ended, or Ctrl-C."""
    console = Console()
    if console.width < _WIDTH and not console.is_terminal:
        console = Console(width=_WIDTH)  # in a file nothing is to be cut off
    found = sessions(options.pid)
    if not found:
        whose = "no process of yours has" if options.pid is None else f"{options.pid} does not have"
        raise CommandError(
            f"{whose} a session that steps. A session shows itself from its first second of "
            "stepping on, to the same user on the same machine"
        )
    if options.once or not console.is_terminal:
        console.print(Group(*map(session_table, found)))
        return 0
    with Live(Group(*map(session_table, found)), console=console, auto_refresh=False) as live:
        while found := sessions(options.pid):
            live.update(Group(*map(session_table, found)), refresh=True)
            time.sleep(options.every)
    console.print("the session has ended")
    return 0


def sessions(pid: int | None = None) -> list[dict[str, Any]]:
    """Returns what each running session says of itself.

    Args:
        pid: of the only process to look at; None for all that may be looked at.
    """
    pids = [pid] if pid is not None else sorted(int(p.name) for p in Path("/proc").glob("[0-9]*"))
    return [content for pid in pids for content in _of_process(pid)]


def _of_process(pid: int) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):  # ended meanwhile, or another user's
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if str(link.readlink()) != _LINK:
                continue
            content = _read(link)
            if content is not None and content["pid"] == pid:  # not a forked copy's
                yield content


def _read(link: Path) -> dict[str, Any] | None:
    fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            if (content := read_health(fd)) is not None:
                return content
            time.sleep(0.001)
        return None
    finally:
        os.close(fd)


def session_table(content: dict[str, Any]) -> Table:
    """Returns a session's table, a row per worker."""
    age_s = max(0.0, time.time() - content["time_s"])
    table = Table(
        title=f"pid {content['pid']}: {content['env'] or 'environments'} x{content['n']}, "
        f"{plural(content['locksteps'], 'lockstep')}, {seconds(age_s)} ago",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("worker", "pid", "state", "restarts", "unique", "rss", "cpu"):
        table.add_column(name, justify="left" if name == "state" else "right")
    for name in ("files", "threads", "steps/s", "step p50", "p99", "waited for"):
        table.add_column(name, justify="right")
    for worker in content["workers"]:
        cpu = worker["cpu_percent"]
        table.add_row(
            str(worker["worker"]),
            str(worker["pid"]),
            worker["state"],
            str(worker["restarts"]),
            size(worker["unique_bytes"]),
            size(worker["rss_bytes"]),
            "-" if cpu is None else f"{cpu:.0f} %",
            str(worker["open_files"] or "-"),
            str(worker["threads"] or "-"),
            f"{worker['steps_per_s']:,.0f}",
            seconds(worker["step_p50_s"]),
            seconds(worker["step_p99_s"]),
            seconds(worker["waited_s"]),
            style="red" if worker["state"] in ("dead", "quarantined") else "",
        )
    return table
