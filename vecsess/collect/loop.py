"""The collection loop: fills a `Rollout` from anything that steps N environments together.

It asks the policy once a lockstep. The values `V(s_{t+1})` are the next lockstep's, so that only
the last row and the final observations cost a forward pass more each.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.policies import (
    AnyPolicy,
    Decision,
    Dtypes,
    Policy,
    as_policy,
    dtypes_of,
    fitting,
    keeps_state,
    noise_for,
)
from vecsess.collect.rollout import Episode, Rollout, reuse_or_allocate
from vecsess.contract import Finals, StepRows
from vecsess.tree import Tree
from vecsess.wire.values import Array, Given, Space

# Noise is made for many locksteps at once, as long as it stays small: 1 MiB of float64.
_NOISE_BLOCK = 2**17
_LEAST_ROWS = 64  # of observations whose values are asked for at once, where they are more

# A step, the final observations of the episodes that ended in it, and their values if known.
Final: TypeAlias = tuple[int, Finals, Array | None]


class LockstepSource(Protocol):
    """What the loop needs of a source of experience: N environments, stepped together.

    Attributes:
        num_envs: `N`.
        single_action_space: of one environment.
        started: False before the first reset.
    """

    num_envs: int
    single_action_space: Space

    @property
    def started(self) -> bool: ...  # noqa: D102

    def start(self, seed: int | None = None) -> Tree:
        """Resets every environment; returns `[N, *obs]`."""
        ...

    def observe(self) -> Tree:
        """Returns what to act on, `[N, *obs]`."""
        ...

    def step_into(self, actions: Tree, rows: StepRows) -> Finals | None:
        """Steps all with same-step auto-reset, fills `rows`; returns the finals, if any."""
        ...


class Startable(Protocol):
    """What can be started: a source, or a session of one environment."""

    def start(self, seed: int | None = None) -> Tree:
        """Resets; returns what to act on."""
        ...


class Books(Protocol):
    """What a session remembers from one rollout to the next.

    Attributes:
        noise_seed: of the session's own noise stream.
        noise_counter: number of the next lockstep in that stream.
        episode_returns: `[N]` float64, so far, of the episodes under way.
        episode_lengths: `[N]` int64, so far; 0 right after a reset.
        last_seen: tree of `[N, *obs]`, the last observations of the last rollout, by which one
            notices that somebody else moved the session since; None where that is unknown.
    """

    noise_seed: int
    noise_counter: int
    episode_returns: NDArray[np.float64]
    episode_lengths: NDArray[np.int64]
    last_seen: Tree | None


@dataclass(slots=True)
class SingleBooks:
    """The `Books` of a session of one environment."""

    noise_seed: int = field(default_factory=lambda: secrets.randbits(63))
    noise_counter: int = 0
    episode_returns: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    episode_lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    last_seen: Tree | None = None


def fill_rollout(
    source: LockstepSource,
    books: Books,
    policy: AnyPolicy,
    horizon: int,
    seed: int | None,
    counter: int | None,
    out: Rollout | None,
) -> Rollout:
    """Fills a rollout; see `collect_rollout` for the arguments."""
    actor = as_policy(policy, source.single_action_space)
    observations = begin_collecting(source, books, horizon, seed, counter)
    envs = envs_of(source)
    noise = _noise_stream(envs, books, horizon, actor)
    start = books.episode_lengths == 0
    decision = actor.act(observations, noise=next(noise), episode_start=start, envs=envs)

    rollout = rollout_for(source, horizon, observations, dtypes_of(decision), out)
    tree.copy_into(tree.row(rollout.observations, 0), observations)
    rollout.episode_start[...] = False
    rollout.episode_start[0] = start
    ended = _Ended(books)
    for t, rows in enumerate(rollout.step_rows()):
        if t:
            decision = actor.act(
                tree.row(rollout.observations, t),
                noise=next(noise),
                episode_start=rollout.episode_start[t],
                envs=envs,
            )
        actions = store(rollout, t, decision)
        finals = source.step_into(actions, rows)
        ended.count(rows)
        if finals is not None:
            ended.add(t, rows, finals, values_now(rollout, actor, envs, finals))
            rollout.episode_start[t + 1 : t + 2, finals.envs] = True  # no row after the last
    rollout.counter = books.noise_counter
    end_rollout(rollout, books, actor, envs, Endings.of(ended.finals), ended.episodes)
    return rollout


def envs_of(source: Given) -> NDArray[np.int64]:
    """Returns the environments' indices, `[N]`: in the whole session where this is a part of one.

    The noise and a policy's places go by these, so that a part gets what the whole would.
    """
    first: int = getattr(source, "first_env", 0)
    return np.arange(first, first + source.num_envs)


def begin_collecting(
    source: LockstepSource, books: Books, horizon: int, seed: int | None, counter: int | None
) -> Tree:
    """Chooses the noise stream, and starts the source where that has not been done.

    Returns:
        What to act on, `[N, *obs]`.
    """
    if horizon <= 0:
        raise ValueError(f"expected a positive horizon (locksteps to collect), got {horizon!r}")
    if seed is not None:
        books.noise_seed, books.noise_counter = seed, 0
    if counter is not None:
        books.noise_counter = counter
    if not source.started:
        return restart(source, books, seed)
    observations = source.observe()
    moved = _moved(books.last_seen, observations)
    books.last_seen = None  # unknown, should a step fail
    books.episode_returns[moved] = 0.0
    books.episode_lengths[moved] = 0
    return observations


def _moved(last_seen: Tree | None, observations: Tree) -> NDArray[np.bool_]:
    """Returns where somebody else reset or stepped an environment since the last rollout, `[N]`."""
    now = tree.leaves(observations)
    moved = np.zeros(len(now[0]), dtype=np.bool_)
    for before, after in zip(tree.leaves(last_seen), now, strict=False):
        if before is not None and before.shape == after.shape:  # else there is another cast now
            not_nan = (before == before) | (after == after)  # NaN differs from NaN
            differs = (before != after) & not_nan
            moved |= differs.reshape(len(moved), -1).any(axis=1)
    return moved


def restart(source: Startable, books: Books, seed: int | None) -> Tree:
    """Starts a source, and with it the books of its episodes; returns what to act on."""
    observations = source.start(seed)
    books.episode_returns[:] = 0.0
    books.episode_lengths[:] = 0
    return observations


def _noise_stream(
    envs: NDArray[np.int64], books: Books, horizon: int, actor: Policy
) -> Iterator[NDArray[np.float64]]:
    """Yields the noise of one lockstep after another, `[N, noise_size]`."""
    seed, counter = books.noise_seed, books.noise_counter
    block = max(1, _NOISE_BLOCK // max(1, actor.noise_size * len(envs)))
    for begin in range(0, horizon, block):
        steps = min(block, horizon - begin)
        yield from noise_for(actor, seed, counter + begin, envs, steps)


def rollout_for(
    source: LockstepSource, horizon: int, observations: Tree, dtypes: Dtypes, out: Rollout | None
) -> Rollout:
    """Returns `out`, or a new rollout; `dtypes` are those of log-probabilities and values."""
    fresh = Rollout.empty(
        horizon,
        source.num_envs,
        getattr(source, "single_observation_space", tree.row(observations, 0)),
        source.single_action_space,
        log_prob_dtype=dtypes[0],
        value_dtype=dtypes[1],
    )
    rollout = reuse_or_allocate(out, fresh)
    rollout.action_space = source.single_action_space
    return rollout


def store(rollout: Rollout, t: int, decision: Decision, envs: slice = slice(None)) -> Tree:
    """Stores a decision about `envs` in row `t`; returns the actions as they were stored."""
    actions, log_probs, values = decision
    row = tree.row(rollout.actions, (t, envs))
    if isinstance(row, np.ndarray):
        _put("actions", actions, row)
    else:
        tree.map_leaves(lambda part, given: _put("actions", given, part), row, actions)
    _put("log_probs", log_probs, rollout.log_probs[t, envs])
    _put("values", values, rollout.values[t, envs])
    return row


def _put(name: str, given: Given, row: Array) -> None:
    """Copies what the policy gave, where that is no broadcast and loses nothing."""
    row[...] = fitting(name, given, row.shape, row.dtype)


class _Ended:
    """Keeps the books while a rollout is filled, and the episodes that end in it."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.finals: list[Final] = []
        self.episodes: list[Episode] = []

    def count(self, rows: StepRows) -> None:
        self.books.noise_counter += 1
        self.books.episode_returns += rows.rewards
        self.books.episode_lengths += 1

    def add(self, t: int, rows: StepRows, finals: Finals, values: Array | None) -> None:
        returns, lengths = self.books.episode_returns, self.books.episode_lengths
        self.finals.append((t, finals, values))
        for env in finals.envs.tolist():
            if rows.valid[env]:  # else it did not end, it was lost
                self.episodes.append(Episode(float(returns[env]), int(lengths[env]), env, t))
        returns[finals.envs] = 0.0
        lengths[finals.envs] = 0


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
        _put("values", given, values[part])
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
        return
    rollout.final_observations = ended.observations
    values = ended.values
    if values is None:  # nothing is kept, so they are asked for together
        values = values_of(rollout, actor, envs[ended.envs], ended.observations)
    rollout.next_values[rollout.final_steps, rollout.final_envs] = values
