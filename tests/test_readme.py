"""The README: short, true, and every snippet runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.documents import CHECKOUT, blocks, links, promised_output
from tests.programs import run

SHELL = "".join(blocks("README.md", "sh"))
COMMANDS = [
    line.split("#")[0].partition("-m ")[2]
    for line in SHELL.splitlines()
    if " -m vecsess " in line.split("#")[0]
]


def test_it_has_at_most_150_lines() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 150


def test_its_python_runs_as_one_script(tmp_path: Path) -> None:
    script = tmp_path / "copied.py"
    code = "\n".join(blocks("README.md", "python"))
    script.write_text(code)
    printed = run(script, cwd=tmp_path).stdout
    promised = promised_output(code)
    assert len(promised) >= 3
    assert not [text for text in promised if text not in printed], printed


def test_its_quick_start_is_the_example() -> None:
    example = (CHECKOUT / "examples" / "quickstart.py").read_text()
    assert blocks("README.md", "python")[0] in example


def test_it_shows_two_commands_of_this_repository() -> None:
    targets = re.findall(r"^make ([a-z-]+)", SHELL, re.MULTILINE)
    assert targets == ["run", "test"]
    makefile = (CHECKOUT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(command: str, tmp_path: Path) -> None:
    assert run("-m", *shlex.split(command), cwd=tmp_path).stdout


def test_its_links_lead_somewhere() -> None:
    missing = [link for link in links("README.md") if not (CHECKOUT / link).exists()]
    assert not missing
