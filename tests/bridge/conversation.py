"""A plain server's other end, as the tests of the bridge use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.processes import ROOT

SERVER = ROOT / "vecsess" / "bridge" / "gym_server.py"


def run_server(
    requests: bytes, *arguments: str, folder: Path = ROOT, timeout_s: float = 60, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Runs a server over a whole input, to its end."""
    command = [sys.executable, str(SERVER), *arguments]
    return subprocess.run(
        command,
        input=requests,
        capture_output=True,
        cwd=folder,
        timeout=timeout_s,
        check=False,
        **options,
    )


def ask_jsonl(requests: Iterable[Any], *arguments: str, **options: Any) -> list[Any]:
    """Returns a server's replies to requests, which are objects, or lines as they are."""
    lines = [line if isinstance(line, str) else json.dumps(line) for line in requests]
    done = run_server("\n".join(lines).encode(), *arguments, **options)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]
