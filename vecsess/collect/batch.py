"""What a PPO update takes from a rollout: flat rows, normalised advantages, minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from vecsess import tree
from vecsess.tree import Tree
from vecsess.wire.values import Array

# Keeps equal advantages at 0 instead of 0 / 0; the value that PPO implementations share.
_EPSILON = 1e-8


@dataclass(eq=False, kw_only=True, slots=True)
class ActorCriticBatch:
    """A rollout as a PPO update wants it: flat, `B = T * N` rows, time-major order.

    Attributes:
        observations: tree of `[B, *obs]`, views of the rollout's.
        actions: `[B, A]` float32, one-hot, for a Discrete space; else `[B, *act]` as taken.
        old_log_probs: `[B]`, log-probability of each action when it was taken.
        advantages: `[B]` float32, mean 0 and standard deviation 1 over the valid rows.
        value_targets: `[B]` float32, λ-returns, from the advantages before normalising.
        valid: `[B]` bool; rows to leave out where False.

    Example:
        >>> batch = ActorCriticBatch(
        ...     observations=np.zeros((5, 3)),
        ...     actions=np.zeros((5, 2)),
        ...     old_log_probs=np.zeros(5),
        ...     advantages=np.zeros(5),
        ...     value_targets=np.zeros(5),
        ...     valid=np.array([True, True, False, True, True]),
        ... )
        >>> [len(part.advantages) for part in batch.minibatches(3, np.random.default_rng(0))]
        [3, 1]
    """

    observations: Tree
    actions: Tree
    old_log_probs: NDArray[np.floating[Any]]
    advantages: NDArray[np.float32]
    value_targets: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def minibatches(self, size: int, rng: np.random.Generator) -> Iterator[ActorCriticBatch]:
        """Yields the valid rows once, shuffled, `size` at a time; the last may be smaller.

        Args:
            size: rows of a minibatch.
            rng: decides the order.
        """
        for chosen in minibatch_rows(self.valid, size, rng):
            parts = {f.name: tree.row(getattr(self, f.name), chosen) for f in fields(self)}
            yield ActorCriticBatch(**parts)


def minibatch_rows(
    valid: NDArray[np.bool_], size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yields indices of the valid rows, each once, shuffled, `size` at a time.

    Args:
        valid: `[B]` bool.
        size: rows of a minibatch; the last may be smaller.
        rng: decides the order.

    Example:
        >>> valid = np.array([True, False, True, True])
        >>> [len(rows) for rows in minibatch_rows(valid, 2, np.random.default_rng(0))]
        [2, 1]
    """
    if size <= 0:
        raise ValueError(f"expected a positive minibatch size, got {size}")
    order = rng.permutation(np.flatnonzero(valid))
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def z_scores(values: Array, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scales to mean 0 and (population) standard deviation 1 over the valid entries; 0 elsewhere.

    Args:
        values: any shape.
        valid: bool, of the same shape.

    Example:
        >>> z_scores(np.array([1.0, 3.0, 99.0]), np.array([True, True, False])).tolist()
        [-1.0, 1.0, 0.0]
    """
    scores = np.zeros(values.shape, dtype=np.float32)
    chosen = values[valid].astype(np.float64)
    if chosen.size:
        scores[valid] = (chosen - chosen.mean()) / (chosen.std() + _EPSILON)
    return scores


def one_hot(actions: NDArray[np.integer[Any]], space: spaces.Discrete) -> NDArray[np.float32]:
    """Returns `[..., A]` float32, 1 at each action's place; the space may start elsewhere than 0.

    Example:
        >>> one_hot(np.array([1, 3]), spaces.Discrete(3, start=1)).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    vectors: NDArray[np.float32] = np.eye(int(space.n), dtype=np.float32)
    chosen: NDArray[np.float32] = vectors[actions - int(space.start)]
    return chosen


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


def _discounted_sums(deltas: NDArray[np.float64], decay: Array) -> NDArray[np.float64]:
    """Solves `A_t = delta_t + decay_t A_{t+1}` backwards, `[T, N]`, with `A_T = 0`."""
    sums = deltas
    for t in range(len(sums) - 2, -1, -1):
        sums[t] += decay[t] * sums[t + 1]
    return sums


def _check_unit_interval(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"expected {name} in [0, 1], got {value!r}")
