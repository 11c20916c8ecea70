"""Rounds, medians and ratios; no figure that depends on speed is ever expected."""

from __future__ import annotations

import pytest

from tests.bench.fakes import (
    ABSENT,
    BARE,
    CARTPOLE,
    COUNTING,
    DYING,
    RAISING,
    ran,
)
from vecsess.bench.cases import find_case
from vecsess.bench.contenders import Contender
from vecsess.bench.host import ContenderFailed, Slice
from vecsess.bench.measure import (
    Plan,
    Row,
    Table,
    best_layout,
    measure,
    measure_starts,
    rotated,
)

SHORT = Plan(seconds=0.01, rounds=2)


def row(contender: Contender, *slices: Slice) -> Row:
    return Row(contender=contender, slices=list(slices))


def test_each_round_begins_with_the_next_and_keeps_the_order() -> None:
    assert [rotated("abc", turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert rotated([], 3) == []


def test_everyone_is_first_equally_often() -> None:
    firsts = [rotated("abcd", turn)[0] for turn in range(8)]
    assert {firsts.count(each) for each in "abcd"} == {2}


def test_a_rate_is_the_median_so_that_one_bad_round_does_not_count() -> None:
    assert row(BARE, ran(100), ran(1), ran(102)).rate == 100
    assert row(BARE).rate is None


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    # Twice as fast in each round, though the machine's speed changes tenfold between rounds.
    baseline = row(BARE, ran(10), ran(100), ran(50))
    other = row(COUNTING, ran(20), ran(200), ran(100))
    assert other.times(baseline) == 2
    assert other.times(None) is None
    assert other.times(row(BARE)) is None


def test_cpu_time_is_of_the_trainer_and_its_workers() -> None:
    busy = row(COUNTING, ran(500, elapsed_s=2.0, manager_cpu_s=1.0, workers_cpu_s=2.0))
    assert busy.cpu_s_per_million == pytest.approx(6000)
    assert busy.cores_used == pytest.approx(1.5)


def test_the_limit_is_the_bare_rate_times_the_cores() -> None:
    ours = row(COUNTING, ran(150), ran(150))
    table = Table(
        case=CARTPOLE,
        n=16,
        cores=2,
        rows=[row(BARE, ran(100), ran(100)), ours],
        baseline="bare",
    )
    assert table.limit == 200
    assert table.share_of_limit(ours) == 0.75
    assert table.times_baseline(ours) == 1.5


def test_without_a_bare_environment_there_is_no_limit() -> None:
    ours = row(COUNTING, ran(150))
    table = Table(case=CARTPOLE, n=16, cores=2, rows=[ours], baseline="async")
    assert (table.limit, table.share_of_limit(ours), table.times_baseline(ours)) == (None,) * 3


@pytest.mark.usefixtures("no_process_left")
def test_everyone_gets_a_slice_a_round_and_failures_a_reason() -> None:
    told: list[str] = []
    table = measure(
        CARTPOLE, 2, [BARE, RAISING, ABSENT, COUNTING], SHORT, baseline="bare", tell=told.append
    )
    bare, raising, absent, counting = table.rows
    assert len(bare.slices) == len(counting.slices) == 2
    assert bare.problem is counting.problem is None
    assert (absent.problem, absent.slices) == ("not installed", [])
    assert (raising.problem, raising.slices) == ("failed", [])
    assert raising.details is not None
    assert raising.details.startswith("RuntimeError: no more of this")
    assert "cartpole, N = 2: round 2 of 2" in told


@pytest.mark.usefixtures("no_process_left")
def test_one_that_cannot_run_a_case_is_not_started() -> None:
    from vecsess.bench.registry import EVERYTHING

    picky = Contender(
        key="envpool",
        label="EnvPool",
        open=COUNTING.open,
        applies=EVERYTHING["envpool"].applies,
    )
    (row_,) = measure(find_case("heavy"), 2, [picky], SHORT).rows
    assert row_.problem == "not for this"


@pytest.mark.usefixtures("no_process_left")
def test_a_layout_that_fails_is_never_the_best() -> None:
    assert best_layout([RAISING, COUNTING, DYING], CARTPOLE, 1, 0.01) == COUNTING
    with pytest.raises(ContenderFailed, match="no more of this"):
        best_layout([RAISING], CARTPOLE, 1, 0.01)


@pytest.mark.usefixtures("no_process_left")
def test_starts_are_measured_in_a_fresh_process_each_round() -> None:
    (bare, starts), (absent, none) = measure_starts(
        CARTPOLE, 1, [BARE, ABSENT], 2, tell=lambda line: None
    )
    assert bare.problem is None
    assert [started.processes for started in starts] == [0, 0]
    assert (absent.problem, none) == ("not installed", [])
