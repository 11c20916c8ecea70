"""`vecsess top [PID]`: a running session's workers, live, from another terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vecsess.cli.failures import CommandError
from vecsess.cli.figures import plural, seconds
from vecsess.cli.session_options import positive_seconds
from vecsess.cli.tables import workers_table
from vecsess.fleet.health import NAME, read_health
from vecsess.fleet.reports import printable
from vecsess.fleet.surroundings import is_marked
from vecsess.wire.values import Fields

KEYS = "q ends, any other key looks again"
ENDING, ESCAPE = set("qQ\x04"), "\x1b"  # also Ctrl-D; an arrow key begins with Escape
_LINK = f"/memfd:{NAME} (deleted)"
_WIDTH = 120
_TRIES = 5  # a sample that is being written is whole a moment later


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add = parser.add_argument
    add("pid", type=int, nargs="?", metavar="PID", help="of the trainer; all of yours by default")
    add("--once", action="store_true", help="print once and end")
    add(
        "--every",
        type=positive_seconds,
        default=1.0,
        metavar="SECONDS",
        help="between two looks (1)",
    )


def run(options: argparse.Namespace) -> int:
    """Shows until the sessions have ended, or until q or Ctrl-C is pressed."""
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
        console.print(Group(*(session_table(console, content) for content in found)))
        return 0
    with _keys() as key, Live(console=console, auto_refresh=False) as live:
        while found := sessions(options.pid):
            tables = [session_table(console, content) for content in found]
            live.update(Group(*tables, KEYS), refresh=True)
            pressed = key(options.every)
            if ENDING & set(pressed) or pressed == ESCAPE:
                return 0
    console.print("the session has ended")
    return 0


def sessions(pid: int | None = None) -> list[Fields]:
    """Returns what each running session says of itself.

    Args:
        pid: of the only process to look at; None for all that may be looked at.
    """
    pids = [pid] if pid is not None else sorted(int(p.name) for p in Path("/proc").glob("[0-9]*"))
    return [content for pid in pids for content in _of_process(pid)]


def _of_process(pid: int) -> Iterator[Fields]:
    with contextlib.suppress(OSError):  # ended meanwhile, or another user's
        if Path(f"/proc/{pid}").stat().st_uid != os.getuid() or is_marked(pid):
            return  # another user's, or a worker, which may say anything
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if str(link.readlink()) != _LINK:
                continue
            content = _read(link)
            if content is not None and content["pid"] == pid:  # not a forked copy's
                yield content


def _read(link: Path) -> Fields | None:
    fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            if (content := read_health(fd)) is not None:
                return content
            time.sleep(0.001)
        return None
    finally:
        os.close(fd)


def session_table(console: Console, content: Fields) -> Table:
    """Returns a session's table, a row per worker."""
    age_s = max(0.0, time.time() - content["time_s"])
    title = (
        f"pid {content['pid']}: {_shown(content['env']) or 'environments'} x{content['n']}, "
        f"{plural(content['locksteps'], 'lockstep')}, {seconds(age_s)} ago"
    )
    workers = [{**worker, "state": _shown(worker["state"])} for worker in content["workers"]]
    return workers_table(console, workers, title)


def _shown(text: str | None) -> str:
    """Returns a text without what would drive the terminal, or this table."""
    return escape(printable(text or ""))


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Yields what waits for a key, so many seconds at most; "" where there was none."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)  # a key counts as it is pressed; Ctrl-C stays what it is
    try:
        yield partial(_key, fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""


def _key(fd: int, wait_s: float) -> str:
    if not select.select([fd], [], [], wait_s)[0]:
        return ""
    return os.read(fd, 16).decode(errors="replace") or "q"  # the terminal is gone
