"""A file that reproduces a step which ends its process: environment, script, the fatal action."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from vecsess.recovery.accounts import Script
from vecsess.wire.values import FrameError, pack_value, unpack_value

FORMAT = 1


def write_reproducer(
    folder: str | None, source: bytes, settings: dict[str, Any], env: int, script: Script
) -> str:
    """Writes a reproducer and returns its path.

    Args:
        folder: None for the system's folder of temporary files.
        source: cloudpickle of what makes the environment.
        settings: as the workers got them.
        env: its index.
        script: as workers/replay.py runs it; its last step is the fatal one.

    Raises:
        OSError: the folder can't be written to.
    """
    where = Path(folder or tempfile.gettempdir())
    where.mkdir(parents=True, exist_ok=True)
    number = len(list(where.glob(f"vecsess-{os.getpid()}-env{env}-*.reproducer")))
    path = where / f"vecsess-{os.getpid()}-env{env}-{number}.reproducer"
    content = {
        "format": FORMAT,
        "source": source,
        "settings": settings,
        "env": env,
        "script": script,
    }
    path.write_bytes(pack_value(content))
    return str(path)


def read_reproducer(path: str) -> dict[str, Any]:
    """Returns what `write_reproducer` wrote.

    Raises:
        ValueError: not such a file. It holds a pickle: open only files that you trust.
    """
    try:
        content = unpack_value(Path(path).read_bytes())
    except FrameError as error:
        raise ValueError(f"{path}: expected a reproducer, got something else: {error}") from error
    if type(content) is not dict or content.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a reproducer of format {FORMAT}")
    return content
