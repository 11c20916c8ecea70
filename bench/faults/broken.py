"""Builds that are broken on purpose: the campaign must say so, or it would see nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from vecsess.fleet.flight import Flight

# Imported by a fork server, it leaves out what ends a worker's process group and its orphans.
WITHOUT_GROUP_KILL = "vecsess.bench.faults.broken_group_kill"


@contextlib.contextmanager
def acknowledgement_ignored() -> Iterator[None]:
    """A lockstep takes whatever lies in the slab, and reads no pipe."""
    kept = Flight._take_acknowledgements  # to break it is the purpose
    Flight._take_acknowledgements = _take_anything  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Flight._take_acknowledgements = kept  # type: ignore[method-assign]


def _take_anything(flight: Flight) -> None:
    flight._pending.clear()


def kill_alone(pid: int) -> None:
    """Kills a process and nothing else."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
