"""A manager that is to be killed: it steps environments that hang and that have children.

What it prints is `ready`, once the first lockstep is through; it never ends by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial

import numpy as np

from vecsess.bench.faults.ledger import LedgerEnv
from vecsess.fleet.worker import Timeouts
from vecsess.session.vector import VecCheckedSession

_LONG = ["sleep", "1000"]


class Parent:
    """Starts processes in the first step that it sees: a child, a session, a daemon."""

    def __init__(self) -> None:
        self._started = False

    def __call__(self, action: int) -> None:
        """Looks at an action, whatever it is."""
        del action
        if self._started:
            return
        self._started = True
        subprocess.Popen(_LONG)  # from PATH, as an environment would
        subprocess.Popen(_LONG, start_new_session=True)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp(_LONG[0], _LONG)  # noqa: S606  # as an environment would
            os._exit(0)
        os.waitpid(pid, 0)


def hang_after(steps: list[int], action: int) -> None:
    """Sleeps for ever in the step after the first so many."""
    del action
    steps[0] -= 1
    if steps[0] < 0:
        time.sleep(1000)


def main(preload: list[str]) -> None:
    """Steps until it is killed; the last environment hangs after some hundred steps."""
    makers = [
        partial(LedgerEnv, 0),
        partial(LedgerEnv, 1, on_step=Parent()),
        partial(LedgerEnv, 2, on_step=partial(hang_after, [300])),
    ]
    timeouts = Timeouts(step_s=None)
    with VecCheckedSession(makers, 3, timeouts=timeouts, preload=preload) as vec:
        vec.reset(seed=0)
        vec.step(np.zeros(3, np.int64))
        print("ready", flush=True)
        while True:
            vec.step(np.zeros(3, np.int64))


if __name__ == "__main__":
    main(sys.argv[1:])
