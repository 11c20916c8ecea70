"""The rollout of a session, put together from its shards' parts."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vecsess import tree
from vecsess.collect.rollout import Episode, Rollout, reuse_or_allocate
from vecsess.integrations.ray.shard import ARRAYS

Space = gymnasium.Space[Any]


class Assembly:
    """One rollout under way.

    Args:
        horizon: `T`.
        n: how many environments.
        spaces: observation and action space of one environment.
        out: a rollout to fill again, or None.
    """

    def __init__(
        self, horizon: int, n: int, spaces: tuple[Space, Space], out: Rollout | None
    ) -> None:
        self._horizon, self._n, self._spaces, self._out = horizon, n, spaces, out
        self._rollout: Rollout | None = None
        self._ended: list[tuple[Any, Any, Any]] = []
        self._episodes: list[Episode] = []

    def add(self, envs: slice, part: dict[str, Any]) -> Rollout:
        """Copies the part of some environments to its place; returns the rollout so far."""
        if self._rollout is None:
            self._rollout = self._begin(part)
        rollout = self._rollout
        for name in ARRAYS:
            tree.copy_into(tree.row(getattr(rollout, name), (slice(None), envs)), part[name])
        tree.copy_into(tree.row(rollout.last_observations, envs), part["last"])
        steps, ended, finals = part["finals"]
        # Copies: views would keep the whole part in the object store.
        self._ended.append((steps.copy(), ended + envs.start, tree.map_leaves(np.copy, finals)))
        self._episodes += [
            Episode(returned, length, env + envs.start, at)
            for returned, length, env, at in part["episodes"]
        ]
        return rollout

    def finish(self, counter: int) -> Rollout:
        """Adds what is known only when all parts are there."""
        rollout = self._rollout
        assert rollout is not None, "a session has one shard or more"
        steps, envs = (np.concatenate([one[k] for one in self._ended]) for k in (0, 1))
        order = np.lexsort((envs, steps))
        rollout.final_steps, rollout.final_envs = steps[order], envs[order]
        finals = tree.concatenate([one[2] for one in self._ended])
        rollout.final_observations = tree.row(finals, order)
        rollout.episodes = sorted(self._episodes, key=lambda each: (each.end_step, each.env))
        rollout.counter = counter
        return rollout

    def _begin(self, part: dict[str, Any]) -> Rollout:
        observation_space, action_space = self._spaces
        fresh = Rollout.empty(
            self._horizon,
            self._n,
            observation_space,
            action_space,
            log_prob_dtype=part["log_probs"].dtype,
            value_dtype=part["values"].dtype,
        )
        rollout = reuse_or_allocate(self._out, fresh)
        rollout.action_space = action_space
        return rollout
