"""One contender in a process of its own: both ends of it.

So that no contender's imports, threads or leaks touch another's figures, that the CPU time of a
process tree is a contender's own, and that one which crashes or hangs costs one row of the table.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from gymnasium.vector.utils import batch_space

from vecsess.bench.cases import Case
from vecsess.bench.contenders import Adapter, Contender

START_TIMEOUT_S = 300.0
GRACE_S = 60.0
CLOSE_TIMEOUT_S = 30.0
_TABLE = 128  # batches of actions, cycled
_CLOCK_EVERY_S = 1e-3
_LOG_TAIL = 600
_SPARE_MEMORY = 0.1  # of the machine's: who takes more while starting is ended

Reply = TypeVar("Reply")


@dataclass(frozen=True, kw_only=True)
class Started:
    """What it took to the first observation; memory is the workers', the trainer's is left out."""

    start_s: float
    pss_bytes: int
    processes: int


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What was done in one slice of time, and the CPU time of the trainer and of its workers.

    Attributes:
        figures: what the contender measured of itself, by name.
    """

    steps: int
    elapsed_s: float
    manager_cpu_s: float
    workers_cpu_s: float
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.elapsed_s

    @property
    def cpu_s(self) -> float:
        """CPU time of the whole process tree."""
        return self.manager_cpu_s + self.workers_cpu_s


class ContenderFailed(Exception):
    """A contender raised, died or hung: in one line, and its own traceback or last output."""

    def __init__(self, summary: str, details: str) -> None:
        """Carries both."""
        super().__init__(summary, details)
        self.details = details

    def __str__(self) -> str:
        """Returns the one line."""
        return str(self.args[0])


class Lane:
    """An adapter with its table of actions, run for slices of time."""

    def __init__(self, adapter: Adapter, actions: list[Any]) -> None:
        """Cycles through `actions`, each a batch `[N, ...]`, for as long as it runs."""
        self._adapter = adapter
        self._cycle = itertools.cycle(adapter.prepare(actions))
        self._stride = 1

    def run(self, seconds: float) -> Slice:
        """Steps for `seconds`; the clock is only looked at every `_stride` calls."""
        step, cycle, stride = self._adapter.step, self._cycle, self._stride
        step(next(cycle))  # untimed: whoever slept since the last slice wakes up
        self._adapter.take_figures()
        workers_before, manager_before = workers_cpu_s(), time.process_time()
        calls, elapsed_s, start_s = 0, 0.0, time.perf_counter()
        while elapsed_s < seconds or not calls:
            for actions in itertools.islice(cycle, stride):
                step(actions)
            calls += stride
            elapsed_s = time.perf_counter() - start_s
        manager_cpu_s, workers_after = time.process_time() - manager_before, workers_cpu_s()
        self._stride = max(1, int(calls / elapsed_s * _CLOCK_EVERY_S))
        return Slice(
            steps=calls * self._adapter.steps_per_call,
            elapsed_s=elapsed_s,
            manager_cpu_s=manager_cpu_s,
            workers_cpu_s=sum(
                after - workers_before.get(pid, 0.0) for pid, after in workers_after.items()
            ),
            figures=self._adapter.take_figures(),
        )


def action_table(case: Case, n: int) -> list[Any]:
    """Samples the batches beforehand, so that sampling isn't timed."""
    env = case.make()
    space = batch_space(env.action_space, n)
    env.close()
    space.seed(0)
    return [space.sample() for _ in range(_TABLE)]


def workers_cpu_s() -> dict[int, float]:
    """CPU seconds so far of each process below this one, all its threads together."""
    found = {}
    for worker in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # Linux: the CPU-time clock of any process, to the nanosecond; /proc has 10 ms.
            found[worker.pid] = time.clock_gettime((~worker.pid << 3) | 2)
    return found


def workers_memory() -> tuple[int, int]:
    """PSS of the processes below this one together, and their number."""
    workers = psutil.Process().children(recursive=True)
    pss_bytes = 0
    for worker in workers:
        with contextlib.suppress(psutil.Error, OSError):
            pss_bytes += worker.memory_full_info().pss
    return pss_bytes, len(workers)


def serve(connection: Connection, log: str, contender: Contender, case: Case, n: int) -> None:
    """Is the trainer: starts the contender, runs a slice for each number received, ends at None."""
    os.setpgrp()  # Ctrl-C is for the bench, which then closes us
    multiprocessing.set_start_method(None, force=True)  # the platform's default, as for any trainer
    _log_to(log)
    try:
        contender.load()
        start_s = time.perf_counter()
        adapter = contender.open(case, n)
        with contextlib.closing(adapter):
            adapter.reset()
            start_s = time.perf_counter() - start_s
            pss_bytes, processes = workers_memory()
            connection.send(Started(start_s=start_s, pss_bytes=pss_bytes, processes=processes))
            lane = Lane(adapter, action_table(case, n))
            for seconds in iter(connection.recv, None):
                connection.send(lane.run(seconds))
    except EOFError:
        pass  # the bench is gone
    except Exception as error:
        summary = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        with contextlib.suppress(OSError):
            connection.send(ContenderFailed(summary, traceback.format_exc()))


def _log_to(path: str) -> None:
    # Peers greet and warn on both; the table must stay readable.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    Path(path).unlink()  # the bench has it open


class Host:
    """The bench's end: starts a contender's process, and ends it whatever state it is in."""

    def __init__(self, contender: Contender, case: Case, n: int) -> None:
        """Starts `contender` with `n` environments and waits for its first observation.

        Raises:
            ContenderFailed: it raised, died, or took longer than `START_TIMEOUT_S`.
        """
        self.contender = contender
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._log = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed with the host
            prefix="vecsess-bench-", delete=False
        )
        self._process = context.Process(
            target=serve, args=(theirs, self._log.name, contender, case, n), name=contender.key
        )
        self._process.start()
        theirs.close()
        self._closed = False
        self._members: list[psutil.Process] = []
        try:
            self.started = self._wait_for_start()
            self._members = self._family(stop=False)
        except BaseException:
            self.close(patience_s=0)
            raise

    def run(self, seconds: float) -> Slice:
        """Lets it step for `seconds`, and waits until it has settled.

        Raises:
            ContenderFailed: it raised, died, or took `GRACE_S` longer.
        """
        with contextlib.suppress(BrokenPipeError):  # then the reply says why
            self._connection.send(seconds)
        done = self._receive(Slice, seconds + GRACE_S)
        time.sleep(self.contender.settle_s)
        return done

    def close(self, patience_s: float = CLOSE_TIMEOUT_S) -> None:
        """Ends it and everything below it, by force once `patience_s` is over."""
        if self._closed:
            return
        self._closed = True
        family = self._family(stop=not patience_s)
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(patience_s)
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        self._process.join()
        self._connection.close()
        self._log.close()
        Path(self._log.name).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Returns itself: a host is a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def _family(self, *, stop: bool) -> list[psutil.Process]:
        try:
            host = psutil.Process(self._process.pid)
            if stop:
                host.suspend()  # or it might start another one meanwhile
            return [*host.children(recursive=True), host]
        except psutil.Error:
            return self._members  # it died and left them: those that it had when it started

    def _wait_for_start(self) -> Started:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._connection.poll(0.2) and time.monotonic() < deadline_s:
            memory = psutil.virtual_memory()
            if memory.available < _SPARE_MEMORY * memory.total:
                raise self._failure("needs more memory than there is")
        return self._receive(Started, 0)

    def _receive(self, kind: type[Reply], timeout_s: float) -> Reply:
        try:
            if not self._connection.poll(timeout_s):
                raise self._failure("no answer in time")
            reply = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(CLOSE_TIMEOUT_S)
            raise self._failure(f"ended with exit code {self._process.exitcode}") from None
        if isinstance(reply, ContenderFailed):
            raise reply
        if not isinstance(reply, kind):
            raise TypeError(f"expected {kind.__name__} from {self.contender.key}, got {reply!r}")
        return reply

    def _failure(self, summary: str) -> ContenderFailed:
        tail = self._log.read()[-_LOG_TAIL:].decode(errors="replace")
        return ContenderFailed(summary, tail)
