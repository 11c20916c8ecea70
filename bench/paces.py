"""Collecting at another pace, and waiting for a slow policy, as contenders."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from vecsess.bench.cases import Case, StepTime
from vecsess.bench.collecting import HORIZON, CollectAdapter
from vecsess.bench.contenders import IntoAdapter, ours
from vecsess.bench.measure import cores_available

OVERLAP_WORKERS = 4
SLOW_POLICY_S = 2e-3
_NAPS = 50


@dataclass(frozen=True, kw_only=True)
class PolicyTime:
    """How long a policy sleeps, in locksteps of the environments: as a GPU that works meanwhile.

    Attributes:
        call: for each call.
        all_rows: for a call with all N rows, and in proportion for fewer.
    """

    call: float = 0.0
    all_rows: float = 0.0

    def of_lockstep(self, step_time: StepTime, n: int, workers: int) -> tuple[float, float]:
        """Returns seconds for a call and for a row, beside environments that are busy or asleep."""
        at_once = workers if step_time.sleeping else min(workers, cores_available())
        lockstep_s = n / at_once * step_time.mean_us * 1e-6
        return self.call * lockstep_s, self.all_rows * lockstep_s / n


def random_policy(*spaces: Any, call_s: float = 0.0, row_s: float = 0.0) -> Any:
    """Draws actions, and sleeps for each call and for each row."""
    from vecsess.tuning.lanes import TimedPolicy

    return TimedPolicy(None, spaces[1], call_s, row_s)


class PacedAdapter(CollectAdapter):
    """`collect_rollout` at a pace; says what the slowest environment alone would have taken.

    Figures: `ideal_s` is the sum over batches of the time that the slowest environment's steps
    were drawn to take; `slept_s` adds by how much this machine's sleep is late, in each step.
    """

    def __init__(self, case: Case, n: int, **given: Any) -> None:
        """Starts the workers."""
        super().__init__(case, n, **{"policy": random_policy, **given})
        self._late_s = sleep_lateness_s() if case.sleeping else 0.0
        self._ideal_s = self._slept_s = 0.0

    def step(self, actions: Any) -> None:
        """Fills the batch once; a step's reward is the time that it was drawn to take."""
        super().step(actions)
        assert self._rollout is not None, "it was just filled"
        slowest_s = float(self._rollout.rewards.sum(axis=0).max())
        self._ideal_s += slowest_s
        self._slept_s += slowest_s + HORIZON * self._late_s

    def take_figures(self) -> dict[str, float]:
        """Hands out both sums."""
        figures = {"ideal_s": self._ideal_s, "slept_s": self._slept_s}
        self._ideal_s = self._slept_s = 0.0
        return figures


class OverlapAdapter(PacedAdapter):
    """`collect_rollout` at a pace, with a policy that takes its time."""

    def __init__(self, case: Case, n: int, *, pace: str, policy_time: PolicyTime) -> None:
        """Starts the workers."""
        if case.step_time is None:
            raise ValueError(f"expected a case whose step time is known, got {case.name!r}")
        workers = min(OVERLAP_WORKERS, n)
        call_s, row_s = policy_time.of_lockstep(case.step_time, n, workers)
        policy = partial(random_policy, call_s=call_s, row_s=row_s)
        # Each half must have all cores: without it the kernel may put both its workers on one.
        super().__init__(case, n, workers=workers, pace=pace, affinity="spread", policy=policy)

    def take_figures(self) -> dict[str, float]:
        """Has none: the slowest environment is not what limits this."""
        return {}


class SlowAdapter(IntoAdapter):
    """A lockstep, then two milliseconds asleep, as beside a policy that takes so long."""

    def __init__(self, case: Case, n: int, *, spin_ns: int) -> None:
        """Starts two workers; a wait may spin for `spin_ns`."""
        # A session has no argument for this, and this process has no other session.
        from vecsess import VecCheckedSession
        from vecsess.session import arguments

        vars(arguments)["SPIN_NS"] = spin_ns
        super().__init__(VecCheckedSession(case.env, n, workers=min(2, n)))
        self.step = self._slowly  # type: ignore[method-assign]

    def _slowly(self, actions: Any) -> None:
        """One lockstep and the sleep."""
        self._step(actions)
        time.sleep(SLOW_POLICY_S)


def sleep_lateness_s() -> float:
    """Measures by how much a sleep of a millisecond ends late, with nothing else to do."""
    late_s = []
    for _ in range(_NAPS):
        began_s = time.perf_counter()
        time.sleep(1e-3)
        late_s.append(time.perf_counter() - began_s - 1e-3)
    return statistics.median(late_s)


FREE = tuple(
    ours(f"{pace}-n", f"{pace}, workers=N", partial(PacedAdapter, workers=None, pace=pace))
    for pace in ("lockstep", "free")
)

POLICIES = {
    "rows": ("policy by rows", PolicyTime(all_rows=1.0)),
    "call": ("policy by call", PolicyTime(call=0.5)),
}
_overlap = partial(partial, OverlapAdapter)
OVERLAPS = {
    kind: tuple(
        ours(f"{kind}-{pace}", f"{about}, {pace}", _overlap(pace=pace, policy_time=time_))
        for pace in ("lockstep", "pipelined")
    )
    for kind, (about, time_) in POLICIES.items()
}

SLOW = (
    ours("slow-blocking", "never spins", partial(SlowAdapter, spin_ns=0)),
    ours("slow-adaptive", "as it comes", partial(SlowAdapter, spin_ns=200_000)),
    ours("slow-spinning", "spins for 10 ms", partial(SlowAdapter, spin_ns=10_000_000)),
)
