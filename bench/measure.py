"""Measuring: rounds, medians, and the figures that follow from them.

Every contender runs for one slice in every round and the order rotates, so that whatever else the
machine does falls on all of them. Ratios are taken within a round and then their median.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from vecsess.bench.cases import Case
from vecsess.bench.contenders import Contender
from vecsess.bench.host import ContenderFailed, Host, Slice, Started

Item = TypeVar("Item")
Tell = Callable[[str], None]

_TRIAL_S = 0.5  # at most, for a trial of each layout of a contender that has several


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long: `seconds` a slice, a slice for each contender in each of `rounds`."""

    seconds: float = 1.0
    rounds: int = 5

    @property
    def warmup_s(self) -> float:
        """How long each contender runs untimed before the first round."""
        return min(self.seconds, 0.5)


@dataclass(kw_only=True)
class Row:
    """What became of one contender; `problem` says why there is no figure."""

    contender: Contender
    started: Started | None = None
    slices: list[Slice] = field(default_factory=list)
    problem: str | None = None
    details: str | None = None

    def fail(self, failed: ContenderFailed) -> None:
        """Notes why it could not go on; slices of a contender that failed don't count."""
        self.problem, self.details = "failed", f"{failed}\n{failed.details}"
        self.slices.clear()

    def median(self, figure: Callable[[Slice], float]) -> float | None:
        """Takes the median of a figure over the slices."""
        return statistics.median(map(figure, self.slices)) if self.slices else None

    @property
    def rate(self) -> float | None:
        """Environment steps per second."""
        return self.median(lambda done: done.rate)

    @property
    def cpu_s_per_million(self) -> float | None:
        """CPU seconds that a million environment steps cost, trainer and workers together."""
        return self.median(lambda done: done.cpu_s / done.steps * 1e6)

    @property
    def cores_used(self) -> float | None:
        """How many cores it kept busy."""
        return self.median(lambda done: done.cpu_s / done.elapsed_s)

    def times(self, other: Row | None) -> float | None:
        """How many times the rate of `other`: the median of each round's ratio."""
        if other is None or not self.slices or not other.slices:
            return None
        pairs = zip(self.slices, other.slices, strict=True)
        return statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything measured for one case and one N.

    Attributes:
        rows: in the order in which they are printed.
        baseline: the key of the contender that the others are compared with.
    """

    case: Case
    n: int
    cores: int
    rows: list[Row]
    baseline: str

    def row(self, key: str) -> Row | None:
        """Finds a contender's row."""
        return next((row for row in self.rows if row.contender.key == key), None)

    def times_baseline(self, row: Row) -> float | None:
        """How many times the baseline's rate."""
        return row.times(self.row(self.baseline))

    def share_of_limit(self, row: Row) -> float | None:
        """How much of the limit: the bare rate times what could run at once at best."""
        of_bare = row.times(self.row("bare"))
        return of_bare and of_bare / self.case.limit_factor(self.n, self.cores)

    @property
    def limit(self) -> float | None:
        """The limit, in steps per second."""
        bare = self.row("bare")
        rate = bare.rate if bare else None
        return rate and rate * self.case.limit_factor(self.n, self.cores)


def cores_available() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """Begins with another item each turn, and keeps the order."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]


def measure(
    case: Case,
    n: int,
    contenders: Sequence[Contender],
    plan: Plan,
    *,
    baseline: str = "async",
    tell: Tell = lambda line: None,
) -> Table:
    """Measures all contenders side by side, in interleaved rounds.

    Args:
        case: what to step.
        n: how many of them.
        contenders: who; those that aren't installed or fail get a row that says so.
        plan: how long.
        baseline: the key of the contender to compare with.
        tell: is told what is going on, a line at a time.
    """
    cores = cores_available()
    rows = _rows(contenders, case, n)
    with ExitStack() as stack:
        hosts = []
        for row in rows:
            if row.problem is None:
                tell(f"{case.name}, N = {n}: starting {row.contender.label}")
                host = _start(row, case, n, cores, plan)
                if host is not None:
                    hosts.append((row, stack.enter_context(host)))
                    _run(row, host, plan.warmup_s, kept=False)
        for turn in range(plan.rounds):
            tell(f"{case.name}, N = {n}: round {turn + 1} of {plan.rounds}")
            for row, host in rotated(hosts, turn):
                _run(row, host, plan.seconds)
    return Table(case=case, n=n, cores=cores, rows=rows, baseline=baseline)


def measure_starts(
    case: Case, n: int, contenders: Sequence[Contender], rounds: int, *, tell: Tell
) -> list[tuple[Row, list[Started]]]:
    """Starts every contender once a round, each time in a fresh process, one at a time."""
    found: list[tuple[Row, list[Started]]] = [(row, []) for row in _rows(contenders, case, n)]
    for turn in range(rounds):
        tell(f"{case.name}, N = {n}: start {turn + 1} of {rounds}")
        for row, starts in rotated(found, turn):
            if row.problem:
                continue
            try:
                with Host(row.contender, case, n) as host:
                    starts.append(host.started)
            except ContenderFailed as failed:
                row.fail(failed)
                starts.clear()
    return found


def _rows(contenders: Sequence[Contender], case: Case, n: int) -> list[Row]:
    def problem(contender: Contender) -> str | None:
        if not contender.installed:
            return "not installed"
        return None if contender.applies(case, n) else "not for this"

    return [Row(contender=each, problem=problem(each)) for each in contenders]


def _start(row: Row, case: Case, n: int, cores: int, plan: Plan) -> Host | None:
    try:
        if row.contender.layouts is not None:
            layouts = row.contender.layouts(n, cores)
            row.contender = best_layout(layouts, case, n, min(plan.seconds, _TRIAL_S))
        host = Host(row.contender, case, n)
    except ContenderFailed as failed:
        row.fail(failed)
        return None
    row.started = host.started
    return host


def _run(row: Row, host: Host, seconds: float, *, kept: bool = True) -> None:
    if row.problem:
        return
    try:
        done = host.run(seconds)
        if kept:
            row.slices.append(done)
    except ContenderFailed as failed:
        row.fail(failed)
        host.close()  # at once: whatever it still does would be in the others' way


def best_layout(layouts: Sequence[Contender], case: Case, n: int, trial_s: float) -> Contender:
    """Tries each layout twice, in turn and one at a time, and takes the one with the best trial.

    Raises:
        ContenderFailed: the last layout's failure, where none works.
    """
    rates = dict.fromkeys(layouts, 0.0)
    for contender in [*layouts, *layouts]:
        try:
            if contender in rates:
                with Host(contender, case, n) as host:
                    host.run(trial_s / 2)
                    rates[contender] = max(rates[contender], host.run(trial_s).rate)
        except ContenderFailed:
            del rates[contender]
            if not rates:
                raise
    return max(rates, key=rates.__getitem__)
