"""Running a program as its user would: another process, another folder, a deadline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 100


def run(
    *arguments: str | Path, cwd: Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs this Python with these arguments; warnings are errors.

    Args:
        arguments: what follows `python`.
        cwd: where.
        code: the exit code that is expected.
        environment: on top of the tests' own.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
