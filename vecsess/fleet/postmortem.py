"""How a worker ended, or is ended: who was guilty, and its last words."""

from __future__ import annotations

import os

from vecsess.errors import ProtocolError, WorkerDied, WorkerError, WorkerTimeout
from vecsess.fleet.reports import printable
from vecsess.fleet.supervisor import Supervisor
from vecsess.fleet.worker import Worker, describe_exit
from vecsess.wire.messages import STACK_MARK
from vecsess.wire.values import Array

STACK_MS = 100  # how long a hung worker may take to write its stack


class Postmortem:
    """Ends workers that can't go on, and says why.

    Args:
        supervisor: kills and reaps them; None where the environments live in this process.
        running: `[workers]`, by their own hint the environment that each is calling.
        rows: how many environments there is room for in each.
    """

    def __init__(self, supervisor: Supervisor | None, running: Array, rows: int) -> None:
        self._supervisor, self._running, self._rows = supervisor, running, rows

    def end(self, worker: Worker, kind: type[WorkerError], message: str) -> WorkerError:
        """Kills a worker that can't be trusted any more; returns the error that says why."""
        env = self._guilty(worker)
        if env is None and worker.rows == 1 and issubclass(kind, ProtocolError):
            env = worker.first_env  # who else
        if self._supervisor is not None:
            ask_ms = STACK_MS if kind is WorkerTimeout else 0
            self._supervisor.kill(worker, ask_ms)
            ended = self._supervisor.reap(worker)
            message += _last_words(ended.stderr, asked=bool(ask_ms))
        return kind(message, worker=worker.index, env=env)

    def lost(self, worker: Worker) -> WorkerError:
        """Returns the error for a worker that has ended, or has closed its pipe."""
        assert self._supervisor is not None, "only processes can be lost"
        env = self._guilty(worker)
        self._supervisor.kill(worker)  # it may live on without its pipe
        ended = self._supervisor.reap(worker)
        how = describe_exit(os.waitstatus_to_exitcode(ended.status))
        message = f"the worker (pid {ended.pid}) ended with {how}{_last_words(ended.stderr)}"
        return WorkerDied(message, worker=worker.index, env=env)

    def _guilty(self, worker: Worker) -> int | None:
        """Returns the environment that the worker was calling, as far as its hint tells."""
        place = int(self._running[worker.index])
        row = place - self._rows if place >= self._rows else place
        return worker.first_env + row if 0 <= row < worker.rows else None


def _last_words(stderr: str, *, asked: bool = False) -> str:
    """Returns what a worker wrote last, as the end of an error's message."""
    words = printable(stderr)
    if asked and words.endswith(STACK_MARK):
        words = words.removesuffix(STACK_MARK) + (
            "(it gave no stack: it was stopped, or has replaced the handler of SIGUSR2)"
        )
    lines = words.splitlines()
    # Below the call of the environment there is only vecsess itself.
    own = [index for index, line in enumerate(lines) if "/workers/env_host.py" in line]
    words = "\n".join(lines[: own[-1]] if asked and own else lines)
    return f"; its last output:\n{words}" if words else ""
