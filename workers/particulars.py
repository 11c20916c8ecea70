"""What an environment shows of itself beyond its spaces, `reset` and `step`: all of it optional.

An environment is a foreign object: any attribute may be missing, of another type, or raise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from gymnasium.envs.registration import EnvSpec

from vecsess.wire.values import Env, Fields, pack_value

T = TypeVar("T")
D = TypeVar("D")
_LOG = logging.getLogger("vecsess")


def shown(look: Callable[[], Any], kind: type[T], otherwise: D) -> T | D:
    """Returns what `look` finds, `otherwise` where it raises or finds another kind of thing.

    Example:
        >>> shown(lambda: [].render_mode, str, "")
        ''
    """
    try:
        found = look()
    except Exception as error:  # whatever a foreign property raises
        _LOG.debug("an environment shows no such thing: %r", error)
        return otherwise
    return found if isinstance(found, kind) else otherwise


def spec_json(env: Env) -> str:
    """Returns the environment's spec as JSON, "" where it has none that can be written and read."""

    def look() -> str:
        text = env.spec.to_json()  # type: ignore[union-attr]  # None is one of its kinds of nothing
        EnvSpec.from_json(text)
        return text

    return shown(look, str, "")


def plain_metadata(env: Env) -> Fields:
    """Returns the part of an environment's metadata that is plain data."""
    plain = {}
    for key, value in shown(lambda: dict(env.metadata), dict, {}).items():
        if shown(lambda: pack_value({key: value}), bytes, b""):  # noqa: B023  # called at once
            plain[str(key)] = value
    return plain


def render_mode(env: Env) -> str:
    """Returns the environment's render mode, "" for none."""
    return shown(lambda: env.render_mode, str, "")
