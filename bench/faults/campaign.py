"""The campaign: every figure of the table, with its target, and whether it was reached."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vecsess.bench.faults.broken import WITHOUT_GROUP_KILL, acknowledgement_ignored
from vecsess.bench.faults.frames import feed_elsewhere
from vecsess.bench.faults.hanging import HANGS
from vecsess.bench.faults.hangs import overshoot_s
from vecsess.bench.faults.kills import run_kills
from vecsess.bench.faults.matrix import run_matrix
from vecsess.bench.faults.orphans import orphans
from vecsess.bench.faults.product import TABLES, cells, run_product, sample
from vecsess.bench.faults.steady import N as STEADY_N
from vecsess.bench.faults.steady import throughput_kept
from vecsess.bench.faults.tally import Tally
from vecsess.bench.faults.workloads import Workload, ledgers, modes_of, workloads
from vecsess.session.vector import VecCheckedSession

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table."""

    name: str
    target: str
    result: str
    reached: bool
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything; all of it follows from the number of kills.

    Attributes:
        kills: of workers.
        managers: killed.
        frames: mutated, of each kind of message.
        slices: of throughput, of each kind.
    """

    kills: int
    managers: int
    frames: int
    slices: int
    slice_s: float = 10.0

    @classmethod
    def of(cls, kills: int) -> Scale:
        """Returns the scale for a number of kills; 2,000 give the published figures.

        Example:
            >>> Scale.of(2000).frames
            1000000
        """
        return cls(
            kills=kills,
            managers=max(2, kills // 10),
            frames=kills * 500,
            slices=3 if kills >= 500 else 1,
            slice_s=10.0 if kills >= 500 else 4.0,
        )


def run_campaign(scale: Scale, seed: int, tell: Tell) -> tuple[list[Figure], list[Tally]]:
    """Runs everything; returns the table's lines, and what the kills did to each workload."""
    with _quiet():
        tallies = kill_all(scale.kills, seed, tell)
        figures = kill_figures(tallies, scale.kills)
        tell("hangs")
        figures.append(hang_figure())
        tell("fault matrix")
        figures.append(matrix_figure())
        tell("faults that last")
        figures.append(product_figure(scale.kills))
        tell(f"{scale.managers} kills of the manager")
        figures.append(orphan_figure(scale.managers, seed))
        tell("throughput")
        figures.append(steady_figure(scale, seed))
        tell(f"{scale.frames:,} odd frames of each kind")
        figures.append(frame_figure(scale.frames, seed))
        tell("builds that are broken on purpose")
        figures += self_tests(seed)
    return figures, tallies


def kill_all(kills: int, seed: int, tell: Tell) -> list[Tally]:
    """Spreads the kills over all workloads."""
    todo = workloads(modes_of(VecCheckedSession))
    share = kills / sum(workload.share for workload in todo)
    tallies = []
    for workload in todo:
        count = max(1, round(workload.share * share))
        tell(f"{count} kills: {workload.label}")
        tallies.append(run_kills(workload, count, seed))
    return tallies


# --- figures -------------------------------------------------------------------------------------


def kill_figures(tallies: list[Tally], asked: int) -> list[Figure]:
    """Returns the figures of the kills."""
    stepped = [tally for tally in tallies if not tally.undisturbed_s]
    acted = [tally for tally in tallies if tally.undisturbed_s]
    figures = [_rows_figure(tallies, asked), _batches_figure("batches", stepped)]
    figures += [_latency_figure(stepped), _growth_figure(tallies)]
    if acted:
        figures += [_batches_figure("rollouts that workers fill:", acted), _again_figure(acted)]
    return figures


def _rows_figure(tallies: list[Tally], asked: int) -> Figure:
    kills = sum(tally.kills for tally in tallies)
    wrong = {
        what: sum(tally.wrong[what] for tally in tallies)
        for what in sorted({what for tally in tallies for what in tally.wrong})
    }
    stopped = [f"{tally.label}: {tally.stopped}" for tally in tallies if tally.stopped]
    bad = sum(wrong.values())
    told = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
    return Figure(
        name="random SIGKILLs of workers: rows lost, repeated, torn, unmarked",
        target=f"0 of at least {asked:,}",
        result=f"{bad} of {kills:,}" + (f" ({told})" if told else ""),
        reached=not bad and not stopped and kills >= 0.98 * asked,
        details=stopped,
    )


def _batches_figure(what: str, tallies: list[Tally]) -> Figure:
    marked = sum(tally.marked for tally in tallies)
    kills = sum(tally.kills for tally in tallies)
    wrong = sum(tally.wrong.total() for tally in tallies)
    compared = sum(tally.locksteps for tally in tallies)
    different = sum(tally.different for tally in tallies)
    return Figure(
        name=f"{what} bit-identical to an undisturbed run",
        target="100 %",
        result=f"{100 * (1 - different / max(1, compared)):.4g} % of {compared:,}",
        reached=compared > 0 and not different and not marked,
        details=[f"{kills} kills, {wrong} rows wrong, {marked} rows marked invalid"],
    )


def _again_figure(tallies: list[Tally]) -> Figure:
    """Returns how long kills hold up a rollout, beyond what it takes step by step."""
    found = {
        tally.label: np.percentile(tally.latencies_s, (50, 99)) * 1e3
        - np.median(tally.undisturbed_s) * 1e3
        for tally in tallies
        if tally.latencies_s
    }
    kept = (times for label, times in found.items() if label.startswith("CartPole"))
    p50, p99 = next(kept, (np.inf, np.inf))
    return Figure(
        name="kill to the end of the rollout, beyond one step by step, p50 / p99 (CartPole)",
        target="60 ms at most, p50",
        result=f"{p50:.0f} / {p99:.0f} ms",
        reached=bool(p50 <= 60),
        details=[f"{label}: {low:.0f} / {high:.0f} ms" for label, (low, high) in found.items()],
    )


def _latency_figure(tallies: list[Tally]) -> Figure:
    """Returns the recovery times of the default grouping; the other one is told of."""
    found = {
        tally.label: np.percentile(tally.latencies_s, (50, 99)) * 1e3
        for tally in tallies
        if tally.label.startswith("CartPole") and tally.latencies_s
    }
    p50, p99 = next(iter(found.values()), (np.inf, np.inf))
    return Figure(
        name="kill to next complete lockstep, p50 / p99 (CartPole, replay included)",
        target="15 / 60 ms",
        result=f"{p50:.0f} / {p99:.0f} ms",
        reached=bool(p50 <= 15 and p99 <= 60),
        details=[f"{label}: {low:.0f} / {high:.0f} ms" for label, (low, high) in found.items()],
    )


def _growth_figure(tallies: list[Tally]) -> Figure:
    restarts = sum(tally.restarts for tally in tallies)
    sums = {
        name: sum(abs(tally.growth.get(name, 0)) for tally in tallies)
        for name in ("descriptors", "threads", "zombies")
    }
    measured = any(tally.growth for tally in tallies)
    return Figure(
        name=f"growth of descriptors, threads, zombies after {restarts:,} restarts",
        target="0",
        result=" / ".join(str(value) for value in sums.values()) if measured else "not measured",
        reached=measured and not any(sums.values()),
    )


def hang_figure() -> Figure:
    """Returns how long past the deadline hangs hold up the others."""
    found = {hang: overshoot_s(hang) for hang in HANGS}
    return Figure(
        name="hang: time past the deadline until the batch goes on",
        target="at most 0.3 s",
        result=f"{max(found.values()):.2f} s",
        reached=max(found.values()) <= 0.3,
        details=[f"{hang}: {late_s:.2f} s" for hang, late_s in found.items()],
    )


def matrix_figure() -> Figure:
    """Returns how many cells of the fault matrix came out as specified."""
    cells = run_matrix()
    wrong = [cell for cell in cells if not cell.right]
    hangs = sum(cell.got == "hangs" for cell in cells)
    return Figure(
        name="fault matrix: specified outcome",
        target="all, 0 hangs",
        result=f"{len(cells) - len(wrong)} of {len(cells)}, {hangs} hangs",
        reached=not wrong,
        details=[
            f"{cell.fault} in {cell.place}: {cell.expected} expected, {cell.got}" for cell in wrong
        ],
    )


def product_figure(kills: int) -> Figure:
    """Runs all combinations of lasting faults with reactions, paces, groupings and modes.

    Args:
        kills: fewer than 2,000 run a sample; from an installed wheel, which has no docs, none.
    """
    every = cells()
    todo = every if kills >= 2000 else sample(max(20, len(every) * kills // 2000), seed=0)
    todo = todo if TABLES.exists() else []
    wrong = list(run_product(todo))
    return Figure(
        name="lasting faults x reactions x limits x paces x groupings x modes",
        target="as docs/faults.md has it",
        result=f"{len(todo) - len(wrong)} of {len(todo)}",
        reached=not wrong,
        details=wrong,
    )


def orphan_figure(managers: int, seed: int) -> Figure:
    """Returns how many processes outlive their manager."""
    left = orphans(managers, seed)
    return Figure(
        name=f"processes left 1 s after SIGKILL of the manager, {managers} times",
        target="0",
        result=str(left),
        reached=not left,
    )


def steady_figure(scale: Scale, seed: int) -> Figure:
    """Returns how much of the throughput is left under kills."""
    kept = throughput_kept(scale.slices, scale.slice_s, seed)
    return Figure(
        name=f"throughput with a kill every {scale.slice_s:g} s, against none (N = {STEADY_N})",
        target="at least 95 %",
        result=f"{100 * kept:.1f} %",
        reached=kept >= 0.95,
    )


def frame_figure(frames: int, seed: int) -> Figure:
    """Returns how many odd frames, so many of each kind, did what none may do."""
    fed = feed_elsewhere(frames, seed)
    return Figure(
        name="mutated and odd frames: crashes, hangs, allocations over the cap",
        target=f"0 of {frames:,} of each kind",
        result=f"{fed.failures} of {fed.frames:,} ({fed.accepted:,} were well formed)",
        reached=not fed.failures,
        details=fed.crashes,
    )


# --- does it see anything ------------------------------------------------------------------------


def self_tests(seed: int) -> list[Figure]:
    """Returns whether builds that are broken on purpose are reported."""
    workload = Workload(name="ledger", makers=ledgers(6), workers=None)
    with acknowledgement_ignored():
        tally = run_kills(workload, 5, seed)
    left = orphans(1, seed, [WITHOUT_GROUP_KILL])
    told = tally.stopped or f"{tally.different} batches are different"
    return [
        _self_test("acknowledgement ignored", told, seen=not tally.sound),
        _self_test("group kill left out", f"{left} processes left", seen=left > 0),
    ]


def _self_test(name: str, told: str, *, seen: bool) -> Figure:
    return Figure(
        name=f"self-test, {name}",
        target="reported",
        result=f"{'reported' if seen else 'NOT reported'}: {told}",
        reached=seen,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what thousands of deaths say of themselves out of the terminal."""
    logger = logging.getLogger("vecsess")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # fork servers pass on what their workers write
    os.close(null)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        logger.setLevel(level)


def as_data(figures: list[Figure], tallies: list[Tally]) -> dict[str, Any]:
    """Returns a campaign as plain data."""
    return {
        "failed": not all(figure.reached for figure in figures),
        "figures": [asdict(figure) for figure in figures],
        "workloads": [tally.as_data() for tally in tallies],
    }
