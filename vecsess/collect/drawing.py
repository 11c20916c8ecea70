"""Actions drawn at random from a space, each a function of its row's noise alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess.collect.sampling import normal_noise
from vecsess.errors import SpaceError
from vecsess.wire.values import Array, Space

Draw: TypeAlias = Callable[[NDArray[np.float64]], tuple[Array, NDArray[np.float32]]]


def drawing(space: Space) -> tuple[int, Draw]:
    """Returns how much noise a row needs, and what turns it into actions and log-probabilities.

    Args:
        space: the action space of one environment.

    Raises:
        SpaceError: nothing is drawn from such a space.
    """
    if isinstance(space, spaces.Discrete):
        return _integers(space, np.asarray(space.start), np.asarray(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return _integers(space, np.asarray(space.start), np.asarray(space.nvec))
    if isinstance(space, spaces.MultiBinary):
        return _integers(space, np.zeros(space.shape), np.full(space.shape, 2))
    if isinstance(space, spaces.Box) and space.dtype.kind in "iub":
        low = space.low.astype(np.float64)
        return _integers(space, low, space.high.astype(np.float64) - low + 1)
    if isinstance(space, spaces.Box):
        return _uniform(space) if space.is_bounded() else _partly_unbounded(space)
    raise SpaceError(
        "a random policy draws from Discrete, MultiDiscrete, MultiBinary and Box action spaces, "
        f"got {space}"
    )


def _integers(space: Space, low: Array, count: Array) -> tuple[int, Draw]:
    if np.any(count > 2.0**53):
        raise SpaceError(f"expected at most 2**53 choices for each element, got {space}")
    sizes, first = count.reshape(-1).astype(np.float64), low.reshape(-1).astype(np.int64)
    shape = space.shape or ()
    log_prob = -float(np.log(sizes).sum())

    def draw(noise: NDArray[np.float64]) -> tuple[Array, NDArray[np.float32]]:
        rows = len(noise)
        actions = (noise * sizes).astype(np.int64) + first
        log_probs = np.full(rows, log_prob, dtype=np.float32)
        return actions.reshape(rows, *shape).astype(space.dtype, copy=False), log_probs

    return sizes.size, draw


def _uniform(space: spaces.Box) -> tuple[int, Draw]:
    low, high = _flat_bounds(space)
    width = high / 2 - low / 2  # halves, since the whole may overflow
    log_prob = -float((np.log(width[width > 0]) + math.log(2)).sum())

    def draw(noise: NDArray[np.float64]) -> tuple[Array, NDArray[np.float32]]:
        actions = _as_actions(low * (1 - noise) + high * noise, space)
        return actions, np.full(len(noise), log_prob, dtype=np.float32)

    return low.size, draw


def _partly_unbounded(space: spaces.Box) -> tuple[int, Draw]:
    """As `_uniform`, a column at a time as its bounds allow; a normal column takes two of noise."""
    low, high = _flat_bounds(space)
    free, bounded = np.isinf(low) & np.isinf(high), np.isfinite(low) & np.isfinite(high)
    one_sided = ~(free | bounded)
    end = np.where(np.isfinite(low), low, high)[one_sided]
    sign = np.where(np.isfinite(low), 1.0, -1.0)[one_sided]
    part = spaces.Box(low[bounded], high[bounded], dtype=np.float64)
    _, draw_part = _uniform(part)

    def draw(noise: NDArray[np.float64]) -> tuple[Array, NDArray[np.float32]]:
        uniform, second = noise[:, : low.size], noise[:, low.size :]
        values = np.empty(uniform.shape)
        values[:, bounded], log_probs = draw_part(uniform[:, bounded])
        distance = -np.log1p(-uniform[:, one_sided])
        values[:, one_sided] = end + sign * distance
        normal = normal_noise(np.stack((uniform[:, free], second), axis=-1))[..., 0]
        values[:, free] = normal
        log_normal = -0.5 * (normal**2 + math.log(2 * math.pi))
        total = log_probs - distance.sum(axis=1) + log_normal.sum(axis=1)
        return _as_actions(values, space), total.astype(np.float32)

    return low.size + int(free.sum()), draw


def _flat_bounds(space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)


def _as_actions(values: NDArray[np.float64], space: spaces.Box) -> Array:
    shaped = values.reshape(len(values), *space.shape)
    return np.clip(shaped, space.low, space.high).astype(space.dtype)
