"""The page of results: made from files alone, complete, and honest about what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vecsess.bench.__main__ import main
from vecsess.bench.results import load_runs, page, write_results
from vecsess.bench.runs import RUNS, run_all
from vecsess.bench.targets import TARGETS

pytestmark = pytest.mark.usefixtures("no_process_left")
TINY = ("--seconds", "0.02", "--rounds", "1", "-n", "2")
MEASURED = {
    "cartpole-16": ("throughput", "--only", "bare,async,sb3,ours-n"),
    "manager": ("manager",),
    "tune": ("tune",),
    "start": ("start", "--only", "ours-n"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns files of a few very short runs, with a plot."""
    found = tmp_path_factory.mktemp("runs")
    for name, arguments in MEASURED.items():
        plots = ["--plots", str(found / "plots" / name)] if name == "cartpole-16" else []
        assert main([*arguments, *TINY, "--json", str(found / f"{name}.json"), *plots]) == 0
    return found


def test_the_page_has_machine_targets_runs_and_plots(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench" / "RESULTS.md"
    write_results(folder, out)
    text = out.read_text()
    assert text.startswith("# Results\n")
    assert "CPython 3." in text
    assert "gymnasium 1." in text
    for target in TARGETS:
        assert f"| {target.what} | {target.bound} |" in text
    for name in MEASURED:
        assert f"## {name}\n" in text
        assert f"`python -m vecsess.bench {RUNS[name][0]} " in text
    assert "manager us a lockstep" in text
    assert "- workers=" in text, "the advice of `tune`"
    plot = "plots/cartpole-16/core-time-cartpole-2.png"
    assert f"]({plot})" in text
    assert (out.parent / plot).read_bytes().startswith(b"\x89PNG")


def test_what_was_not_measured_is_said_to_be(folder: Path) -> None:
    # The runs have N = 2, every target another.
    lines = [line for line in page(load_runs(folder), []).splitlines() if "not measured" in line]
    assert len(lines) == len(TARGETS)


def test_a_figure_stands_beside_its_target(folder: Path) -> None:
    runs = load_runs(folder)
    for table in runs["start"]["tables"]:
        table["n"] = 16
        (row,) = table["rows"]
        row["start_s"] = 0.25
        row["pss_bytes"] = 200e6
    text = page(runs, [])
    assert "| start of 16 workers to the first observation, s | <= 0.300 | 0.250 | yes |" in text
    assert "| 16 idle workers, PSS together, MB | <= 150 | 200 | **no** |" in text


def test_a_contender_that_is_missing_stays_in_the_table(folder: Path) -> None:
    runs = load_runs(folder)
    for row in runs["cartpole-16"]["tables"][0]["rows"]:
        if row["key"] == "sb3":
            row["problem"] = "not installed"
    assert "| SB3 SubprocVecEnv | not installed |" in page(runs, [])


def test_every_line_of_a_table_has_as_many_cells(folder: Path) -> None:
    widths: set[int] = set()
    for line in page(load_runs(folder), []).splitlines():
        if line.startswith("| "):
            widths.add(line.count(" |"))
        else:
            assert len(widths) <= 1
            widths.clear()


def test_without_files_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["results", "--json-dir", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert "expected JSON files" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_the_command_writes_the_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    assert main(["results", "--json-dir", str(folder), "--out", str(out)]) == 0
    assert out.read_text() == page(
        load_runs(folder), ["plots/cartpole-16/core-time-cartpole-2.png"]
    )


def test_all_is_every_run_each_with_its_file(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def run(arguments: list[str]) -> int:
        asked.append(arguments)
        file = Path(arguments[arguments.index("--json") + 1])
        file.write_text(json.dumps({}))
        return 3 if arguments[0] == "free" else 0

    told: list[str] = []
    assert run_all(tmp_path / "new", run, told.append) == 3, "of the one that failed"
    assert {path.stem for path in (tmp_path / "new").iterdir()} == set(RUNS)
    assert len(asked) == len(told) == len(RUNS)
    assert [tuple(each[: len(RUNS[name])]) for each, name in zip(asked, RUNS, strict=True)] == list(
        RUNS.values()
    )


def test_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def interrupted(arguments: list[str]) -> int:
        asked.append(arguments)
        return 130

    assert run_all(tmp_path, interrupted, lambda line: None) == 130
    assert len(asked) == 1
