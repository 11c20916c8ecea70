"""Which files the code of this process was read from, as they were then.

A successor may read them anew, and another state of them would be other environments. What the
fork server has imported its workers have in memory, so they tell what it has noted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vecsess.wire.messages import MAX_SOURCES

_LIBRARIES = ("/site-packages/", "/dist-packages/", f"{Path(os.__file__).parent}/")
_OWN = f"{Path(__file__).absolute().parents[1]}/"
_seen: dict[str, int] = {}  # modules that were looked at, and the id of each
_noted: dict[str, list[int]] = {}  # by path: when it was modified, in ns, its size, when changed


def note() -> list[list[str | int]]:
    """Notes the files of what has been imported since the last call; returns all noted so far."""
    note_new()
    return [[path, *told] for path, told in _noted.items()]


def note_new() -> list[list[str | int]]:
    """Notes the files of what has been imported since the last call, and returns those."""
    new: list[list[str | int]] = []
    for name in _new_modules():
        _seen[name] = id(sys.modules[name])
        path = getattr(sys.modules[name], "__dict__", {}).get("__file__")  # imports nothing
        if type(path) is str and len(_noted) < MAX_SOURCES and _is_the_users(path):
            try:
                told = Path(path).stat()
            except OSError:  # such as a module in an archive
                continue
            # Named only, never opened: what is no text in it must not keep it from the wire.
            named = os.fsencode(path).decode(errors="backslashreplace")
            _noted[named] = [told.st_mtime_ns, told.st_size, told.st_ctime_ns]
            new.append([named, *_noted[named]])
    return new


def _new_modules() -> list[str]:
    """Returns the names of those that were not looked at: they come last.

    To touch the others would be to copy pages that a worker shares with the fork server.
    """
    new: list[str] = []
    for name in reversed(sys.modules):
        if _seen.get(name) == id(sys.modules[name]):
            break
        new.append(name)
    return new


def _is_the_users(path: str) -> bool:
    return not path.startswith(_OWN) and not any(part in path for part in _LIBRARIES)
