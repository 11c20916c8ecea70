"""What the environments of a session share: whether their spaces agree, and what a batch is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import gymnasium
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from vecsess.errors import ProtocolError, SpaceMismatchError, VecsessError
from vecsess.fleet.reports import MAX_BRIEF, printable, spec_of
from vecsess.fleet.worker import Worker
from vecsess.wire.generators import seed_space
from vecsess.wire.leaves import UnsupportedSpaceError, all_leaves_of
from vecsess.wire.messages import Described
from vecsess.wire.spaces import build_space, check_bytes
from vecsess.wire.values import Fields, FrameError, Plain, Space, pack_value

ObservationMode = Literal["same", "different"] | tuple[Space, Space]


@dataclass(frozen=True, slots=True)
class Description:
    """What the workers say of their environments, checked to agree.

    Attributes:
        observation_space: of one environment.
        action_space: of one environment.
        observation_batch: the space of a batch of observations.
        spec: of environment 0.
        metadata: of environment 0, what of it is plain data.
        render_mode: of environment 0.
    """

    observation_space: Space
    action_space: Space
    observation_batch: Space
    spec: gymnasium.envs.registration.EnvSpec | None
    metadata: Fields
    render_mode: str | None


def check_observation_mode(mode: Plain) -> None:
    """Refuses what is no observation mode, in Gymnasium's words.

    Raises:
        TypeError: a pair that is not of spaces.
        ValueError: anything else.
    """
    if isinstance(mode, tuple) and len(mode) == 2:
        if not all(isinstance(space, gymnasium.Space) for space in mode):
            raise TypeError(
                "Expected both elements of observation_mode to be Spaces, "
                f"got {type(mode[0])} and {type(mode[1])}"
            )
    elif mode not in ("same", "different"):
        raise ValueError(
            "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and "
            f"batch observation space, actual got {mode}"
        )


def agree(workers: list[Worker], described: list[Described], mode: ObservationMode) -> Description:
    """Returns the description that all environments share.

    Args:
        workers: in the order of their environments.
        described: what each told of its own.
        mode: as Gymnasium's `observation_mode`.

    Raises:
        SpaceMismatchError: spaces that do not agree as `mode` wants it.
        ProtocolError: not the description of a space.
    """
    try:
        return _agree(workers, described, mode)
    except (VecsessError, UnsupportedSpaceError):
        raise
    except Exception as error:  # a custom space's own code may trip over what it was told
        raise ProtocolError(f"expected spaces that agree, got {error!r:.200}") from error


def _agree(workers: list[Worker], described: list[Described], mode: ObservationMode) -> Description:
    observation_spaces, action_spaces = zip(*_each(workers, described), strict=True)
    head = described[0]
    spec = _told_by(workers[0], _spec, head.spec)
    _told_by(workers[0], _seed, observation_spaces[0], action_spaces[0], head.generators)
    single, batch = _observation_spaces(mode, list(observation_spaces))
    for env, space in enumerate(observation_spaces):
        _check_observations(env, single, space, mode)
    for env, space in enumerate(action_spaces):
        if space is not action_spaces[0] and space != action_spaces[0]:
            raise SpaceMismatchError(
                "Sub-environment action space doesn't make the `single_action_space`: expected "
                f"that of env 0, {action_spaces[0]}, got {space}",
                env=env,
            )
    render_mode = printable(head.render_mode, MAX_BRIEF) or None
    return Description(single, action_spaces[0], batch, spec, head.metadata, render_mode)


T = TypeVar("T")


def _told_by(worker: Worker, read: Callable[..., T], *told: Plain) -> T:
    """Returns what `read` makes of what a worker told; what it refuses, the worker is to blame."""
    try:
        return read(*told)
    except Exception as error:
        what = f"expected a description of its environments, got another: {error}"
        raise ProtocolError(what, worker=worker.index) from error


def _each(workers: list[Worker], described: list[Described]) -> list[tuple[Space, Space]]:
    """Returns the spaces of each environment; equal ones are built once."""
    told = [
        (worker, entry or description.spaces[0])
        for worker, description in zip(workers, described, strict=True)
        for entry in description.spaces
    ]
    largest = max(told, key=lambda one: len(pack_value(one[1])))[0]
    _told_by(largest, check_bytes, [space for _, pair in told for space in pair])
    built: dict[bytes, tuple[Space, Space]] = {}
    pairs = []
    for worker, plain in told:
        key = pack_value(plain)
        if key not in built:
            observed, acted = (_told_by(worker, build_space, one) for one in plain)
            built[key] = observed, acted
        pairs.append(built[key])
    return pairs


def _seed(observation_space: Space, action_space: Space, generators: list[Plain]) -> None:
    """Gives the spaces of environment 0 the generators that it has, as a maker may have seeded."""
    if len(generators) != 2 or not all(type(states) is list for states in generators):
        raise FrameError("expected the generators of two spaces")
    seed_space(observation_space, generators[0])
    seed_space(action_space, generators[1])


def _observation_spaces(mode: ObservationMode, found: list[Space]) -> tuple[Space, Space]:
    """Returns the space of one environment's observations, and that of a batch."""
    if isinstance(mode, tuple):
        batch, single = mode  # in Gymnasium's order
        return single, batch
    if mode == "same":
        return found[0], batch_space(found[0], len(found))
    for env, space in enumerate(found):
        _check_observations(env, found[0], space, mode)
    return found[0], batch_differing_spaces(found)


def _check_observations(env: int, single: Space, space: Space, mode: ObservationMode) -> None:
    if space is single:
        return
    if mode == "same":
        if space == single and _leaves(space) == _leaves(single):
            return
        raise SpaceMismatchError(
            "observation_mode='same' however the sub-environments observation spaces are not "
            f"equivalent. Expected the space of env 0, {single}, got {space}. If this is "
            "intentional, use `observation_mode='different'` instead.",
            env=env,
        )
    if not _equivalent(space, single) or _leaves(space) != _leaves(single):
        raise SpaceMismatchError(
            "observation_mode='different' or custom space however the sub-environments "
            "observation spaces do not share a common shape and dtype. Expected one like "
            f"{single}, got {space}",
            env=env,
        )


def _equivalent(space: Space, other: Space) -> bool:
    try:
        return bool(is_space_dtype_shape_equiv(space, other))
    except NotImplementedError:  # Gymnasium knows of no such relation for custom spaces
        return True  # their leaves are compared anyway


def _leaves(space: Space) -> list[Plain]:
    """Returns what decides the layout: the order of keys too, though equal Dicts may differ."""
    return list(all_leaves_of(space))


def _spec(text: str) -> Plain:
    return spec_of(text) if text else None
