"""Generalized advantage estimation over `[T, N]` arrays: pure NumPy, no rollout, no environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def generalized_advantages(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    valid: ArrayLike | None = None,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> NDArray[np.float64]:
    """Returns GAE(γ, λ) advantages, `[T, N]` float64 (Schulman et al. 2015, arXiv 1506.02438).

    `delta_t = r_t + γ V(s_{t+1}) (1 - terminated_t) - V(s_t)`
    `A_t = delta_t + γ λ (1 - done_t) A_{t+1}`, with `done = terminated or truncated`

    A truncated episode would have gone on, so it bootstraps from the value of its last
    observation; only termination makes that value 0. Either way the trace ends there.

    An invalid row has advantage 0 and cuts the trace before and after it. The row before it
    bootstraps from its own `next_values`, which is the value of the last good observation.

    Args:
        rewards: `[T, N]`.
        values: `[T, N]`, `V(s_t)`.
        next_values: `[T, N]`, `V(s_{t+1})` of the true next observation, before any auto-reset.
        terminated: `[T, N]` bool.
        truncated: `[T, N]` bool.
        valid: `[T, N]` bool; all True where it is None.
        gamma: discount γ, in [0, 1].
        lam: trace decay λ, in [0, 1].

    Example:
        >>> generalized_advantages(
        ...     rewards=[[1.0], [1.0]],
        ...     values=[[0.0], [0.0]],
        ...     next_values=[[0.0], [10.0]],
        ...     terminated=[[False], [False]],
        ...     truncated=[[False], [True]],
        ...     gamma=0.5,
        ...     lam=1.0,
        ... ).tolist()
        [[4.0], [6.0]]
    """
    _check_unit_interval("gamma", gamma)
    _check_unit_interval("lam", lam)
    terminal = np.asarray(terminated, dtype=bool)
    dropped = ~np.asarray(True if valid is None else valid, dtype=bool)
    baseline = np.asarray(values, dtype=np.float64)
    # `where` and not a product: a critic may give inf or NaN for a state that does not count.
    bootstrap = np.where(terminal, 0.0, np.asarray(next_values, dtype=np.float64))
    deltas = np.asarray(rewards, dtype=np.float64) + gamma * bootstrap - baseline
    cut = terminal | np.asarray(truncated, dtype=bool) | dropped
    return _discounted_sums(np.where(dropped, 0.0, deltas), gamma * lam * ~cut)


def _discounted_sums(deltas: NDArray[np.float64], decay: NDArray[Any]) -> NDArray[np.float64]:
    """Solves `A_t = delta_t + decay_t A_{t+1}` backwards, `[T, N]`, with `A_T = 0`."""
    sums = deltas
    for t in range(len(sums) - 2, -1, -1):
        sums[t] += decay[t] * sums[t + 1]
    return sums


def _check_unit_interval(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"expected {name} in [0, 1], got {value!r}")
