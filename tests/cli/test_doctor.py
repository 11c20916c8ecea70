"""`vecsess doctor`: what it sees of a machine, and of environments that do strange things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.documents import CHECKOUT
from tests.programs import run
from vecsess.cli.doctor.costs import measure_costs
from vecsess.cli.doctor.env_report import judge, probe, recommend
from vecsess.cli.doctor.findings import FAIL, NOTE, OK, WARN, Finding
from vecsess.cli.doctor.machine import examine_machine
from vecsess.fleet.quota import Limits, read_limits, usable_cores

STRANGE = "tests.cli.strange_envs:"

pytestmark = pytest.mark.usefixtures("no_process_left")


def findings_of(env_id: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    monkeypatch.chdir(CHECKOUT)
    return {finding.name: finding for finding in judge(probe(env_id, {}, [], budget_s=0.3))}


# --- the command ---------------------------------------------------------------------------------


def test_a_machine_and_an_environment_fit_on_a_screen() -> None:
    said = run("-m", "vecsess", "doctor", "--env", "CartPole-v1", cwd=CHECKOUT, COLUMNS="80").stdout
    lines = said.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("fit")
    assert "workers=" in said


def test_an_environment_that_breaks_the_contract_is_not_fit() -> None:
    env = STRANGE + "Lying-v0"
    done = run("-m", "vecsess", "doctor", "--env", env, cwd=CHECKOUT, code=1)
    assert "field 'reward'" in done.stdout
    assert "not fit: 1 problem" in done.stdout


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("Nope-v0", "NameNotFound"),
        (STRANGE + "Raising-v0", "raise_error"),
        (STRANGE + "Dying-v0", "exit code 7"),
    ],
)
def test_an_environment_that_can_not_be_examined_is_an_error(env: str, expected: str) -> None:
    done = run("-m", "vecsess", "doctor", "--env", env, cwd=CHECKOUT, code=2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


# --- environments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "name", "level", "text"),
    [
        ("Lying", "contract", FAIL, "got nan"),
        ("Widening", "contract", WARN, "float64 to float32"),
        ("Gambling", "determinism", WARN, "from step 3 on"),
        ("Talking", "stdout", NOTE, "talking to stdout"),
        ("Leaking", "memory", WARN, "in a million steps"),
    ],
)
def test_a_strange_environment_is_found_out(
    env: str, name: str, level: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = findings_of(f"{STRANGE}{env}-v0", monkeypatch)[name]
    assert finding.level == level
    assert text in finding.text
    assert finding.advice


def test_a_sound_environment_gives_no_reason_to_complain(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = findings_of("CartPole-v1", monkeypatch)
    assert {finding.level for name, finding in findings.items() if name != "steps"} == {OK}
    assert findings["spaces"].text == "observations Box[4] float32, actions Discrete(2)"


@pytest.mark.parametrize(
    ("rates", "cpu_share", "advice"),
    [
        ({"None": 50.0, "'auto'": 100.0, "0": 80.0}, 1.0, "workers='auto': the faster one"),
        ({"None": 95.0, "'auto'": 100.0, "0": 80.0}, 1.0, "workers=None: the fastest or nearly"),
        ({"None": 300.0, "'auto'": 100.0, "0": 20.0}, 0.1, "workers=None: it mostly waits"),
        ({"None": 95.0, "'auto'": 100.0, "0": 104.0}, 1.0, "workers=None: the fastest or nearly"),
        (
            {"None": 10.0, "'auto'": 20.0, "0": 80.0},
            1.0,
            "workers=0: a step is cheaper than a message to another process; 'auto' gives 25%",
        ),
    ],
)
def test_the_recommendation_follows_the_measured_rates(
    rates: dict[str, float], cpu_share: float, advice: str
) -> None:
    assert recommend(rates, cpu_share, 16).advice.startswith(advice)


# --- the machine ---------------------------------------------------------------------------------


def test_every_side_of_the_machine_is_looked_at() -> None:
    names = [finding.name for finding in examine_machine()]
    assert names == ["system", "cores", "memory", "open files", "load", "threads", "packages"]


def group(tmp_path: Path, membership: str, files: dict[str, str]) -> Any:
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "membership").write_text(membership)
    return read_limits(tmp_path / "root", tmp_path / "membership")


def test_the_tightest_control_group_above_a_process_counts(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "150000 100000",
        "a/memory.max": "max",
        "a/b/cpu.max": "max 100000",
        "a/b/memory.max": "1073741824",
    }
    assert group(tmp_path, "0::/a/b\n", files) == Limits(1.5, 2**30)


def test_control_groups_of_version_1_count_too(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/docker/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    limits = group(tmp_path, "4:cpu,cpuacct:/docker\n3:memory:/docker\n", files)
    assert limits == Limits(0.5, None)
    assert usable_cores(limits) == 0.5


def test_no_control_group_is_no_limit(tmp_path: Path) -> None:
    assert group(tmp_path, "0::/\n", {}) == Limits(None, None)


def test_another_process_costs_more_than_a_pipe_alone() -> None:
    costs = measure_costs()
    assert 0 < costs.pipe_s < costs.round_trip_s < 1.0
