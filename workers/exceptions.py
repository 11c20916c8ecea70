"""An exception as plain data: names, text and traceback, none of which can break a frame."""

from __future__ import annotations

import builtins
import traceback
from typing import Any

MAX_TRACEBACK = 16_000
MAX_MESSAGE = 4_000
MAX_BRIEF = 200


def account_of(error: Exception) -> list[str]:
    """Returns `[type, message, traceback]` for the wire.

    The type is a name, with that of the builtin exception it derives from where that is another:
    "KeyError", or "MyError(LookupError)".
    """
    text = "".join(traceback.format_exception(error))
    return [type_of(error), told(error), _sendable(text)[-MAX_TRACEBACK:]]


def brief(failure: list[Any]) -> list[Any]:
    """Returns a failure without its traceback: many in one reply must fit into a frame."""
    row, kind, name, message, _ = failure
    return [row, kind, name, message[:MAX_BRIEF], ""]


def type_of(error: Exception) -> str:
    """Returns the name of an exception's class and of the nearest builtin one."""
    name = type(error).__name__
    nearest = next(kind for kind in type(error).__mro__ if _is_builtin(kind))
    return name if nearest in (type(error), Exception) else f"{name}({nearest.__name__})"


def told(error: Exception) -> str:
    """Returns an exception's text; one whose `__str__` raises must not end the worker."""
    try:
        return _sendable(str(error))[:MAX_MESSAGE]
    except Exception as second:
        return f"<no text: {type(second).__name__} in __str__>"


def _is_builtin(kind: type) -> bool:
    return getattr(builtins, kind.__name__, None) is kind


def _sendable(text: str) -> str:
    """Returns the text without surrogates, which have no place in UTF-8."""
    return text.encode(errors="backslashreplace").decode()
