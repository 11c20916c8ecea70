"""What is printed and written: complete, plain, and true to the rows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.fakes import ABSENT, BARE, CARTPOLE, COUNTING, ran
from vecsess.bench.cases import find_case
from vecsess.bench.contenders import Contender
from vecsess.bench.host import ContenderFailed, Started
from vecsess.bench.measure import Plan, Row, Table
from vecsess.bench.plots import plot_core_time, plot_throughput
from vecsess.bench.registry import CHECKED, EVERYTHING, UNCHECKED
from vecsess.bench.report import (
    SCHEMA,
    core_time,
    document,
    machine,
    print_checks,
    print_table,
    starts_data,
    table_data,
    versions,
)


@pytest.fixture
def table() -> Table:
    failed = Row(contender=Contender(key="lost", label="lost", open=COUNTING.open))
    failed.fail(ContenderFailed("OSError: gone", "line 1\nline 2"))
    return Table(
        case=CARTPOLE,
        n=16,
        cores=2,
        rows=[
            Row(contender=BARE, slices=[ran(1000, manager_cpu_s=1.0)]),
            Row(
                contender=COUNTING,
                started=Started(start_s=0.25, pss_bytes=3 << 20, processes=2),
                slices=[ran(1500, manager_cpu_s=0.1, workers_cpu_s=1.7)],
            ),
            Row(contender=ABSENT, problem="not installed"),
            failed,
        ],
        baseline="bare",
    )


def printed(show: object, *arguments: object) -> str:
    assert callable(show)
    console = Console(file=io.StringIO(), width=120)
    show(console, *arguments)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_row_for_each_and_says_what_is_missing(table: Table) -> None:
    text = printed(print_table, table_data(table))
    assert "cartpole, N = 16, 2 cores; limit 2 x bare = 2,000 steps/s" in text
    cells = [cell.strip() for cell in text.split("counting", 1)[1].splitlines()[0].split("│")[1:]]
    assert cells[:7] == ["1,500", "1.50", "75.0%", "1200.00", "1.80", "0.250", "3.0"]
    assert "not installed" in text
    assert "lost: OSError: gone" in text


def test_the_step_time_is_told() -> None:
    case = find_case("heavy")
    table = Table(case=case, n=1, cores=2, rows=[], baseline="bare")
    text = printed(print_table, table_data(table))
    assert "asleep 1000 us a step, log-normal with sigma 1" in text


def test_the_file_has_everything_that_a_stranger_needs(table: Table) -> None:
    text = json.dumps(document("throughput", Plan(), machine(), [table_data(table)]))
    found = json.loads(text)
    assert found["schema"] == SCHEMA
    assert set(found) == {"schema", "command", "plan", "machine", "versions", "tables"}
    assert set(found["machine"]) == {
        "cores",
        "cores_online",
        "cpu",
        "kernel",
        "python",
        "load_average",
    }
    assert found["plan"] == {"seconds": 1.0, "rounds": 5}
    assert found["versions"]["numpy"]
    (data,) = found["tables"]
    assert set(data) == {"case", "n", "cores", "baseline", "limit_steps_per_s", "rows"}
    bare, counting, absent, lost = data["rows"]
    assert set(bare) == set(counting) == set(absent) == set(lost)
    assert counting["steps_per_s"] == 1500
    assert counting["share_of_limit"] == 0.75
    assert counting["pss_bytes"] == 3 << 20
    assert counting["slices"][0]["workers_cpu_s"] == 1.7
    assert absent["problem"] == "not installed"
    assert absent["steps_per_s"] is None
    assert lost["details"].endswith("line 2")


def test_what_is_not_installed_has_no_version() -> None:
    assert all(version is None or version for version in versions().values())
    assert versions()["gymnasium"]


def test_the_time_of_the_cores_is_shared_out_completely(table: Table) -> None:
    _, counting, absent, _ = table.rows
    # A bare step takes 1 ms; 1,500 of them 1.5 s of the two seconds that there are.
    assert core_time(table, counting) == pytest.approx(
        {"environments": 0.75, "workers": 0.1, "trainer": 0.05, "idle": 0.1}
    )
    assert core_time(table, absent) is None


def test_in_one_process_the_environments_time_is_the_trainers(table: Table) -> None:
    inside = Row(contender=COUNTING, slices=[ran(800, manager_cpu_s=1.0)])
    assert core_time(table, inside) == pytest.approx(
        {"environments": 0.4, "workers": 0.0, "trainer": 0.1, "idle": 0.5}
    )


def test_bare_loops_on_all_cores_are_environments_and_nothing_else(table: Table) -> None:
    loops = Row(
        contender=EVERYTHING["bare-cores"],
        slices=[ran(1800, manager_cpu_s=1.0, workers_cpu_s=0.9)],
    )
    assert core_time(table, loops) == pytest.approx(
        {"environments": 0.95, "workers": 0.0, "trainer": 0.0, "idle": 0.05}
    )


def test_a_rewritten_environment_is_not_judged_by_ours(table: Table) -> None:
    other = Row(contender=EVERYTHING["envpool"], slices=[ran(9000, manager_cpu_s=1.0)])
    assert core_time(table, other) is None


def test_the_share_of_the_checks_is_one_line() -> None:
    table = Table(
        case=CARTPOLE,
        n=16,
        cores=2,
        rows=[
            Row(contender=CHECKED, slices=[ran(95)]),
            Row(contender=UNCHECKED, slices=[ran(100)]),
        ],
        baseline="unchecked",
    )
    expected = "value checks: 5.0% of a lockstep at N = 16, 2 workers\n"
    assert printed(print_checks, table_data(table)) == expected


def test_starts_are_medians() -> None:
    starts = [Started(start_s=each, pss_bytes=2 << 20, processes=3) for each in (0.1, 0.9, 0.2)]
    found = [(Row(contender=BARE), starts), (Row(contender=ABSENT, problem="not installed"), [])]
    data = starts_data("cartpole", 16, found)
    text = printed(print_table, data)
    assert "0.200" in text
    assert "not installed" in text
    assert data["rows"][0]["start_s"] == 0.2
    assert len(data["rows"][0]["starts"]) == 3
    assert data["rows"][1]["start_s"] is None


def test_plots_are_pngs(table: Table, tmp_path: Path) -> None:
    plot_throughput([table], tmp_path / "new" / "throughput.png")
    plot_core_time(table, tmp_path / "new" / "core-time.png")
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
