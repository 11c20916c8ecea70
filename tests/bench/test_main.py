"""The command line, by runs so short that their figures mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vecsess.bench.__main__ import main
from vecsess.bench.commands import COMMANDS, too_large
from vecsess.bench.host import Started
from vecsess.bench.measure import Row
from vecsess.bench.registry import BARE

pytestmark = pytest.mark.usefixtures("no_process_left")
TINY = ("--seconds", "0.05", "--rounds", "1", "-n", "2")


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    assert main([*arguments, "--json", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def problems(found: dict[str, Any]) -> dict[str, str | None]:
    return {row["key"]: row["problem"] for table in found["tables"] for row in table["rows"]}


def test_one_table_of_gymnasium_and_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, *TINY, "--peers", "none")
    assert found["command"] == "throughput"
    keys = ["bare", "bare-cores", "sync", "async", "ours-auto", "ours-n", "ours-2", "ours-0"]
    assert problems(found) == dict.fromkeys(keys)
    text = capsys.readouterr().out
    assert "cartpole, N = 2" in text
    for row in found["tables"][0]["rows"]:
        assert row["label"] in text
        assert row["steps_per_s"] > 0
        assert len(row["slices"]) == 1


def test_peers_that_are_missing_are_listed_as_such(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = run(tmp_path, *TINY, "--only", "bare,sb3,tianshou,torchrl,pufferlib,envpool")
    assert list(problems(found).values()) == [None, *["not installed"] * 5]
    assert capsys.readouterr().out.count("not installed") == 5


def test_collections_call_is_named_as_what_it_is(tmp_path: Path) -> None:
    found = run(tmp_path, *TINY, "--only", "into-auto")
    assert problems(found) == {"into-auto": None}
    assert "step_into" in found["tables"][0]["rows"][0]["label"]


def test_rollouts_against_the_usual_loop(tmp_path: Path) -> None:
    keys = "bare,bare-acting,usual-sync,usual-loop,collect-0,collect-auto"
    found = run(tmp_path, "collect", *TINY, "--only", keys)
    assert problems(found) == dict.fromkeys(keys.split(","))
    (table,) = found["tables"]
    assert table["baseline"] == "usual-loop"
    assert table["rows"][3]["slices"][0]["steps"] % (128 * 2) == 0


@pytest.mark.parametrize("env", ["Pendulum-v1", "image"])
def test_the_small_policy_acts_in_any_case(tmp_path: Path, env: str) -> None:
    keys = "bare-acting,usual-sync,collect-0"
    found = run(tmp_path, "collect", *TINY, "--env", env, "--only", keys)
    assert problems(found) == dict.fromkeys(keys.split(","))


def test_what_the_checks_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(run(tmp_path, "checks", *TINY)) == {"checked": None, "unchecked": None}
    assert "of a lockstep at N = 2, 2 workers" in capsys.readouterr().out


def test_starts_for_each_n(tmp_path: Path) -> None:
    found = run(tmp_path, "start", *TINY[:4], "-n", "1,2", "--only", "bare,ours-n")
    assert [table["n"] for table in found["tables"]] == [1, 2]
    assert [table["rows"][1]["problem"] for table in found["tables"]] == [None, None]


def test_a_sweep_has_a_table_for_each_n_and_plots(tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    found = run(
        tmp_path, "sweep", *TINY[:4], "-n", "1,2", "--only", "bare,sync", "--plots", str(plots)
    )
    assert [table["n"] for table in found["tables"]] == [1, 2]
    assert sorted(path.name for path in plots.iterdir()) == [
        "core-time-cartpole-1.png",
        "core-time-cartpole-2.png",
        "throughput-cartpole.png",
    ]


def test_who_would_not_fit_or_start_in_time_is_left_out_of_the_next_n() -> None:
    def started(start_s: float, pss_bytes: int) -> Row:
        return Row(
            contender=BARE,
            started=Started(start_s=start_s, pss_bytes=pss_bytes, processes=16),
        )

    assert not too_large(started(0.1, 1 << 20), growth=2, start_limit_s=150)
    assert too_large(started(100.0, 1 << 20), growth=2, start_limit_s=150)
    assert too_large(started(0.1, 1 << 50), growth=2, start_limit_s=150)
    assert not too_large(Row(contender=BARE, problem="not installed"), growth=2, start_limit_s=150)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--env", "NoSuchEnvironment-v9"],
        ["--only", "nobody"],
        ["-n", "0"],
        ["--seconds", "0"],
        ["--step-us", "5"],
        ["walk"],
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text and command.about in text for name, command in COMMANDS.items())


def test_paces_against_lockstep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, "free", *TINY, "--step-us", "5")
    assert problems(found) == {"bare": None, "lockstep-n": None, "free-n": None}
    assert capsys.readouterr().out.count("of the ideal") == 2
    found = run(tmp_path, "pipelined", *TINY, "--step-us", "5")
    assert [table["baseline"] for table in found["tables"]] == ["rows-lockstep", "call-lockstep"]
    assert set(problems(found).values()) == {None}


def test_what_waiting_costs(tmp_path: Path) -> None:
    keys = ["slow-blocking", "slow-adaptive", "slow-spinning"]
    assert problems(run(tmp_path, "slow", *TINY)) == dict.fromkeys(keys)


def test_what_manager_and_worker_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, "manager", *TINY[:4], "-n", "1,2")
    assert [table["rows"][0]["problem"] for table in found["tables"]] == ["not for this", None]
    assert found["tables"][1]["rows"][0]["slices"][0]["figures"]["locksteps"] > 0
    found = run(tmp_path, "worker", *TINY)
    assert [table["case"]["name"] for table in found["tables"]] == ["null", "cartpole"]
    text = capsys.readouterr().out
    assert "not for this" in text
    assert "EnvHost.step against a bare loop" in text


def test_which_layout_to_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, "tune", *TINY, "--policy-ms", "0.1", "--policy-row-us", "10")
    (table,) = found["tables"]
    assert table["best"] in table["layouts"]
    assert {layout["pace"] for layout in table["layouts"]} == {"lockstep", "pipelined", "free"}
    text = capsys.readouterr().out
    assert "which layout" in text
    assert all(f"- {line}" in text for line in table["advice"])
