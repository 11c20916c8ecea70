"""One rollout of all shards: what they are sent, and the batch put together from their parts."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray

from vecsess import tree
from vecsess.collect.packing import pack
from vecsess.collect.policies import as_policy, state_keeper
from vecsess.collect.rollout import Episode, Rollout, reuse_or_allocate
from vecsess.integrations.ray.pieces import pieces_for
from vecsess.integrations.ray.placement import lost_since
from vecsess.integrations.ray.shard import ARRAYS, Answer
from vecsess.integrations.ray.slots import Slot
from vecsess.wire.values import Fields, Given, Space

_SMALL_BYTES = 64 << 10  # Ray sends up to 100 KiB with a call


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

    def add(self, envs: slice, part: Answer) -> Rollout:
        """Copies the part of some environments to its place; returns the rollout so far."""
        if self._rollout is None:
            self._rollout = self._begin(part)
        rollout = self._rollout
        for name in ARRAYS:
            tree.copy_into(tree.row(getattr(rollout, name), (slice(None), envs)), part[name])
        tree.copy_into(tree.row(rollout.last_observations, envs), part["seen"])
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

    def _begin(self, part: Answer) -> Rollout:
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


class Collecting:
    """What one rollout sends to the shards, and what it brings of them beside the batch.

    Args:
        policy: goes along with each call where it is small; else it is put into the object store
            once, whatever the number of shards, and once more for what is sent after a loss.
        action_space: of one environment.
        arguments: `collect_rollout`'s.
    """

    def __init__(self, policy: Given, action_space: Space, arguments: Fields) -> None:
        self._keeper = state_keeper(as_policy(policy, action_space))
        packed = pack(policy)
        buffers = [np.frombuffer(buffer, np.uint8) for buffer in packed.buffers]
        self._packed = packed.head, buffers
        self._began_s, self._avoided = time.monotonic(), set[str]()
        size = len(packed.head) + sum(buffer.nbytes for buffer in buffers)
        self._large = size > _SMALL_BYTES
        self._policy = ray.put(self._packed) if self._large else self._packed
        self._arguments = arguments
        self._states: dict[int, Any] = {}  # as they were before the rollout
        self._parts: list[tuple[Slot, Any, Any]] = []

    def submit(self, slot: Slot, actor: Given) -> Given:
        """Asks a shard for its part."""
        if self._keeper is not None and slot.index not in self._states:
            state = self._keeper.get_state(_envs(slot))
            self._states[slot.index] = tree.map_leaves(np.copy, state)
        lost = lost_since(self._began_s)
        if self._large and not lost <= self._avoided:
            # Ray might fetch the old one from a node that had it, too, and wait ten seconds there.
            self._avoided, self._policy = lost, ray.put(self._packed)
        collect = actor.collect.options(num_returns=slot.pieces)
        state = self._states.get(slot.index)
        return collect.remote(self._policy, state, self._arguments, slot.pieces)

    def take(self, slot: Slot, part: Answer) -> None:
        """Keeps what the session and the policy are told when all parts are there."""
        books = [column.copy() for column in part["books"]]
        slot.took_s = part["took_s"]
        columns = tree.leaves(tuple(part[name] for name in ARRAYS))
        slot.pieces = pieces_for(
            sum(column.nbytes for column in columns) + len(part["kept"]["state"])
        )
        self._parts.append((slot, books, tree.map_leaves(np.copy, part["state"])))

    def end(self, returns: Given, lengths: Given) -> None:
        """Tells the session's books and the policy; `[N]` both."""
        for slot, books, state in self._parts:
            returns[slot.envs], lengths[slot.envs] = books
            if self._keeper is not None:
                self._keeper.set_state(_envs(slot), state)


def _envs(slot: Slot) -> Given:
    return np.arange(slot.first, slot.first + slot.n)
