"""What a `RestartPolicy` allows, and how much of that has been used up."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Collection

from vecsess.errors import RestartLimitExceeded, VecsessError
from vecsess.fleet.lockstep import Lockstep
from vecsess.recovery.policy import RestartPolicy

_ANY_TRIES = 64  # in a row, where any number of restarts is allowed: an end nevertheless


class Budget:
    """Counts failures against a policy.

    Args:
        policy: how often, and within which time.
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._restarts: dict[int, deque[float]] = {}  # when, by worker; -1 for all together
        # By worker and environment: how often in a row it failed without a step in between.
        self._failures: dict[tuple[int | None, int | None], int] = {}

    def begin_anew(self) -> None:
        """Forgets who failed in a row: all environments were reset."""
        self._failures.clear()

    def note_progress(self, part: Lockstep, lost: Collection[int]) -> None:
        """Forgets the failures of those whose step came out valid: they were no row of `lost`."""
        for worker, env in list(self._failures):
            own = part.workers[part.own] if worker is None else [part.workers[worker]]
            rows = range(own[0].first_env, own[-1].first_env + own[-1].rows)
            within = part.rows.envs.start <= rows.start < part.rows.envs.stop
            if within and not any(row in lost for row in (rows if env is None else (env,))):
                del self._failures[worker, env]

    def spend(self, error: VecsessError, *, restart: bool) -> float:
        """Counts a failure; returns for how many seconds to wait before it is mended.

        Args:
            error: names worker and environment.
            restart: whether mending it takes a new process.

        Raises:
            RestartLimitExceeded: nothing is left.
        """
        policy, now = self._policy, time.monotonic()
        most = _ANY_TRIES if policy.max_restarts is None else policy.max_restarts
        place = error.worker, error.env
        times = self._failures[place] = self._failures.get(place, 0) + 1
        recent = self._restarts.setdefault(-1 if place[0] is None else place[0], deque())
        while recent and now - recent[0] > policy.within_s:
            recent.popleft()
        lately = len(recent) + 1
        if restart and policy.max_restarts is not None and lately > most:
            _refuse(error, f"lost {lately} times within {policy.within_s} s")
        if times > most:
            _refuse(error, f"failed {times} times without a step in between")
        return self._backoff_s(recent, now) if restart else 0.0

    def _backoff_s(self, recent: deque[float], now: float) -> float:
        """Notes a restart; returns how long it waits, twice as long each time in a row."""
        policy = self._policy
        in_a_row = sum(1 for since in recent if now - since < policy.max_backoff_s)
        recent.append(now)
        if not in_a_row or policy.max_restarts is None:
            return 0.0
        wait_s: float = min(policy.backoff_s * 2 ** (in_a_row - 1), policy.max_backoff_s)
        return wait_s * (1 + random.random() / 4)  # jitter, not a secret


def _refuse(error: VecsessError, what: str) -> None:
    raise RestartLimitExceeded(
        f"{what}; last: {error.message}. "
        "Mend the environment, or allow more with RestartPolicy(max_restarts=...)",
        worker=error.worker,
        env=error.env,
    ) from error
