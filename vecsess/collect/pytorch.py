"""A rollout as PyTorch tensors, and minibatches of it; on the CPU they share its memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vecsess.collect.batch import minibatch_rows
from vecsess.errors import extra
from vecsess.tree import Tree, map_leaves
from vecsess.wire.values import Given

with extra("train", needed_by="rollout.to_torch"):
    import torch

if TYPE_CHECKING:
    from vecsess.collect.rollout import Rollout


@dataclass(eq=False, kw_only=True, slots=True)
class Minibatch:
    """Rows to learn from, in a random order, none of them invalid.

    Attributes:
        observations: tree of `[B, *obs]`.
        actions: `[B, *act]`, as they were taken.
        log_probs: `[B]`, of the actions, when they were taken.
        values: `[B]`, `V(s)`, when they were taken.
        advantages: `[B]` float32, not normalised.
        returns: `[B]` float32, λ-returns: the targets of the critic.

    Example:
        >>> columns = ("log_probs", "values", "advantages", "returns")
        >>> part = Minibatch(
        ...     observations=torch.zeros(8, 4),
        ...     actions=torch.zeros(8, dtype=torch.int64),
        ...     **{name: torch.zeros(8) for name in columns},
        ... )
        >>> len(part.advantages)
        8
    """

    observations: Tree
    actions: Tree
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


@dataclass(eq=False, kw_only=True, slots=True)
class TorchRollout:
    """A rollout's arrays as tensors, with the advantages and returns computed from them.

    On the CPU each tensor is the rollout's own memory, so that a rollout which is filled again
    (`out=`) changes it. Only `advantages` and `returns` are new.

    Attributes:
        observations: tree of `[T, N, *obs]`.
        actions: `[T, N, *act]`; a tree for Dict and Tuple spaces.
        log_probs: `[T, N]`.
        rewards: `[T, N]` float64.
        terminated: `[T, N]` bool.
        truncated: `[T, N]` bool.
        values: `[T, N]`.
        next_values: `[T, N]`.
        valid: `[T, N]` bool.
        episode_start: `[T, N]` bool.
        last_observations: tree of `[N, *obs]`.
        advantages: `[T, N]` float32, GAE, not normalised.
        returns: `[T, N]` float32, λ-returns.

    Example:
        >>> from gymnasium import spaces
        >>> from vecsess import Rollout
        >>> rollout = Rollout.empty(16, 4, spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
        >>> rollout.valid[:] = True
        >>> tensors = rollout.to_torch()
        >>> [len(part.returns) for part in tensors.minibatches(32, np.random.default_rng(0))]
        [32, 32]
    """

    observations: Tree
    actions: Tree
    log_probs: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    values: torch.Tensor
    next_values: torch.Tensor
    valid: torch.Tensor
    episode_start: torch.Tensor
    last_observations: Tree
    advantages: torch.Tensor
    returns: torch.Tensor

    @classmethod
    def of(cls, rollout: Rollout, device: Given, gamma: float, lam: float) -> TorchRollout:
        """Returns the tensors of a rollout; see `Rollout.to_torch`."""
        computed = {
            "advantages": rollout.advantages(gamma, lam),
            "returns": rollout.returns(gamma, lam),
        }
        arrays = {
            field.name: computed[field.name]
            if field.name in computed
            else getattr(rollout, field.name)
            for field in fields(cls)
        }
        # `from_numpy` shares memory or raises; `to` copies only where the device is another.
        return cls(
            **{
                name: map_leaves(lambda leaf: torch.from_numpy(leaf).to(device), array)
                for name, array in arrays.items()
            }
        )

    def minibatches(self, size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """Yields the valid rows once, shuffled, `size` at a time; the last may be smaller.

        Args:
            size: rows of a minibatch.
            rng: decides the order; the same on every device.
        """
        valid = self.valid.cpu().numpy().reshape(-1)
        for rows in minibatch_rows(valid, size, rng):
            index = torch.from_numpy(rows).to(self.valid.device)
            yield self._minibatch(lambda leaf, index=index: leaf.flatten(0, 1)[index])

    def of_envs(self, envs: Given) -> Minibatch:
        """Returns the valid rows of some environments, in time-major order.

        A recurrent agent runs over the whole sequences `[T, len(envs)]`, and then picks what it
        learns from with `valid[:, envs]`, as is done here.

        Args:
            envs: `[K]` int64 tensor.
        """
        valid = self.valid[:, envs]
        return self._minibatch(lambda leaf: leaf[:, envs][valid])

    def _minibatch(self, pick: Given) -> Minibatch:
        return Minibatch(
            **{f.name: map_leaves(pick, getattr(self, f.name)) for f in fields(Minibatch)}
        )
