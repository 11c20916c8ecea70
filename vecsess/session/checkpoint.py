"""Sessions as plain data: taken between two steps, brought back another day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from vecsess.contract import Contract
from vecsess.errors import StateError, VecsessError
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.locksteps import CHUNK_STEPS
from vecsess.recovery.policy import RestartPolicy
from vecsess.session.signature import signed
from vecsess.wire.values import Fields, FrameError, Given, pack_value, unpack_value

if TYPE_CHECKING:
    from vecsess.session.vector import VecCheckedSession

FORMAT = 5
# What comes of data that is not what its place asks for; a stranger's may be anything.
_MISSHAPEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
_CLASSES = {"contract": Contract, "timeouts": Timeouts, "restart_policy": RestartPolicy}


def write_recipe(arguments: Mapping[str, Any]) -> Fields:
    """Returns how to make a session again: what is plain data, and the names of what is not.

    Args:
        arguments: of `VecCheckedSession`, by name.
    """
    given: dict[str, bytes] = {}
    missing = []
    for name, value in arguments.items():
        plain = asdict(value) if type(value) in _CLASSES.values() else value
        try:
            given[name] = pack_value(plain)
        except (TypeError, ValueError):
            missing.append(name)
    return {"given": given, "missing": missing}


def read_recipe(data: Given, settings: Mapping[str, Any]) -> Fields:
    """Returns the arguments of the session in a checkpoint, with `settings` instead of its own.

    Raises:
        StateError: it is not a checkpoint of this format, it is damaged, or something is missing
            that it can't hold.
    """
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if type(found) is not int or found != FORMAT:
        raise StateError(f"expected a checkpoint of format {FORMAT}, got {found!r:.80}")
    recipe = data.get("recipe")
    if type(recipe) is not dict or {"given": dict, "missing": list} != {
        name: type(part) for name, part in recipe.items()
    }:
        raise StateError("expected a checkpoint, got a damaged one: it has no recipe")
    if not all(type(name) is str and name.isidentifier() for name in recipe["missing"]):
        raise StateError("expected a checkpoint, got a damaged one: names that are none")
    missing = [name for name in recipe["missing"] if name not in settings]
    if missing:
        raise StateError(
            f"expected {', '.join(f'{name}=...' for name in missing)}: a checkpoint holds plain "
            "data alone, so what was a callable or another object must be given again"
        )
    try:
        given = {name: unpack_value(packed) for name, packed in recipe["given"].items()}
        for name, kind in _CLASSES.items():
            if given.get(name) is not None:
                given[name] = kind(**given[name])
        arrays = [name for name, value in given.items() if isinstance(value, np.ndarray)]
        if arrays:
            raise TypeError(f"no argument is an array, as {arrays!r:.80}")
    except (FrameError, TypeError, ValueError) as error:
        raise StateError(f"expected a checkpoint, got a damaged one: {error}") from error
    return {**given, **settings}


def make_strangers(kind: type[VecCheckedSession], arguments: Fields, data: Fields) -> Given:
    """Returns a session of a checkpoint that this user has not signed.

    Args:
        kind: the class.
        arguments: as `read_recipe` returned them.
        data: the checkpoint.

    Raises:
        StateError: no session can be made of these arguments.
    """
    try:
        count = len(state_of(data)["lengths"])
        if arguments.get("n") not in (None, count):
            raise ValueError(f"n: expected {count}, the environments in it, got {arguments['n']}")
        return kind(**arguments)
    except VecsessError:
        raise
    except _MISSHAPEN as error:
        raise StateError(
            "expected a checkpoint, got one whose arguments, with those given here, make no "
            f"session ({type(error).__name__}: {error!s:.500})"
        ) from error


def pack_session(session: VecCheckedSession, recipe: Fields, *, since: int | None = None) -> Fields:
    """Returns a session as plain data.

    Args:
        session: one that is ready to step.
        recipe: how to make one like it; see `write_recipe`.
        since: leave out of the log the locksteps before this one; see `only_since`. Such a one goes
            to those who trust each other, and is not signed: that would write a key on each node.
    """
    engine = session.engine.dump()
    recovery = engine["recovery"] if since is None else only_since(engine["recovery"], since)
    state = {
        "noise": [session.noise_seed, session.noise_counter],
        "returns": session.episode_returns,
        "lengths": session.episode_lengths,
        "engine": {**engine, "recovery": recovery},
    }
    data = {"format": FORMAT, "recipe": recipe, "state": pack_value(state)}
    return signed(data) if since is None else data


def state_of(data: Fields) -> Fields:
    """Returns what `pack_session` packed.

    Raises:
        StateError: it is damaged.
    """
    try:
        state: Fields = unpack_value(data["state"], max_objects=None)  # ours, long logs
    except (FrameError, KeyError) as error:
        raise StateError(f"expected a checkpoint, got a damaged one: {error}") from error
    return state


def unpack_session(session: VecCheckedSession, data: Fields) -> dict[int, str]:
    """Puts a new session into the state of a checkpoint.

    Returns:
        The environments that could not be brought back, and why.

    Raises:
        StateError: it is damaged, or of a form that no checkpoint has.
    """
    state = state_of(data)
    try:
        return _put_state(session, state)
    except VecsessError:
        raise
    except _MISSHAPEN as error:
        raise StateError(
            "expected a checkpoint, got a damaged one: its state has another form than a "
            f"session's ({type(error).__name__}: {error}); take another checkpoint"
        ) from error


def _put_state(session: VecCheckedSession, state: Fields) -> dict[int, str]:
    session.noise_seed, session.noise_counter = state["noise"]
    session.episode_returns[:] = state["returns"]
    session.episode_lengths[:] = state["lengths"]
    failed = session.engine.load(state["engine"])
    for env in failed:
        session.episode_returns[env], session.episode_lengths[env] = 0.0, 0
    return failed


def only_since(recovery: Fields, since: int) -> Fields:
    """Returns a log without the actions that who has kept the earlier ones has already.

    Args:
        recovery: with the whole log.
        since: the lockstep up to which that goes.

    Returns:
        One whose journal has `held`, too: which chunks the whole log has.
    """
    journal = recovery["journal"]
    chunks = [chunk for chunk in journal["chunks"] if chunk[0] >= since // CHUNK_STEPS]
    held = [chunk[0] for chunk in journal["chunks"]]
    return {**recovery, "journal": {**journal, "chunks": chunks, "held": held}}
