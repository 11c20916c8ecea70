"""`vecsess doctor`: what it sees of a machine, and of environments that do strange things."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.documents import CHECKOUT
from tests.programs import run
from vecsess.cli.doctor.costs import measure_costs
from vecsess.cli.doctor.env_report import _could_not, _ended, inference, judge, probe, recommend
from vecsess.cli.doctor.findings import FAIL, NOTE, OK, WARN, Finding
from vecsess.cli.doctor.machine import _descriptors, examine_machine
from vecsess.cli.doctor.trials import ACTING
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
        ("Raising", "no such place"),
        ("Dying", "it ended its process with exit code 7"),
        ("Hanging", "a call does not return: it is in hang"),
    ],
)
def test_what_ends_an_environment_is_a_line_of_the_table(env: str, expected: str) -> None:
    command = ["-m", "vecsess", "doctor", "--env", f"{STRANGE}{env}-v0", "--call-timeout", "5"]
    done = run(*command, "--json", cwd=CHECKOUT, code=1)
    said = json.loads(done.stdout)
    assert said["fit"] is False
    found = {finding["name"]: finding for finding in said["env"]}
    assert found["spaces"]["level"] == OK
    (problem,) = [finding for finding in said["env"] if finding["level"] == FAIL]
    assert expected in problem["text"]
    assert problem["advice"]


def test_where_an_environment_hangs_is_told_also_in_a_folder_of_the_same_name() -> None:
    said = 'Timeout (0:00:05)!\n  File "/home/me/vecsess/envs.py", line 7 in wait\n'
    assert (
        _ended("signal", said)
        == "a call does not return: it is in wait, /home/me/vecsess/envs.py:7"
    )


def test_an_environment_that_can_not_be_made_is_an_error() -> None:
    done = run("-m", "vecsess", "doctor", "--env", "Nope-v0", cwd=CHECKOUT, code=2)
    assert "NameNotFound" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_for_an_environment_is_named() -> None:
    error = {"type": "NamespaceNotFound", "message": "Namespace ALE not found.", "place": "here"}
    assert "pip install 'vecsess[envs]'" in _could_not("ALE/Pong-v5", error)


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


def test_a_warning_of_gymnasium_is_shown_without_its_colours_or_advice_on_dtypes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = findings_of(f"{STRANGE}Warning-v0", monkeypatch)["contract"]
    assert finding.level == WARN
    assert "old" in finding.text
    assert "\x1b" not in finding.text
    assert "x1b" not in finding.text
    assert "dtype" not in finding.advice


def test_an_action_space_that_a_reset_replaces_is_no_randomness(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert findings_of(f"{STRANGE}Replacing-v0", monkeypatch)["determinism"].level == OK


@pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="this kernel counts no waiting"
)
def test_a_busy_machine_is_not_an_environment_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # also of the processes that are started here
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        found = probe("CartPole-v1", {}, [], budget_s=1.0)
    finally:
        os.sched_setaffinity(0, cores)
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    assert found["cpu_share"] > 0.5


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


def test_it_says_whether_it_pays_that_the_workers_act() -> None:
    rates = {"None": 50.0, "'auto'": 100.0, "0": 110.0}
    assert inference(rates) == []  # they can't
    (pays,) = inference({**rates, ACTING: 220.0})
    assert "2.00 times the best" in pays.text
    assert pays.advice.startswith("workers='auto', inference='workers'")
    (useless,) = inference({**rates, ACTING: 80.0})
    assert "0.73 times" in useless.text
    assert not useless.advice


# --- the machine ---------------------------------------------------------------------------------


def test_every_side_of_the_machine_is_looked_at() -> None:
    names = [finding.name for finding in examine_machine()]
    assert names == ["system", "cores", "memory", "open files", "load", "threads", "packages"]


@pytest.mark.parametrize(
    ("limits", "said", "advice"),
    [
        ((64, 64), "too few for a worker", "can't be raised"),
        ((72, 100_000), "enough for about 1 worker", "ulimit -n 576"),
        ((256, 300), "enough for about 24 workers", "ulimit -n 300"),
    ],
)
def test_few_open_files_are_told_with_what_can_be_done(
    limits: tuple[int, int], said: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    finding = _descriptors()
    assert finding.level == WARN
    assert finding.text.endswith(said)
    assert advice in finding.advice


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
