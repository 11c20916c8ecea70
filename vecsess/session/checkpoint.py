"""Sessions as plain data: taken between two steps, brought back another day."""

from __future__ import annotations

from typing import Any

from vecsess.errors import StateError
from vecsess.wire.values import FrameError, pack_value, unpack_value

FORMAT = 3


def pack_session(session: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    """Returns a session as plain data.

    Args:
        session: one that is ready to step.
        recipe: how to make one like it, plain data.
    """
    state = {
        "noise": [session.noise_seed, session.noise_counter],
        "returns": session.episode_returns,
        "lengths": session.episode_lengths,
        "recovery": session.engine.recovery.dump(),
    }
    return {"format": FORMAT, "recipe": recipe, "state": pack_value(state)}


def recipe_of(data: Any) -> dict[str, Any]:
    """Returns how to make a session like the one in a checkpoint.

    Raises:
        StateError: it is not a checkpoint of this format.
    """
    if type(data) is not dict or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise StateError(f"expected a checkpoint of format {FORMAT}, got {found!r}")
    recipe: dict[str, Any] = data["recipe"]
    return recipe


def unpack_session(session: Any, data: dict[str, Any]) -> dict[int, str]:
    """Puts a new session into the state of a checkpoint.

    Returns:
        The environments that could not be brought back, and why.
    """
    try:
        state = unpack_value(data["state"])
    except FrameError as error:
        raise StateError(f"expected a checkpoint, got a damaged one: {error}") from error
    session.noise_seed, session.noise_counter = state["noise"]
    session.episode_returns[:] = state["returns"]
    session.episode_lengths[:] = state["lengths"]
    failed: dict[int, str] = session.engine.recovery.load(state["recovery"])
    for env in failed:
        session.episode_returns[env], session.episode_lengths[env] = 0.0, 0
    return failed
