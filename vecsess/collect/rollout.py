"""The batch: `Rollout`, the rows that one lockstep fills, and what a PPO update takes from it.

Arrays are time-major, `[T, N, ...]`: `T` locksteps (the horizon) of `N` environments. They are
ordinary NumPy arrays that the caller owns. Nothing here steps an environment or asks a policy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike, NDArray

from vecsess import tree
from vecsess.collect.batch import ActorCriticBatch, generalized_advantages, one_hot, z_scores
from vecsess.contract import StepRows
from vecsess.tree import Tree
from vecsess.wire.leaves import all_leaves_of, assemble
from vecsess.wire.values import Array, Given, Space

if TYPE_CHECKING:
    from vecsess.collect.pytorch import TorchRollout


class Episode(NamedTuple):
    """An episode that ended in a rollout, whole: also what earlier rollouts saw of it.

    Attributes:
        return_: sum of its rewards, undiscounted.
        length: its steps.
        env: index of the environment.
        end_step: the row `t` of its last step.

    Example:
        >>> Episode(return_=21.0, length=21, env=3, end_step=20).length
        21
    """

    return_: float
    length: int
    env: int
    end_step: int


@dataclass(eq=False, kw_only=True, slots=True, repr=False)
class Rollout:
    """`T` locksteps of `N` environments, with what the policy said of each.

    Attributes:
        observations: tree of `[T, N, *obs]`, what was acted on.
        actions: `[T, N, *act]`, as the policy gave them; a tree for Dict and Tuple spaces.
        log_probs: `[T, N]`, of the actions, when they were taken.
        rewards: `[T, N]` float64, as the environments gave them.
        terminated: `[T, N]` bool.
        truncated: `[T, N]` bool.
        values: `[T, N]`, `V(s_t)`.
        next_values: `[T, N]`, `V(s_{t+1})` of the true next observation, before any auto-reset.
        valid: `[T, N]` bool; False where a lost environment left a marked truncation.
        episode_start: `[T, N]` bool; True where `observations` is a reset's.
        last_observations: tree of `[N, *obs]`, what to act on after the last row.
        final_observations: tree of `[K, *obs]`, the last observations of episodes that ended.
        final_steps: `[K]` int64, the row `t` in which each of them ended, ascending.
        final_envs: `[K]` int64, the environment of each.
        episodes: those that ended in this rollout, in the order of the final observations, less
            those cut short by a lost environment.
        counter: of the noise stream, after the last row.
        action_space: of one environment.

    Example:
        >>> rollout = Rollout.empty(128, 16, spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
        >>> rollout.observations.shape, rollout.advantages(gamma=0.99, lam=0.95).shape
        ((128, 16, 4), (128, 16))
    """

    observations: Tree
    actions: Tree
    log_probs: NDArray[np.floating[Any]]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    values: NDArray[np.floating[Any]]
    next_values: NDArray[np.floating[Any]]
    valid: NDArray[np.bool_]
    episode_start: NDArray[np.bool_]
    last_observations: Tree
    final_observations: Tree
    final_steps: NDArray[np.int64]
    final_envs: NDArray[np.int64]
    episodes: list[Episode]
    counter: int
    action_space: Space

    def __repr__(self) -> str:
        observations = tree.map_leaves(
            lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", self.observations
        )
        return (
            f"Rollout(horizon={self.horizon}, num_envs={self.num_envs}, "
            f"observations={observations}, valid={int(self.valid.sum())} of {self.valid.size}, "
            f"episodes={len(self.episodes)}, counter={self.counter})"
        )

    @classmethod
    def empty(
        cls,
        horizon: int,
        num_envs: int,
        observation_space: Space | Tree,
        action_space: Space,
        *,
        log_prob_dtype: DTypeLike = np.float32,
        value_dtype: DTypeLike = np.float32,
    ) -> Rollout:
        """Allocates a rollout in which no row is valid yet.

        Args:
            horizon: `T`, locksteps.
            num_envs: `N`.
            observation_space: of one environment, or one observation as an example; Dict and
                Tuple spaces give dicts and tuples of arrays, and what has no fixed shape, such as
                a text, an array of objects.
            action_space: of one environment.
            log_prob_dtype: the policy's, so that a stored log-probability is never rounded.
            value_dtype: the policy's.

        Raises:
            ValueError: where the horizon or the number of environments is not positive.
            UnsupportedSpaceError: for an array of a dtype that can't be shared.
        """
        for name, number in (("horizon", horizon), ("num_envs", num_envs)):
            if number <= 0:
                raise ValueError(f"expected a positive {name}, got {number!r}")
        lead = (horizon, num_envs)
        flags = {
            name: np.zeros(lead, dtype=np.bool_)
            for name in ("terminated", "truncated", "valid", "episode_start")
        }
        return cls(
            observations=_allocate(observation_space, lead),
            actions=_allocate(action_space, lead),
            log_probs=np.zeros(lead, dtype=log_prob_dtype),
            rewards=np.zeros(lead, dtype=np.float64),
            values=np.zeros(lead, dtype=value_dtype),
            next_values=np.zeros(lead, dtype=value_dtype),
            last_observations=_allocate(observation_space, (num_envs,)),
            final_observations=_allocate(observation_space, (0,)),
            final_steps=np.zeros(0, dtype=np.int64),
            final_envs=np.zeros(0, dtype=np.int64),
            episodes=[],
            counter=0,
            action_space=action_space,
            **flags,
        )

    @property
    def horizon(self) -> int:
        """`T`, the number of locksteps."""
        return len(self.rewards)

    @property
    def num_envs(self) -> int:
        """`N`, the number of environments."""
        return int(self.rewards.shape[1])

    def step_rows(self) -> list[StepRows]:
        """Returns for each lockstep where it writes: views into this rollout's arrays.

        The observations that lockstep `t` brings are those that `t + 1` acts on, so each is
        written straight to where it stays.
        """
        nexts = [tree.row(self.observations, t) for t in range(1, self.horizon)]
        return list(
            map(
                StepRows,
                [*nexts, self.last_observations],
                self.rewards,
                self.terminated,
                self.truncated,
                self.valid,
            )
        )

    def advantages(self, gamma: float = 0.99, lam: float = 0.95) -> NDArray[np.float32]:
        """Returns GAE(γ, λ) advantages, `[T, N]` float32; see `generalized_advantages`.

        Args:
            gamma: discount γ, in [0, 1].
            lam: trace decay λ, in [0, 1].
        """
        return self._advantages(gamma, lam).astype(np.float32)

    def returns(self, gamma: float = 0.99, lam: float = 0.95) -> NDArray[np.float32]:
        """Returns λ-returns `A_t + V(s_t)`, `[T, N]` float32: the targets of the critic.

        Args:
            gamma: discount γ, in [0, 1].
            lam: trace decay λ, in [0, 1].
        """
        return (self._advantages(gamma, lam) + self.values).astype(np.float32)

    def to_actor_critic_batch(self, gamma: float = 0.99, lam: float = 0.95) -> ActorCriticBatch:
        """Flattens the rollout to `B = T * N` rows for a PPO update.

        The arrays are views where they can be: a rollout that is filled again changes them.

        Args:
            gamma: discount γ, in [0, 1].
            lam: trace decay λ, in [0, 1].
        """
        rows = self.rewards.size
        actions = _flat(self.actions)
        if isinstance(self.action_space, spaces.Discrete):
            actions = one_hot(actions, self.action_space)
        valid = self.valid.reshape(rows)
        return ActorCriticBatch(
            observations=_flat(self.observations),
            actions=actions,
            old_log_probs=self.log_probs.reshape(rows),
            advantages=z_scores(self._advantages(gamma, lam).reshape(rows), valid),
            value_targets=self.returns(gamma, lam).reshape(rows),
            valid=valid,
        )

    def to_torch(
        self, device: Given = "cpu", *, gamma: float = 0.99, lam: float = 0.95
    ) -> TorchRollout:
        """Returns the rollout as PyTorch tensors; on the CPU they share its memory.

        Args:
            device: a `torch.device`, or its name.
            gamma: discount γ of the advantages and returns that come with it.
            lam: trace decay λ of these.

        Raises:
            MissingExtraError: PyTorch is not installed.
        """
        from vecsess.collect.pytorch import TorchRollout  # here: vecsess needs no PyTorch

        return TorchRollout.of(self, device, gamma, lam)

    def _advantages(self, gamma: float, lam: float) -> NDArray[np.float64]:
        return generalized_advantages(
            self.rewards,
            self.values,
            self.next_values,
            self.terminated,
            self.truncated,
            valid=self.valid,
            gamma=gamma,
            lam=lam,
        )


def _flat(rows: Tree) -> Tree:
    """Joins the axes T and N: `[T, N, ...]` to `[T * N, ...]`."""
    return tree.map_leaves(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)


def _allocate(like: Given, lead: tuple[int, ...]) -> Tree:
    """Returns zeros, `[*lead, *shape]`: fresh pages are zero anyway, so they cost no more."""
    if isinstance(like, gymnasium.Space):
        parts = all_leaves_of(like)
        return assemble(like, (np.zeros((*lead, *leaf.shape), leaf.dtype) for leaf in parts))
    if isinstance(like, dict):
        return {key: _allocate(part, lead) for key, part in like.items()}
    if isinstance(like, tuple):
        return tuple(_allocate(part, lead) for part in like)
    return np.zeros((*lead, *like.shape), like.dtype)


def reuse_or_allocate(out: Rollout | None, fresh: Rollout) -> Rollout:
    """Returns `out` where it has the layout of `fresh`, whose memory was never touched then.

    Args:
        out: a rollout to fill again, or None.
        fresh: one of the layout that is needed.

    Raises:
        ValueError: names the field in which `out` differs.

    Example:
        >>> fresh = Rollout.empty(8, 2, spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
        >>> reuse_or_allocate(None, fresh) is fresh
        True
    """
    if out is None:
        return fresh
    for field in fields(Rollout):
        wanted, given = getattr(fresh, field.name), getattr(out, field.name)
        if field.name.startswith("final_"):
            continue  # as many as there were episodes, replaced each time
        if isinstance(wanted, (np.ndarray, dict, tuple)):
            tree.map_leaves(lambda a, b, name=field.name: _same_layout(name, a, b), wanted, given)
    return out


def _same_layout(name: str, wanted: Array, given: Given) -> None:
    if (wanted.shape, wanted.dtype) != (given.shape, given.dtype):
        raise ValueError(
            f"`out` does not fit: expected {name} {list(wanted.shape)} {wanted.dtype}, "
            f"got {list(given.shape)} {given.dtype}; pass out=None, or a rollout collected "
            "with the same horizon, environments and policy"
        )
