"""Reproducible sampling: counter-based noise, and actions drawn from it.

The noise of a row is a pure function of (seed, counter, env, column). No generator has a state
here, so neither the grouping of environments nor the order of calls can change what a row gets.

The generator is Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC 2011), checked against the known answers published with it (Random123). The key is the seed;
the 128-bit counter is (pair of columns, env, low and high half of the lockstep's counter).
"""

from __future__ import annotations

import operator
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecsess.errors import VecsessError
from vecsess.wire.values import Array

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1: steps from key to key
# A 64-bit product is read as two 32-bit words instead of being shifted and masked.
_LOW = 0 if sys.byteorder == "little" else 1
_HIGH = 1 - _LOW

Floats = NDArray[np.floating[Any]]


def uniform_noise(
    seed: int, counter: int, envs: ArrayLike, noise_size: int, steps: int | None = None
) -> NDArray[np.float64]:
    """Returns uniform numbers in [0, 1), a function of (seed, counter, env, column) alone.

    One call for many locksteps costs about as much as two calls for one each.

    Args:
        seed: `0 <= seed < 2**64`; streams of different seeds are unrelated.
        counter: number of the lockstep, `0 <= counter < 2**64`.
        envs: `[rows]` int, the environments that the rows belong to.
        noise_size: columns.
        steps: where given, the noise of locksteps `counter .. counter + steps`, stacked.

    Returns:
        `[rows, noise_size]` float64, or `[steps, rows, noise_size]`; multiples of 2**-53.

    Example:
        >>> noise = uniform_noise(seed=7, counter=3, envs=[0, 1, 2], noise_size=2)
        >>> bool((uniform_noise(seed=7, counter=3, envs=[2], noise_size=2) == noise[2]).all())
        True
    """
    seed = _checked("seed", seed, 2**64)
    noise_size = _checked("noise_size", noise_size, 2**32)
    locksteps = 1 if steps is None else _checked("steps", steps, 2**32)
    counter = _checked("counter", counter, 2**64 - locksteps + 1)
    rows = np.asarray(envs)
    if rows.size and not 0 <= rows.min() <= rows.max() <= _WORD:
        raise ValueError(f"expected env indices in [0, 2**32), got {rows.min()}..{rows.max()}")
    pairs = (noise_size + 1) // 2
    words = _counters(counter, locksteps, rows, pairs)
    doubles = _to_doubles(*_philox(words, seed)).reshape(2, locksteps, rows.size, pairs)
    columns = np.moveaxis(doubles, 0, -1).reshape(locksteps, rows.size, 2 * pairs)
    noise: NDArray[np.float64] = columns[0] if steps is None else columns
    return noise[..., :noise_size]


def _checked(name: str, value: int, end: int) -> int:
    number = operator.index(value)
    if not 0 <= number < end:
        raise ValueError(f"expected {name} as an integer in [0, {end}), got {number}")
    return number


def _counters(counter: int, steps: int, envs: Array, pairs: int) -> NDArray[np.uint32]:
    """Returns Philox counters `[4, steps * rows * pairs]` uint32."""
    numbers = np.arange(steps, dtype=np.uint64) + np.uint64(counter)
    words = np.empty((4, steps, envs.size, pairs), dtype=np.uint32)
    words[0] = np.arange(pairs, dtype=np.uint32)
    words[1] = envs[:, None]
    words[2] = (numbers & np.uint64(_WORD))[:, None, None]
    words[3] = (numbers >> np.uint64(32))[:, None, None]
    return words.reshape(4, -1)


@lru_cache(maxsize=64)
def _round_keys(seed: int) -> tuple[NDArray[np.uint32], ...]:
    halves = (seed & _WORD, seed >> 32)
    return tuple(
        np.array(
            [[(half + number * step) & _WORD] for half, step in zip(halves, _WEYL, strict=True)],
            dtype=np.uint32,
        )
        for number in range(_ROUNDS)
    )


def _philox(words: NDArray[np.uint32], seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Runs Philox4x32-10 over counters `[4, blocks]`.

    A round maps `x0, x1, x2, x3` to
    `hi(M1 x2) ^ x1 ^ k0, lo(M1 x2), hi(M0 x0) ^ x3 ^ k1, lo(M0 x0)`.
    Its two multiplications are one call here, and the swap of lanes is a reversed view, so
    that a round is three calls.

    Returns:
        Words (x0, x2) and words (x1, x3), each `[2, blocks]`.
    """
    blocks = words.shape[1]
    even = np.zeros((2, blocks), dtype=np.uint64)  # x0, x2, widened for the product
    even_words = even.view(np.uint32)[:, _LOW::2]
    even_words[...] = words[::2]
    odd = words[1::2]  # x1, x3
    product, spare = np.empty_like(even), np.empty_like(even)
    for key in _round_keys(seed):
        np.multiply(even, _MULTIPLIERS, out=product)
        swapped = product.view(np.uint32)[::-1]
        np.bitwise_xor(swapped[:, _HIGH::2], odd, out=even_words)
        np.bitwise_xor(even_words, key, out=even_words)
        odd = swapped[:, _LOW::2]
        product, spare = spare, product  # `odd` still reads the one just written
    return even_words, odd


def _to_doubles(high: NDArray[np.uint32], low: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Takes the upper 53 of each 64 bits, as NumPy's own generators do."""
    bits = (high.astype(np.uint64) << np.uint64(32)) | low
    return (bits >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def normal_noise(noise: ArrayLike) -> NDArray[np.float64]:
    """Turns pairs of uniform columns into pairs of independent standard normal ones.

    Box and Muller, "A note on the generation of random normal deviates" (1958):
    `sqrt(-2 log u) cos(2 pi v)` and `sqrt(-2 log u) sin(2 pi v)`.

    Args:
        noise: `[..., 2 k]` in [0, 1).

    Returns:
        `[..., 2 k]` float64.

    Example:
        >>> normal_noise(uniform_noise(seed=0, counter=0, envs=[0, 1], noise_size=4)).shape
        (2, 4)
    """
    uniform = np.asarray(noise, dtype=np.float64)
    if uniform.shape[-1] % 2:
        raise ValueError(
            f"expected an even number of noise columns, got {uniform.shape[-1]}: "
            "round noise_size up to even and leave the last column unused"
        )
    radius = np.sqrt(-2.0 * np.log1p(-uniform[..., ::2]))  # 1 - u is never 0, as u < 1
    angle = 2.0 * np.pi * uniform[..., 1::2]
    normal = np.empty_like(uniform)
    np.multiply(radius, np.cos(angle), out=normal[..., ::2])
    np.multiply(radius, np.sin(angle), out=normal[..., 1::2])
    return normal


def log_softmax(logits: ArrayLike) -> Floats:
    """Returns `logits - log(sum(exp(logits)))` over the last axis, in the dtype of the logits.

    A row's result depends on that row alone, bit for bit, whatever the number of rows. `-inf`
    marks an action that is not allowed.

    Raises:
        VecsessError: for NaN, `+inf`, or a row of nothing but `-inf`.

    Example:
        >>> log_softmax([[0.0, 0.0]]).round(4).tolist()
        [[-0.6931, -0.6931]]
    """
    shifted, cumulative = softmax_parts(logits)
    return shifted - _log_total(shifted, cumulative)[..., None]


def categorical_log_prob(logits: ArrayLike, actions: ArrayLike) -> Floats:
    """Returns `log pi(action)` under a categorical distribution.

    The formula is the one that `sample_categorical` samples by: for the same logits, the
    log-probability of a stored action is the same bits, and a PPO ratio is exactly 1.

    Args:
        logits: `[..., A]`.
        actions: `[...]` int, `0 <= action < A`.

    Returns:
        `[...]`, in the dtype of the logits.

    Example:
        >>> categorical_log_prob([[0.0, 0.0]], [1]).round(4).tolist()
        [-0.6931]
    """
    shifted, cumulative = softmax_parts(logits)
    return _log_prob(shifted, cumulative, _checked_actions(actions, shifted.shape))


def sample_categorical(logits: ArrayLike, noise: ArrayLike) -> NDArray[np.int64]:
    """Draws one action per row by inverting the cumulative distribution.

    Args:
        logits: `[rows, A]`.
        noise: `[rows]` uniform in [0, 1).

    Returns:
        `[rows]` int64.

    Example:
        >>> sample_categorical([[0.0, 0.0], [0.0, 0.0]], [0.4, 0.6]).tolist()
        [0, 1]
    """
    _, cumulative = softmax_parts(logits)
    return _invert(cumulative, np.asarray(noise, dtype=np.float64))


def sample_with_log_prob(logits: ArrayLike, noise: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Does `sample_categorical` and `categorical_log_prob` in one pass over the logits.

    Example:
        >>> actions, log_probs = sample_with_log_prob([[0.0, 0.0]], [0.6])
        >>> actions.tolist(), log_probs.round(4).tolist()
        ([1], [-0.6931])
    """
    shifted, cumulative = softmax_parts(logits)
    actions = _invert(cumulative, np.asarray(noise, dtype=np.float64))
    return actions, _log_prob(shifted, cumulative, actions)


def softmax_parts(logits: ArrayLike) -> tuple[Floats, NDArray[np.float64]]:
    """Returns the logits less their maximum and the running sums of their weights, `[..., A]`.

    The sums run strictly from left to right: NumPy's `sum` adds in an order that depends on the
    memory layout, a running sum can't.
    """
    values = np.ascontiguousarray(logits)
    if values.dtype.kind != "f":
        raise TypeError(f"expected floating-point logits, got dtype {values.dtype}")
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"expected logits [..., A] with A > 0, got shape {values.shape}")
    peak = np.maximum.reduce(values, axis=-1, keepdims=True)
    if not np.isfinite(peak).all():
        _refuse_logits(values, peak)
    shifted = values - peak
    weights = np.exp(shifted)
    return shifted, np.add.accumulate(weights, axis=-1, dtype=np.float64)


def _refuse_logits(values: Floats, peak: Floats) -> None:
    bad = np.flatnonzero(~np.isfinite(peak))
    example = values.reshape(-1, values.shape[-1])[bad[0]]
    raise VecsessError(
        f"expected in each row of logits at least one finite number, no NaN and no +inf; "
        f"got {example} in row {bad[0]} ({bad.size} such rows of {peak.size}): "
        "check the network's parameters and its last update",
        field="logits",
    )


def _log_total(shifted: Floats, cumulative: NDArray[np.float64]) -> Floats:
    return np.log(cumulative[..., -1].copy()).astype(shifted.dtype)


def _log_prob(
    shifted: Floats, cumulative: NDArray[np.float64], actions: NDArray[np.int64]
) -> Floats:
    flat = shifted.reshape(-1, shifted.shape[-1])
    picked = flat[np.arange(flat.shape[0]), actions.reshape(-1)].reshape(actions.shape)
    return np.subtract(picked, _log_total(shifted, cumulative))


def _invert(cumulative: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the first action whose running sum exceeds `noise * total`.

    A weight of 0 is never chosen: its running sum equals its predecessor's. With noise < 1 the
    product stays below the total in float64, so there is always such an action.
    """
    if noise.shape != cumulative.shape[:-1]:
        raise ValueError(f"expected noise of shape {cumulative.shape[:-1]}, got {noise.shape}")
    threshold = noise * cumulative[..., -1]
    actions: NDArray[np.int64] = np.argmax(cumulative > threshold[..., None], axis=-1)
    return actions


def _checked_actions(actions: ArrayLike, logits_shape: tuple[int, ...]) -> NDArray[np.int64]:
    values = np.asarray(actions)
    if values.shape != logits_shape[:-1]:
        raise ValueError(f"expected actions of shape {logits_shape[:-1]}, got {values.shape}")
    if values.dtype.kind not in "iu":
        raise TypeError(f"expected integer actions, got dtype {values.dtype}")
    count = logits_shape[-1]
    if values.size and not 0 <= values.min() <= values.max() < count:
        raise ValueError(f"expected 0 <= action < {count}, got {values.min()}..{values.max()}")
    return values.astype(np.int64, copy=False)
