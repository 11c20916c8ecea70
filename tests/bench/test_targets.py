"""Figures are read from plain data, and compared with their targets as these say."""

from __future__ import annotations

from typing import Any

import pytest

from vecsess.bench import readings
from vecsess.bench.commands import COMMANDS
from vecsess.bench.registry import EVERYTHING
from vecsess.bench.runs import RUNS
from vecsess.bench.targets import TARGETS, Target


def row(key: str, *rates: float, **figures: Any) -> dict[str, Any]:
    slices = [{"steps": rate, "elapsed_s": 1.0, "figures": {}} for rate in rates]
    rate = sorted(rates)[len(rates) // 2] if rates else None
    return {"key": key, "problem": None, "steps_per_s": rate, "slices": slices, **figures}


def table(*rows: dict[str, Any], n: int = 16, case: str = "cartpole") -> dict[str, Any]:
    return {"n": n, "case": {"name": case}, "rows": list(rows)}


def test_every_target_belongs_to_a_run_and_every_run_to_a_command() -> None:
    assert {target.run for target in TARGETS} <= set(RUNS)
    for arguments in RUNS.values():
        assert arguments[0] in COMMANDS
        if "--only" in arguments:
            assert set(arguments[arguments.index("--only") + 1].split(",")) <= set(EVERYTHING)


def test_every_target_has_one_bound_and_a_run_with_its_n() -> None:
    for target in TARGETS:
        assert (target.least is None) != (target.most is None)
        sizes = RUNS[target.run][RUNS[target.run].index("-n") + 1]
        assert str(target.n) in sizes.split(",")


def test_a_ratio_is_the_median_of_each_rounds_against_the_fastest_other() -> None:
    found = table(row("ours", 20, 200, 90), row("slow", 1, 2, 3), row("fast", 10, 100, 30))
    assert readings.times("ours", "slow", "fast")(found) == 2
    assert readings.times("ours", "nobody")(found) is None
    assert readings.times("nobody", "fast")(found) is None


def test_one_that_failed_is_no_one_to_compare_with() -> None:
    lost = {**row("lost", 1000), "problem": "failed"}
    found = table(row("ours", 20), lost, row("fast", 10))
    assert readings.times("ours", "lost", "fast")(found) == 2
    assert readings.row_of(found, "lost") is None


def test_what_stands_in_a_row_is_read_from_it() -> None:
    found = table(
        row("ours", 1, share_of_limit=0.8, start_s=0.2, pss_bytes=3e6, cpu_s_per_million_steps=4.0),
        row("other", 2, share_of_limit=None, start_s=None, cpu_s_per_million_steps=2.0),
    )
    assert readings.start_s("ours")(found) == 0.2
    assert readings.memory_mb("ours")(found) == 3
    assert readings.memory_mb("other")(found) is None
    assert readings.cpu_times("ours", "other")(found) == 2
    assert readings.cpu_times("ours", "nobody")(found) is None
    assert readings.cost("ours", "other")(found) == 0.5


def test_what_contenders_measured_of_themselves_is_a_median_over_slices() -> None:
    measured = row("ours", 1, 1, 1)
    for done, slept_s in zip(measured["slices"], (0.5, 0.9, 0.7), strict=True):
        done["figures"] = {"slept_s": slept_s, "ideal_s": 0.1}
    found = table(measured, row("other", 1))
    assert readings.of_slices("ours", readings.IDEAL)(found) == 0.7
    assert readings.of_slices("other", readings.IDEAL)(found) is None
    assert readings.of_slices("nobody", readings.IDEAL)(found) is None


def test_a_figure_may_be_of_one_case_only() -> None:
    figure = readings.of_case("null", readings.start_s("ours"))
    assert figure(table(row("ours", 1, start_s=1.0), case="null")) == 1
    assert figure(table(row("ours", 1, start_s=1.0))) is None


@pytest.mark.parametrize(
    ("bounds", "text", "good", "bad"),
    [({"least": 2.0}, ">= 2.00", 2.0, 1.99), ({"most": 2.0}, "<= 2.00", 2.0, 2.01)],
)
def test_a_bound_is_from_below_or_from_above(
    bounds: dict[str, float], text: str, good: float, bad: float
) -> None:
    target = Target(what="", run="free", n=16, figure=lambda table: None, **bounds)  # type: ignore[arg-type]
    assert target.bound == text
    assert target.met(good)
    assert not target.met(bad)


def test_a_figure_is_read_from_the_table_of_its_n_that_has_it() -> None:
    target = Target(what="", run="start", n=64, figure=readings.start_s("ours"), most=1.0)
    one, other = table(row("ours", 1, start_s=0.1)), table(row("ours", 1, start_s=0.9), n=64)
    assert target.read([one, table(n=64), other]) == 0.9
    assert target.read([one]) is None
