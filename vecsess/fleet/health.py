"""What psutil and the workers' step clocks say of each worker, and where others can read it.

Sampled when it is asked for, and at most once a second while the session steps; never in a step
that is fast. The last sample lies in a memfd by the name of `NAME`, for `vecsess top`.
"""

from __future__ import annotations

import os
import struct
import time
import weakref
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import psutil

from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.worker import Worker
from vecsess.wire.values import Array, Fields, FrameError, Plain, pack_value, unpack_value

NAME = "vecsess-health"
MAX_BYTES = 1 << 22
_HEADER = struct.Struct("<II")  # length and CRC-32 of what follows: a reader sees a torn write
_EVERY_S = 1.0
_SHARE = 0.01  # of the manager's time, at most, is spent on samples
_BUCKETS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerHealth:
    """One worker as it is now; None for what can't be known, as where its process is gone.

    Attributes:
        worker: its index.
        pid: of its process.
        state: "ready", "stepping", "resetting", "stopped", "dead" or "quarantined".
        generation: how often it was replaced, for whatever reason.
        restarts: how often it was replaced because it was lost.
        rss_bytes: resident memory, what it shares with others included.
        unique_bytes: resident memory that is not shared memory or a file's.
        cpu_percent: of one core, lately.
        open_files: descriptors.
        threads: of its process.
        steps: environment steps so far, all generations together.
        steps_per_s: lately.
        step_p50_s: median of an environment step, from a histogram by powers of two.
        step_p99_s: likewise, the 99th percentile.
        waited_s: how long the manager has slept for it; the straggler has the most.
    """

    worker: int
    pid: int
    state: str
    generation: int
    restarts: int
    rss_bytes: int | None
    unique_bytes: int | None
    cpu_percent: float | None
    open_files: int | None
    threads: int | None
    steps: int
    steps_per_s: float
    step_p50_s: float | None
    step_p99_s: float | None
    waited_s: float


@dataclass(slots=True)
class _Seen:
    """What was last seen of a worker, over its generations."""

    generation: int = 0
    before: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BUCKETS))
    counts: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BUCKETS))
    process: psutil.Process | None = None
    # Where rates are counted from, and where they will be: (time, pid, CPU seconds, steps).
    since: tuple[float, int, float, int] = (0.0, 0, 0.0, 0)
    latest: tuple[float, int, float, int] = (0.0, 0, 0.0, 0)


class Health:
    """Samples the workers of one session.

    Args:
        lockstep: of all workers.
        about: plain data about the session, for `vecsess top`.
        locksteps: returns how many there were so far.
    """

    def __init__(self, lockstep: Lockstep, about: Fields, locksteps: Callable[[], int]) -> None:
        self._lockstep, self._about, self._locksteps = lockstep, about, locksteps
        self._seen = [_Seen() for _ in lockstep.workers]
        self._next_s = 0.0
        self._fd = -1
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
            self._finalizer = weakref.finalize(self, os.close, self._fd)
        now = time.monotonic()
        for worker, seen in zip(lockstep.workers, self._seen, strict=True):
            cpu_s = _process_figures(worker.pid, seen).cpu_s
            seen.since = seen.latest = (now, worker.pid, cpu_s or 0.0, 0)
        lockstep.flight.on_pause = self.tick

    def close(self) -> None:
        """Lets go of the memfd; a second call does nothing."""
        if self._fd >= 0:
            self._fd = -1
            self._finalizer()

    def tick(self) -> None:
        """Samples and publishes, if that is due; nearly always only a look at the clock."""
        began = time.monotonic()
        if began < self._next_s or self._fd < 0:
            return
        self.publish(self.sample())
        took_s = time.monotonic() - began
        self._next_s = began + max(_EVERY_S, took_s / _SHARE)

    def sample(self) -> list[WorkerHealth]:
        """Returns how each worker is now."""
        now = time.monotonic()
        return [
            self._sample(worker, seen, now)
            for worker, seen in zip(self._lockstep.workers, self._seen, strict=True)
        ]

    def states(self) -> dict[str, int]:
        """Returns how many workers are in each state, as far as is known without looking."""
        counts: dict[str, int] = {}
        for worker in self._lockstep.workers:
            state = self._state(worker, alive=True)
            counts[state] = counts.get(state, 0) + 1
        return counts

    def publish(self, workers: list[WorkerHealth]) -> None:
        """Puts a sample where `vecsess top` finds it."""
        content = {
            **self._about,
            "pid": os.getpid(),
            "time_s": time.time(),
            "locksteps": self._locksteps(),
            "workers": [asdict(worker) for worker in workers],
        }
        payload = pack_value(content)
        if len(payload) <= MAX_BYTES:
            os.pwrite(self._fd, _HEADER.pack(len(payload), zlib.crc32(payload)) + payload, 0)

    def _sample(self, worker: Worker, seen: _Seen, now: float) -> WorkerHealth:
        counts = self._counts(worker, seen)
        steps = int(counts.sum()) * worker.rows
        cpu_s, rss, unique, files, threads, stopped = _process_figures(worker.pid, seen)
        if now - seen.latest[0] > _EVERY_S:
            seen.since = seen.latest
            seen.latest = (now, worker.pid, cpu_s or 0.0, steps)
        began, pid, cpu_before_s, steps_before = seen.since
        elapsed_s = max(now - began, 1e-9)
        known = cpu_s is not None and pid == worker.pid
        return WorkerHealth(
            worker=worker.index,
            pid=worker.pid,
            state="stopped" if stopped else self._state(worker, alive=cpu_s is not None),
            generation=worker.generation,
            restarts=worker.losses,
            rss_bytes=rss,
            unique_bytes=unique,
            cpu_percent=100 * ((cpu_s or 0.0) - cpu_before_s) / elapsed_s if known else None,
            open_files=files,
            threads=threads,
            steps=steps,
            steps_per_s=(steps - steps_before) / elapsed_s,
            step_p50_s=quantile_s(counts, 0.5),
            step_p99_s=quantile_s(counts, 0.99),
            waited_s=worker.waited_s,
        )

    def _counts(self, worker: Worker, seen: _Seen) -> npt.NDArray[np.float64]:
        """Returns the histogram of a worker's locksteps, all generations together."""
        if worker.generation != seen.generation:
            seen.before, seen.generation = seen.before + seen.counts, worker.generation
        # As floats: what a hostile worker writes there must not overflow.
        seen.counts = self._lockstep.views.histogram[worker.index].astype(np.float64)
        return seen.before + seen.counts

    def _state(self, worker: Worker, *, alive: bool) -> str:
        if worker not in self._lockstep.flight.active:
            return "quarantined"
        if worker.dead or not alive:
            return "dead"
        place = int(self._lockstep.views.running[worker.index])
        if place < 0:
            return "ready"
        return "resetting" if place >= self._lockstep.layout.rows else "stepping"


class _Figures(NamedTuple):
    """What the system says of a process; None where it is gone."""

    cpu_s: float | None = None
    rss_bytes: int | None = None
    unique_bytes: int | None = None
    open_files: int | None = None
    threads: int | None = None
    stopped: bool = False  # by a signal or a debugger: it is alive, and does nothing


def _process_figures(pid: int, seen: _Seen) -> _Figures:
    try:
        if seen.process is None or seen.process.pid != pid:
            seen.process = psutil.Process(pid)
        with seen.process.oneshot():
            status = seen.process.status()
            if status == psutil.STATUS_ZOMBIE:
                return _Figures()
            times, memory = seen.process.cpu_times(), seen.process.memory_info()
            shared = getattr(memory, "shared", 0)
            files, threads = seen.process.num_fds(), seen.process.num_threads()
    except psutil.Error:
        return _Figures()
    stopped = status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    cpu_s, unique = times.user + times.system, memory.rss - shared
    return _Figures(cpu_s, memory.rss, unique, files, threads, stopped)


def unique_bytes(pid: int) -> int | None:
    """Returns a process's resident memory less what it shares, None where it is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return int(memory.rss - getattr(memory, "shared", 0))


def quantile_s(counts: Array, share: float) -> float | None:
    """Returns a quantile of step times from counts by bit length of their nanoseconds.

    Args:
        counts: `[64]`; entry `b` counts times from `2**(b-1)` up to `2**b` ns.
        share: such as 0.99.

    Example:
        >>> counts = np.zeros(64)
        >>> counts[[11, 21]] = 98, 2  # most at 1 to 2 us, a few at 1 to 2 ms
        >>> f"{quantile_s(counts, 0.5):.1e} {quantile_s(counts, 0.99):.1e}"
        '1.5e-06 1.6e-03'
    """
    cumulated = np.cumsum(counts, dtype=np.float64)
    if not cumulated[-1]:
        return None
    bits = int(np.searchsorted(cumulated, share * cumulated[-1]))
    return float(2.0**bits * 0.75e-9)


def read_health(fd: int) -> Fields | None:
    """Returns what `Health.publish` wrote last; None where nothing was, or it is being written.

    Args:
        fd: of the memfd, open for reading.
    """
    data = os.pread(fd, _HEADER.size + MAX_BYTES, 0)
    if len(data) < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack_from(data)
    payload = data[_HEADER.size : _HEADER.size + length]
    if len(payload) != length or zlib.crc32(payload) != checksum:
        return None
    try:
        content = unpack_value(payload)
    except FrameError:
        return None
    return content if _is_form(content) else None


_ABOUT = {"pid": "int", "time_s": "float", "locksteps": "int", "n": "int", "env": "str | None"}
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


def _is_form(content: Plain) -> bool:
    """Whether this is what a session publishes: any process may call its memory by that name."""
    if type(content) is not dict or not _fit(content, _ABOUT):
        return False
    workers, types = content.get("workers"), {f.name: str(f.type) for f in fields(WorkerHealth)}
    return type(workers) is list and all(type(w) is dict and _fit(w, types) for w in workers)


def _fit(told: Fields, types: dict[str, str]) -> bool:
    return all(name in told and _is_a(told[name], kind) for name, kind in types.items())


def _is_a(value: Plain, kind: str) -> bool:
    name, _, optional = kind.partition(" | ")
    if value is None:
        return bool(optional)
    if type(value) is str:
        return name == "str" and len(value) < 1000
    return type(value) in _KINDS[name] and abs(value) < 1e30  # NaN is not
