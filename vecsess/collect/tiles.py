"""Always the same number of rows, each environment always at the same place: `act_rows`.

A matrix product rounds differently with another number of rows, and with another place of a row.
At a fixed number and a fixed place it does not, whatever the other rows hold. So a policy that
names `act_rows` gives the same bits in lockstep, at every pace, in every grouping, and at the
workers; on one kind of machine, with one thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.tree import Tree
from vecsess.wire.leaves import all_leaves_of, assemble, pick

_PLANS = 256  # how many batches of environments are known by heart


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the policy.

    Attributes:
        rows: which of the given rows are in it: a slice where they are a whole tile, in order.
        places: `[k]`, where each of them lies.
        filled: `[act_rows]`, the given row at each place; some row where there is none.
        envs: `[act_rows]`, the environment that belongs at each place.
        idle: `[j]`, those of `envs` that only fill a place.
    """

    rows: slice | NDArray[np.int64]
    places: NDArray[np.int64]
    filled: NDArray[np.int64]
    envs: NDArray[np.int64]
    idle: NDArray[np.int64]


class Tiled:
    """A policy that is called with `act_rows` rows, environment e at place `e % act_rows`.

    Args:
        policy: with `act`, `value` and `noise_size`.
        act_rows: how many rows each call gets.
        action_space: of one environment.

    Example:
        >>> from vecsess.collect.policies import RandomPolicy
        >>> space = gymnasium.spaces.Discrete(2)
        >>> tiled = Tiled(RandomPolicy(space), 8, space)
        >>> tiled.value(np.zeros((3, 4)), envs=np.array([6, 7, 8])).shape
        (3,)
    """

    def __init__(self, policy: Any, act_rows: int, action_space: gymnasium.Space[Any]) -> None:
        if type(act_rows) is not int or act_rows < 1:
            raise ValueError(f"act_rows: expected a positive number of rows, got {act_rows!r}")
        self.policy, self.act_rows = policy, act_rows
        self.noise_size: int = policy.noise_size
        self.noise_kind: str = getattr(policy, "noise_kind", "uniform")
        self._space, self._leaves = action_space, list(all_leaves_of(action_space))
        self._keeps_state = hasattr(policy, "get_state")
        self._plans: dict[bytes, list[_Call]] = {}

    def act(
        self,
        observations: Tree,
        *,
        noise: NDArray[np.float64],
        episode_start: NDArray[np.bool_],
        envs: NDArray[np.int64],
    ) -> tuple[Any, Any, Any]:
        """See `Policy.act`."""
        answers = []
        for call in self._plan(envs):
            start = _rows(episode_start, call)
            if len(call.idle):
                start = start.copy()
                start[np.isin(call.envs, call.idle)] = False
            before = self.policy.get_state(call.idle) if self._saves(call) else None
            decision = self.policy.act(
                tree.map_leaves(lambda leaf, call=call: _rows(leaf, call), observations),
                noise=_rows(noise, call),
                episode_start=start,
                envs=call.envs,
            )
            if before is not None:  # nobody decided anything for those that filled a place
                self.policy.set_state(call.idle, before)
            answers.append((call, self._arrays(decision)))
        *actions, log_probs, values = self._joined(answers, len(envs))
        return assemble(self._space, iter(actions)), log_probs, values

    def value(self, observations: Tree, *, envs: NDArray[np.int64]) -> Any:
        """See `Policy.value`."""
        answers = []
        for call in self._plan(envs):
            part = tree.map_leaves(lambda leaf, call=call: _rows(leaf, call), observations)
            given = np.asarray(self.policy.value(part, envs=call.envs))
            answers.append((call, [self._whole("values", given)]))
        return self._joined(answers, len(envs))[0]

    def _saves(self, call: _Call) -> bool:
        return self._keeps_state and len(call.idle) > 0

    def _arrays(self, decision: Any) -> list[NDArray[Any]]:
        """Returns the leaves of the actions, the log-probabilities and the values."""
        if not isinstance(decision, (tuple, list)) or len(decision) != 3:
            raise TypeError(
                "expected the policy's act to return (actions, log_probs, values), "
                f"got {type(decision).__name__}"
            )
        actions, log_probs, values = decision
        parts = []
        for leaf in self._leaves:
            try:
                part = pick(actions, leaf.path)
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(
                    f"expected actions of {self._space} from the policy, got "
                    f"{type(actions).__name__} without {leaf.path}"
                ) from error
            array = tree.object_array(part) if leaf.piped else np.asarray(part)
            parts.append(self._whole("actions", array))
        told = (("log_probs", log_probs), ("values", values))
        return parts + [self._whole(name, np.asarray(given)) for name, given in told]

    def _whole(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.shape[:1] != (self.act_rows,):
            raise ValueError(
                f"expected {self.act_rows} rows of {name} from the policy, as its act_rows says, "
                f"got shape {list(array.shape)}"
            )
        return array

    def _joined(
        self, answers: list[tuple[_Call, list[NDArray[Any]]]], rows: int
    ) -> list[NDArray[Any]]:
        """Returns what the calls gave, in the order of the rows that they were made for."""
        (call, first), *rest = answers
        if not rest and isinstance(call.rows, slice):
            return first
        joined = [np.empty((rows, *array.shape[1:]), array.dtype) for array in first]
        for call, arrays in answers:
            for whole, array in zip(joined, arrays, strict=True):
                whole[call.rows] = array if isinstance(call.rows, slice) else array[call.places]
        return joined

    # --- which rows go together ------------------------------------------------------------------

    def _plan(self, envs: NDArray[np.int64]) -> list[_Call]:
        key = envs.tobytes()
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            plan = self._plans[key] = list(self._calls(np.asarray(envs, np.int64)))
        return plan

    def _calls(self, envs: NDArray[np.int64]) -> Iterable[_Call]:
        """Yields calls that hold each row once; a place is never wanted twice in one."""
        if not len(envs):
            return
        places = envs % self.act_rows
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        rank = np.empty(len(envs), np.int64)  # how many rows before this one want the same place
        rank[order] = np.arange(len(envs)) - np.searchsorted(ordered, ordered)
        everywhere = np.arange(self.act_rows)
        for number in range(int(rank.max()) + 1):
            chosen = np.flatnonzero(rank == number)
            filled = np.full(self.act_rows, chosen[0])
            filled[places[chosen]] = chosen
            there = envs[chosen[0]] // self.act_rows * self.act_rows + everywhere
            idle = np.delete(there, places[chosen])
            there[places[chosen]] = envs[chosen]
            rows: slice | NDArray[np.int64] = chosen
            if np.array_equal(filled, chosen[0] + everywhere) and not len(idle):
                rows = slice(int(chosen[0]), int(chosen[0]) + self.act_rows)
            yield _Call(rows, places[chosen], filled, there, idle)


def _rows(leaf: NDArray[Any], call: _Call) -> NDArray[Any]:
    """Returns the rows of one call, `[act_rows, ...]`: a view where they lie side by side."""
    return leaf[call.rows if isinstance(call.rows, slice) else call.filled]
