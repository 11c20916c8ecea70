"""What a PPO update takes from a rollout: flat rows, normalised advantages, minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess import tree
from vecsess.tree import Tree

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


def z_scores(values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
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
