"""What we add: the manager to a lockstep, and a worker to `env.step`."""

from __future__ import annotations

import itertools
import mmap
import statistics
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

from numpy.typing import NDArray

from vecsess.bench.bare import step_each
from vecsess.bench.cases import Case
from vecsess.bench.contenders import Adapter, IntoAdapter, enough_for_two, ours

_BLOCK = 64  # calls of one kind in turn: short against what else a machine does, long for caches


class ManagerAdapter(IntoAdapter):
    """`step_into` with two workers, less the time in which it waits for them.

    Waiting is what the flight counts: spinning, and polls. Figures: `locksteps`, `manager_ns` and
    `waiting_ns` are sums, `median_ns` is the manager's part of a lockstep.
    """

    def __init__(self, case: Case, n: int) -> None:
        """Starts two workers."""
        from vecsess import VecCheckedSession

        super().__init__(VecCheckedSession(case.env, n, workers=2))
        self._waits = self._vec.engine.lockstep.flight.waits
        self._manager_ns: list[int] = []
        self._waiting_ns = 0
        self.step = self._timed  # type: ignore[method-assign]

    def _timed(self, actions: Any) -> None:
        """One lockstep, straight into arrays, as collection does."""
        waited_ns, began_ns = self._waits.ns, perf_counter_ns()
        self._vec.step_into(actions, self._rows)
        whole_ns = perf_counter_ns() - began_ns
        waited_ns = self._waits.ns - waited_ns
        self._waiting_ns += waited_ns
        self._manager_ns.append(whole_ns - waited_ns)

    def take_figures(self) -> dict[str, float]:
        """Hands out the sums, and the median."""
        spent, self._manager_ns = self._manager_ns, []
        waiting_ns, self._waiting_ns = self._waiting_ns, 0
        if not spent:
            return {}
        return {
            "locksteps": len(spent),
            "manager_ns": sum(spent),
            "waiting_ns": waiting_ns,
            "median_ns": statistics.median(spent),
        }


class WorkerAdapter(Adapter):
    """`EnvHost.step`, what a worker does for a command, in turns with a bare loop.

    Both step as many environments as one of two workers would have, with the same actions, each
    with its auto-reset, in one process and without a manager. Figures: `host_ns` and `bare_ns`,
    and for each of the two how many environment steps they are for.
    """

    def __init__(self, case: Case, n: int) -> None:
        """Builds the environments of both."""
        from vecsess.wire.slab import Layout
        from vecsess.workers.env_host import EnvHost

        self.steps_per_call = rows = max(1, n // 2)
        self._host = EnvHost([case.make] * rows, "same_step", keep_rng=True)
        space, action_space = self._host.spaces()[0]
        layout = Layout(space, action_space, rows)
        views = layout.views(mmap.mmap(-1, layout.stride_bytes))
        self._host.attach(layout, views, exact=False)
        (self._field,) = [field[0] for field in views.actions]
        self._bare = [case.make() for _ in range(rows)]
        self._turns = itertools.cycle([self._step_host] * _BLOCK + [self._step_bare] * _BLOCK)
        self.take_figures()

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Takes the rows that there are, as an array and as a list."""
        rows = self.steps_per_call
        return [(batch[:rows], list(batch[:rows])) for batch in actions]

    def reset(self) -> None:
        """Resets all of both."""
        rows = self.steps_per_call
        _, failures = self._host.reset(list(range(rows)), list(range(rows)), b"", 0)
        if failures:
            raise RuntimeError(f"expected a reset, got {failures[0]}")
        for seed, env in enumerate(self._bare):
            env.reset(seed=seed)

    def step(self, actions: Any) -> None:
        """Steps one of the two."""
        next(self._turns)(*actions)

    def _step_host(self, batch: NDArray[Any], actions: list[Any]) -> None:
        del actions
        self._field[: len(batch)] = batch  # the manager's part, so not timed
        began_ns = perf_counter_ns()
        _, failures = self._host.step(0)
        self._figures["host_ns"] += perf_counter_ns() - began_ns
        self._figures["host_steps"] += len(batch)
        if failures:
            raise RuntimeError(f"expected a step, got {failures[0]}")

    def _step_bare(self, batch: NDArray[Any], actions: list[Any]) -> None:
        began_ns = perf_counter_ns()
        step_each(self._bare, actions)
        self._figures["bare_ns"] += perf_counter_ns() - began_ns
        self._figures["bare_steps"] += len(batch)

    def take_figures(self) -> dict[str, float]:
        """Hands out the sums."""
        figures = getattr(self, "_figures", {})
        self._figures = dict.fromkeys(("host_ns", "host_steps", "bare_ns", "bare_steps"), 0.0)
        return figures

    def close(self) -> None:
        """Closes all of both."""
        self._host.close()
        for env in self._bare:
            env.close()


MANAGER = ours("manager", "manager", ManagerAdapter, applies=enough_for_two)
WORKER = ours("worker", "EnvHost.step against a bare loop", WorkerAdapter)
