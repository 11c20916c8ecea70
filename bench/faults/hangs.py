"""How long past its deadline a hung environment holds up the others."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from vecsess.bench.faults.hanging import HANGS
from vecsess.bench.faults.ledger import LedgerEnv, Once
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.policy import RestartPolicy
from vecsess.session.vector import VecCheckedSession

STEP_S = 0.5
_N, _GUILTY, _CUE = 4, 2, 999


def overshoot_s(hang: str) -> float:
    """Returns the time from a hung step's deadline until its lockstep is complete.

    Args:
        hang: a name in `HANGS`; the environment hangs once and does not when it is replayed.

    Raises:
        RuntimeError: the lockstep that came out is not valid.
    """
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder, "hung")
        makers = [partial(LedgerEnv, index, longest=1000) for index in range(_N)]
        makers[_GUILTY] = partial(
            LedgerEnv, _GUILTY, longest=1000, on_step=Once(_CUE, HANGS[hang], mark)
        )
        with VecCheckedSession(
            makers,
            _N,
            timeouts=Timeouts(step_s=STEP_S),
            restart_policy=RestartPolicy(max_restarts=None),
        ) as vec:
            vec.reset(seed=0)
            for _ in range(20):
                vec.step(np.arange(_N))
            *_, infos = vec.step(np.full(_N, _CUE))
            done_s = time.monotonic()
            if "invalid" in infos or len(vec.incidents) != 1:
                raise RuntimeError(f"expected one recovery, got {vec.incidents}")
        return done_s - float(mark.read_text()) - STEP_S
