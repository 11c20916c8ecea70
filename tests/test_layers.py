"""The rooms: `make check` fails where somebody reaches up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import CHECKOUT

LINT = "from importlinter.cli import lint_imports_command as lint; lint()"
UPWARD = {
    "vecsess/wire/leaves.py": "vecsess.errors",
    "vecsess/fleet/rows.py": "vecsess.recovery.journal",
    "vecsess/recovery/ladder.py": "vecsess.session.engine",
    "vecsess/session/calls.py": "vecsess.collect.loop",
    "vecsess/collect/loop.py": "vecsess.tuning.layouts",
    "vecsess/tuning/layouts.py": "vecsess.cli.figures",
    "workers/rows.py": "vecsess.fleet.rows",
    "bridge/transports.py": "vecsess.session.client",
    "vecsess/session/conventions.py": "vecsess.workers.serve",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is linted, links included."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("vecsess", "workers", "bridge", "bench"):
        shutil.copytree(
            CHECKOUT / name,
            folder / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.png"),
        )
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # From the folder, whose package is then found first.
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-logo", "--no-cache"],
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_rooms_are_in_order(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", UPWARD)
def test_reaching_up_is_refused(copy: Path, file: str) -> None:
    path = copy / file
    before = path.read_text()
    path.write_text(f"{before}\nimport {UPWARD[file]}\n")
    try:
        done = lint(copy)
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
