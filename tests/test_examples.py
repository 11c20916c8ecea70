"""The examples run as their reader would run them: as scripts, from another folder, headless."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.documents import CHECKOUT, promised_output
from tests.programs import TIMEOUT_S, run

EXAMPLES = CHECKOUT / "examples"

pytestmark = pytest.mark.usefixtures("no_process_left")


def read_notebook() -> Any:
    return nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def test_the_quick_start_prints_what_it_says(tmp_path: Path) -> None:
    example = EXAMPLES / "quickstart.py"
    printed = run(example, cwd=tmp_path).stdout
    assert printed.splitlines() == promised_output(example.read_text())


def test_custom_environments_come_from_everywhere(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "custom_env.py", cwd=tmp_path).stdout.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        "a callable",
        "a class of a module beside this script",
        "an id that this script registers",
        "a callable for each environment",
    ]
    assert all("observations (4, " in line for line in printed)


def test_a_breakpoint_in_step_stops_in_the_trainer(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "debug_in_process.py"],
        input="p self.place\nc\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert "(Pdb) 3" in done.stdout
    assert "arrived, reward 1.0" in done.stdout


def test_the_notebook_runs_headless(tmp_path: Path) -> None:
    notebook = read_notebook()
    client = NotebookClient(
        notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    texts = [
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    assert any("episodes, mean return" in text for text in texts)
    kinds = {
        key for cell in notebook.cells for o in cell.get("outputs", []) for key in o.get("data", {})
    }
    assert "image/png" in kinds


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = read_notebook()
    assert not [cell for cell in notebook.cells if cell.get("outputs")]


def test_a_native_environment_is_collected_from_and_reaches_its_optimum(tmp_path: Path) -> None:
    example = EXAMPLES / "native_env.py"
    printed = run(example, cwd=tmp_path).stdout
    assert printed.splitlines() == promised_output(example.read_text())


def test_evaluation_is_repeatable_and_gives_an_interval(tmp_path: Path) -> None:
    example = EXAMPLES / "evaluate.py"
    first, mean, interval = run(example, cwd=tmp_path).stdout.splitlines()
    assert [first] == promised_output(example.read_text())
    assert 0 < float(mean) <= 500
    assert interval.startswith("100 episodes, mean ")
