"""Whose checkpoint it is: what would run as code is taken from this user alone by default."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vecsess.errors import StateError
from vecsess.recovery.reproducer import is_own_folder
from vecsess.wire.values import Fields, FrameError, pack_value, unpack_value

_KEY_BYTES = 32
_VARIABLES = ("worker_env", "pass_env")  # LD_PRELOAD runs code, too


def signed(data: Fields) -> Fields:
    """Returns a checkpoint with this user's signature, instead of any other."""
    return {**data, "signature": _signature(data)}


def check_origin(data: Fields) -> bool:
    """Refuses what another user, or nobody, has signed, where it holds what is run.

    Args:
        data: a checkpoint whose recipe could be read.

    Returns:
        Whether this user has signed it.

    Raises:
        StateError: says what it holds, and what to do; or that it is damaged.
    """
    signature = data.get("signature")
    try:
        if type(signature) is bytes and hmac.compare_digest(signature, _signature(data)):
            return True
        found = list(dict.fromkeys(_what_runs(data)))
    except (FrameError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"expected a checkpoint, got a damaged one: {error!r:.200}") from error
    if found:
        raise StateError(
            f"expected a checkpoint that this user has signed, with the key in {_key_folder()}, "
            f"for it holds {', '.join(found)}, which would be run. Where you trust whoever wrote "
            "it as you trust a program, pass restore(..., trusted=True)"
        )
    return False


def _what_runs(data: Fields) -> Iterator[str]:
    """Yields what of a checkpoint is code, or as good as that."""
    given = data["recipe"]["given"]
    yield from (name for name in _VARIABLES if name in given and unpack_value(given[name]))
    state = unpack_value(data["state"], max_objects=None)
    for events in state["engine"]["recovery"]["journal"]["events"]:
        for _, verb, arguments, _ in events:
            if verb == "set":
                yield "pickles of attributes"
            elif verb == "reset" and arguments[1]:
                yield "pickles of options"


def _signature(data: Fields) -> bytes:
    """Returns what this user's signature is: of recipe and state, in whatever order they come."""
    recipe = data["recipe"]
    given = [list(item) for item in sorted(recipe["given"].items())]
    content = pack_value([data["format"], given, sorted(recipe["missing"]), data["state"]])
    return hmac.digest(_key(), content, hashlib.sha256)


@functools.cache
def _key() -> bytes:
    """Returns the user's own key, made once; one of this process where none can be kept."""
    try:
        folder = _key_folder()
        folder.parent.mkdir(parents=True, exist_ok=True)
        if is_own_folder(folder):
            return _kept_key(folder / "checkpoint.key")
    except (OSError, RuntimeError):  # no home, or one that can't be written to
        pass
    return secrets.token_bytes(_KEY_BYTES)


def _key_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or ""
    return (Path(state) if Path(state).is_absolute() else Path.home() / ".local/state") / "vecsess"


def _kept_key(path: Path) -> bytes:
    """Returns the key in a file that is made where there is none, whole or not at all."""
    with contextlib.suppress(FileNotFoundError):
        return _read_key(path)
    fd, made = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(made, path)
    finally:
        Path(made).unlink()
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        status = os.fstat(file.fileno())
        key = file.read(_KEY_BYTES + 1)
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o77:
        raise OSError(f"{path}: expected a file that nobody else can read")
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path}: expected {_KEY_BYTES} bytes")
    return key
