"""`vecsess check`: a rollout in a file against a contract, and what `collect --out` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.documents import CHECKOUT
from tests.programs import run

GOOD: dict[str, Any] = {
    "obs": [0.0, 1, 2.5, 0],
    "action": 1.0,
    "reward": 1,
    "terminated": False,
    "truncated": False,
    "next_obs": [0.0, 0, 0, 0],
}
CARTPOLE = ("--obs-shape", "4", "--n-actions", "2")


def write(folder: Path, *records: Any) -> Path:
    path = folder / "rollout.json"
    path.write_text(json.dumps({"meta": {"env_id": "x"}, "transitions": list(records)}))
    return path


def check(*arguments: Any, code: int = 0) -> str:
    done = run("-m", "vecsess", "check", *arguments, code=code, cwd=CHECKOUT)
    return done.stderr if code == 2 else done.stdout


@pytest.mark.parametrize("spaces", [CARTPOLE, ("--env", "CartPole-v1")])
def test_a_good_rollout(spaces: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD)
    assert check(path, *spaces) == f"{path}: 2 transitions, 2 good, 0 bad\n"


def test_bad_transitions_are_counted_and_the_first_ones_told(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, {**GOOD, "action": 2}, *[{**GOOD, "reward": 3}] * 9)
    limits = ("--reward-range", "0", "1")
    said = check(path, *CARTPOLE, *limits, code=1).splitlines()
    assert said[0] == f"{path}: 11 transitions, 1 good, 10 bad"
    assert said[1] == "  transition 1, action: expected an action in Discrete(2), got 2"
    assert said[8] == "  transition 8, reward: expected a number in [0.0, 1.0], got 3.0"
    assert said[9:] == ["  and 2 more"]
    report = json.loads(check(path, *CARTPOLE, *limits, "--json", code=1))
    assert {name: report[name] for name in ("count", "good", "bad")} == {
        "count": 11,
        "good": 1,
        "bad": 10,
    }
    assert [error["index"] for error in report["errors"]] == list(range(1, 9))
    assert report["errors"][1]["field"] == "reward"
    check(path, *CARTPOLE, code=1)
    assert json.loads(check(write(tmp_path), *CARTPOLE, "--json"))["count"] == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--exclusive-done-flags",), "terminated"),
        (("--obs-range", "0", "1"), "observation"),
        (("--obs-dtype", "uint8"), "observation"),
        (("--obs-shape", "2,2"), "observation"),
    ],
)
def test_the_contract_is_that_of_the_options(
    arguments: tuple[str, ...], field: str, tmp_path: Path
) -> None:
    path = write(tmp_path, {**GOOD, "terminated": True, "truncated": True})
    check(path, *CARTPOLE)
    report = json.loads(check(path, *CARTPOLE, *arguments, "--json", code=1))
    assert report["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--env ID, or --obs-shape with --n-actions"),
        (("--env", "CartPole-v1", *CARTPOLE), "--env ID, or --obs-shape with --n-actions"),
        (("--obs-shape", "4"), "--env ID, or --obs-shape with --n-actions"),
        (("--obs-shape", "four", "--n-actions", "2"), "--obs-shape 'four'"),
        ((*CARTPOLE, "--obs-dtype", "text"), "--obs-dtype 'text'"),
        ((*CARTPOLE, "--reward-range", "1", "0"), "Contract.reward_range: expected"),
        (("--env", "Nope-v0"), "Nope"),
    ],
)
def test_a_wrong_argument_is_one_paragraph(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    said = check(write(tmp_path, GOOD), *arguments, code=2)
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"transitions": 1}', None])
def test_another_file_is_refused_in_one_paragraph(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    if content is not None:
        path.write_bytes(content)
    said = check(path, *CARTPOLE, code=2)
    assert str(path) in said
    assert "Traceback" not in said


def test_collect_writes_what_check_reads(tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    options = ("--env", "CartPole-v1", "-n", "3", "--seed", "5", "--workers", "0", "--quiet")
    run(
        *("-m", "vecsess", "collect", *options, "--horizon", "64", "--rollouts", "1"),
        *("--out", path),
        cwd=CHECKOUT,
    )
    assert check(path, "--env", "CartPole-v1") == f"{path}: 192 transitions, 192 good, 0 bad\n"
    meta = json.loads(path.read_text())["meta"]
    assert (meta["env_id"], meta["seed"], meta["steps"], meta["num_envs"]) == (
        "CartPole-v1",
        5,
        192,
        3,
    )


def test_a_name_that_promises_another_format_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "batch.csv"
    done = run("-m", "vecsess", "collect", "--out", out, code=2, cwd=CHECKOUT)
    assert f"--out {out}: expected a name that ends in .npz or .json" in done.stderr
