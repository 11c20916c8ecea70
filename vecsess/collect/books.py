"""What a session remembers from one rollout to the next: its noise stream, its episodes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.order import Order
from vecsess.collect.rollout import Episode
from vecsess.contract import Finals, StepRows
from vecsess.tree import Tree
from vecsess.wire.values import Space


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


class Tally:
    """Keeps the books of the episodes while a rollout is filled.

    The rewards are added one by one, in the order of their steps: another order is another sum.

    Args:
        books: of the session.

    Attributes:
        episodes: those that have ended.
    """

    def __init__(self, books: Books) -> None:
        self._returns, self._lengths = books.episode_returns, books.episode_lengths
        self.episodes: list[Episode] = []

    def count(self, envs: slice, rewards: NDArray[np.float64]) -> None:
        """Counts a step of some environments."""
        self._returns[envs] += rewards
        self._lengths[envs] += 1

    def end(self, t: int, envs: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        """Ends episodes in step `t`; `valid [N]` says where one was lost instead."""
        returns, lengths = self._returns, self._lengths
        for env in envs.tolist():
            if valid[env]:
                self.episodes.append(Episode(float(returns[env]), int(lengths[env]), env, t))
        returns[envs] = 0.0
        lengths[envs] = 0


def envs_of(source: LockstepSource) -> NDArray[np.int64]:
    """Returns the environments' indices, `[N]`: in the whole session where this is a part of one.

    The noise and a policy's places go by these, so that a part gets what the whole would.
    """
    first: int = getattr(source, "first_env", 0)
    return np.arange(first, first + source.num_envs)


def begin_collecting(source: LockstepSource, books: Books, order: Order) -> Tree:
    """Chooses the noise stream, and starts the source where that has not been done.

    Returns:
        What to act on, `[N, *obs]`.
    """
    if order.seed is not None:
        books.noise_seed, books.noise_counter = order.seed, 0
    if order.counter is not None:
        books.noise_counter = order.counter
    if not source.started:
        return restart(source, books, order.seed)
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
