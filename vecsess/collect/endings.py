"""Where episodes ended in a rollout, and what is known only after its last step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.books import Books
from vecsess.collect.policies import Policy, fitting, keeps_state
from vecsess.collect.rollout import Episode, Rollout
from vecsess.contract import Finals
from vecsess.errors import PolicyError
from vecsess.tree import Tree
from vecsess.wire.values import Array

_LEAST_ROWS = 64  # of observations whose values are asked for at once, where they are more

# A step, the final observations of the episodes that ended in it, and their values if known.
Final: TypeAlias = tuple[int, Finals, Array | None]


@dataclass(frozen=True, slots=True)
class Endings:
    """Where episodes ended in a rollout, and what was observed then.

    Attributes:
        steps: `[K]` int64, the row `t` of each.
        envs: `[K]` int64.
        observations: tree of `[K, *obs]`; None where there are none.
        values: `[K]`, what the policy said of each; None where it has not been asked yet.
    """

    steps: NDArray[np.int64]
    envs: NDArray[np.int64]
    observations: Tree
    values: Array | None

    @classmethod
    def of(cls, finals: list[Final]) -> Endings:
        """Joins the finals of each lockstep that brought some."""
        counts = [len(each.envs) for _, each, _ in finals]
        steps = np.repeat(np.array([t for t, *_ in finals], dtype=np.int64), counts)
        if not counts:
            return cls(steps, steps.copy(), None, None)
        envs = np.concatenate([each.envs for _, each, _ in finals])
        observations = tree.concatenate([each.observations for _, each, _ in finals])
        return cls(steps, envs, observations, _concatenated([values for *_, values in finals]))

    @classmethod
    def joined(cls, parts: list[Endings]) -> Endings:
        """Joins those of several parts, in the order of their steps and environments."""
        parts = [part for part in parts if len(part.steps)]
        if not parts:
            return cls.of([])
        steps = np.concatenate([part.steps for part in parts])
        envs = np.concatenate([part.envs for part in parts])
        observations = tree.concatenate([part.observations for part in parts])
        values = _concatenated([part.values for part in parts])
        order = np.lexsort((envs, steps))
        values = None if values is None else values[order]
        return cls(steps[order], envs[order], tree.row(observations, order), values)


def _concatenated(parts: list[Array | None]) -> Array | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def values_now(
    rollout: Rollout, actor: Policy, envs: NDArray[np.int64], finals: Finals
) -> Array | None:
    """Returns a stateful policy's values `[k]` of final observations, None for any other.

    They are asked for at their own step: the next `act` changes the state that they depend on.
    """
    if not keeps_state(actor):
        return None
    return values_of(rollout, actor, envs[finals.envs], finals.observations)


def values_of(
    rollout: Rollout, actor: Policy, envs: NDArray[np.int64], observations: Tree
) -> Array:
    """Returns values `[k]` of observations `[k, *obs]` that are not acted on.

    They are asked for in batches that are no larger than those that are acted on: of a larger one
    BLAS may have several threads, which would then spin on the cores that the workers need.
    """
    values, rows = np.empty(len(envs), rollout.values.dtype), max(rollout.num_envs, _LEAST_ROWS)
    for begin in range(0, len(envs), rows):
        part = slice(begin, begin + rows)
        given = actor.value(tree.row(observations, part), envs=envs[part])
        values[part] = fitting("values", given, values[part].shape, values.dtype)
    return values


def end_rollout(
    rollout: Rollout,
    books: Books,
    actor: Policy,
    envs: NDArray[np.int64],
    ended: Endings,
    episodes: list[Episode],
    *,
    valued: bool = False,
) -> None:
    """Adds what is known only after the last lockstep.

    Args:
        rollout: its rows are filled.
        books: of the session.
        actor: gives the values of the last and the final observations.
        envs: as `envs_of` returns them.
        ended: the final observations.
        episodes: those that ended.
        valued: the values of the last observations are in the last row already.

    Raises:
        PolicyError: the policy said something that is not finite.
    """
    books.last_seen = tree.map_leaves(np.copy, rollout.last_observations)
    rollout.episodes = episodes
    rollout.next_values[:-1] = rollout.values[1:]
    if not valued:
        rollout.next_values[-1] = values_of(rollout, actor, envs, rollout.last_observations)
    rollout.final_steps, rollout.final_envs = ended.steps, ended.envs
    if not len(ended.steps):
        none = tree.row(rollout.last_observations, slice(0, 0))
        rollout.final_observations = tree.map_leaves(np.copy, none)
    else:
        rollout.final_observations = ended.observations
        values = ended.values
        if values is None:  # nothing is kept, so they are asked for together
            values = values_of(rollout, actor, envs[ended.envs], ended.observations)
        rollout.next_values[rollout.final_steps, rollout.final_envs] = values
    for name in ("log_probs", "values", "next_values"):
        if (error := unfinite(name, getattr(rollout, name))) is not None:
            raise error


def unfinite(
    name: str, told: Array, worker: int | None = None, first_env: int = 0
) -> PolicyError | None:
    """Returns the error for what a policy said of some environments, `[T, n]`, if not finite.

    It names the first step of the rollout, and the environment.
    """
    finite = np.isfinite(told)
    if finite.all():
        return None
    t, row = np.argwhere(~finite)[0].tolist()
    return PolicyError(
        f"expected finite {name} from the policy, got {told[t, row]}; look at its weights and "
        "at what it was given",
        worker=worker,
        env=first_env + row,
        step=t,
    )
