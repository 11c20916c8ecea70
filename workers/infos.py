"""An environment's info as msgpack, without what is not plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vecsess.wire.values import pack_value


def pack_info(info: dict[str, Any], warn: Callable[[str], None]) -> bytes:
    """Returns an info as msgpack; to be done at once, since environments reuse their arrays.

    Args:
        info: may be nested.
        warn: called with a text for each key whose value is left out.
    """
    try:
        return pack_value(info)
    except (TypeError, ValueError):
        return pack_value(_sendable(info, "info", warn))


def _sendable(info: dict[Any, Any], name: str, warn: Callable[[str], None]) -> dict[Any, Any]:
    """Returns what of a dict can be sent."""
    kept = {}
    for key, value in info.items():
        place = f"{name}[{key!r}]"
        try:
            pack_value({key: value})
        except (TypeError, ValueError) as error:
            if isinstance(value, dict) and not _is_unsendable(key):
                kept[key] = _sendable(value, place, warn)
            else:
                warn(f"{place} was left out: {error}")
        else:
            kept[key] = value
    return kept


def _is_unsendable(key: Any) -> bool:
    try:
        pack_value(key)
    except (TypeError, ValueError):
        return True
    return False
