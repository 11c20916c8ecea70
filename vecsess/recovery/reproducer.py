"""A file that reproduces a step which ends its process: environment, script, the fatal action."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from vecsess.recovery.accounts import Script
from vecsess.wire.values import Fields, FrameError, Plain, pack_value, unpack_value

FORMAT = 1
MAX_BYTES = 1 << 30
MAX_FILES = 20  # in the folder of the user's own, of all runs


def write_reproducer(
    folder: str | None, source: bytes, settings: Fields, env: int, script: Script
) -> str:
    """Writes a reproducer and returns its path, or why there is none: no loss depends on it.

    The file is its owner's alone, under a name that nobody can guess or has taken already.

    Args:
        folder: None for one of the user's own among the system's temporary files, which keeps the
            newest `MAX_FILES`.
        source: cloudpickle of what makes the environment.
        settings: as the workers got them.
        env: its index.
        script: as workers/replay.py runs it; its last step is the fatal one.
    """
    content = {
        "format": FORMAT,
        "source": source,
        "settings": settings,
        "env": env,
        "script": script,
    }
    path = None
    try:
        where = _own_folder() if folder is None else Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        if folder is None:
            _make_room(where)
        fd, path = tempfile.mkstemp(".reproducer", f"vecsess-{os.getpid()}-env{env}-", where)
        with os.fdopen(fd, "wb") as file:
            file.write(pack_value(content))
    except (OSError, ValueError) as error:  # a full disk, a folder that is not to be written to
        if path is not None:
            with contextlib.suppress(OSError):
                Path(path).unlink()
        return f"none, for it could not be written: {error}"
    return path


def _make_room(folder: Path) -> None:
    """Removes the oldest, so that with one more there are `MAX_FILES`."""
    files = []
    for path in folder.glob("vecsess-*.reproducer"):
        with contextlib.suppress(FileNotFoundError):  # another run makes room too
            files.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(files, reverse=True)[MAX_FILES - 1 :]:
        path.unlink(missing_ok=True)


def _own_folder() -> Path:
    """Returns a folder that nobody else can write to or has made."""
    folder = Path(tempfile.gettempdir()) / f"vecsess-{os.getuid()}"
    return folder if is_own_folder(folder) else Path(tempfile.mkdtemp(prefix="vecsess-"))


def is_own_folder(folder: Path) -> bool:
    """Whether a folder, made where there is none, is the user's own, and closed to others."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return own and not status.st_mode & 0o77


def read_reproducer(path: str) -> Fields:
    """Returns what `write_reproducer` wrote.

    Raises:
        ValueError: not such a file. It holds a pickle: open only files that you trust.
    """
    with Path(path).open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: expected a reproducer of at most {MAX_BYTES} bytes")
    try:
        content = unpack_value(data)
    except FrameError as error:
        raise ValueError(f"{path}: expected a reproducer, got something else: {error}") from error
    if type(content) is not dict or content.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a reproducer of format {FORMAT}")
    types = {"source": bytes, "settings": dict, "env": int, "script": list}
    fits = all(type(content.get(name)) is kind for name, kind in types.items())
    if not fits or not 0 <= content["env"] < 1 << 32 or not all(map(_is_entry, content["script"])):
        raise ValueError(f"{path}: expected a reproducer, got one of another form")
    return content


def _is_entry(entry: Plain) -> bool:
    """Whether this is an entry of a script, as far as it is looked at before it is run."""
    if type(entry) is not list or not entry or type(entry[0]) is not str:
        return False
    return entry[0] != "steps" or (len(entry) == 3 and type(entry[1]) is int and entry[1] >= 0)
