"""Which files a worker's code was read from, and whether its successor has read them otherwise."""

from __future__ import annotations

import warnings

from vecsess.fleet.reports import printable
from vecsess.fleet.worker import Worker
from vecsess.wire.values import Plain


def note_sources(worker: Worker, told: list[Plain]) -> None:
    """Notes what files a worker says that it was read from, as in `Described`."""
    worker.sources |= {path: state for path, *state in told}


def compare_sources(successor: Worker, told: list[Plain], since_ns: int | None = None) -> str:
    """Notes, and says, which file of its code a successor has read in another state.

    Args:
        successor: still with what is known of its predecessors' files.
        told: the files that it has read, as in `Described`.
        since_ns: when the session began. What was imported after the constructor no predecessor
            could tell of, so a file that was changed later counts, until a successor has read it.

    Returns:
        The file, "" for none.
    """
    before, found = successor.sources, ""
    for path, *state in sorted(told):
        known = before.get(path)
        if known[:2] != state[:2] if known else since_ns is not None and state[2] > since_ns:
            found = successor.changed = printable(path)
            since = "its predecessor read it" if known else "the session began"
            warnings.warn(
                f"worker {successor.index}: {found} has changed since {since}: its environments "
                "run the new code, and their episodes are not replayed",
                UserWarning,
                stacklevel=2,
            )
            break
    note_sources(successor, told)
    return found
