"""The collection loop: fills a `Rollout` from N environments, stepped together or in pieces.

It asks the policy once for all pieces that can go on: in lockstep there is one piece, at other
paces there are several, see `paced.py`. The values `V(s_{t+1})` are those of the next row, so that
only the last row and the final observations cost a forward pass more each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.books import Books, LockstepSource, Tally, begin_collecting, envs_of
from vecsess.collect.endings import Endings, Final, end_rollout, values_now
from vecsess.collect.order import Order
from vecsess.collect.policies import (
    Decision,
    Dtypes,
    Policy,
    as_policy,
    dtypes_of,
    fitting,
    noise_for,
)
from vecsess.collect.rollout import Episode, Rollout, reuse_or_allocate
from vecsess.contract import Finals, StepRows
from vecsess.tree import Tree
from vecsess.wire.values import Array, Given


class Pieces(Protocol):
    """What the loop steps: environments in one piece or more, none of which waits for another.

    Attributes:
        slices: whose environments each piece holds.
        by_turns: whether a piece is begun only after the one under way has been taken.
    """

    slices: list[slice]
    by_turns: bool

    def prepare(self, index: int, actions: Tree) -> None:
        """Checks a piece's actions `[n, *action]`, and keeps them; nothing is sent yet."""
        ...

    def begin(self, index: int) -> None:
        """Begins a piece's step, with the actions that were prepared."""
        ...

    def ready(self, flying: list[int]) -> list[int]:
        """Waits until at least one of the pieces under way can be taken; returns these."""
        ...

    def take(self, index: int, rows: StepRows) -> Finals | None:
        """Waits for a piece's step and fills `rows [n, ...]`; returns the finals, if any."""
        ...


class Whole:
    """A source whose environments are stepped together: one piece.

    Args:
        source: checks the actions itself.
    """

    by_turns = False

    def __init__(self, source: LockstepSource) -> None:
        self.slices = [slice(0, source.num_envs)]
        self._source = source
        self._actions: Tree = None

    def prepare(self, index: int, actions: Tree) -> None:
        """See `Pieces.prepare`."""
        del index
        self._actions = actions

    def begin(self, index: int) -> None:
        """Does nothing: a step is taken in one go."""

    def ready(self, flying: list[int]) -> list[int]:
        """Returns all that fly."""
        return flying.copy()

    def take(self, index: int, rows: StepRows) -> Finals | None:
        """Steps."""
        del index
        return self._source.step_into(self._actions, rows)


def fill_rollout(
    source: LockstepSource,
    books: Books,
    order: Order,
    in_pieces: Callable[[], AbstractContextManager[Pieces]] | None = None,
) -> Rollout:
    """Fills a rollout.

    Args:
        source: N environments.
        books: of the session.
        order: what is asked for.
        in_pieces: opens the source's pieces, None for one.
    """
    actor = as_policy(order.policy, source.single_action_space)
    observations = begin_collecting(source, books, order)
    envs = envs_of(source)
    noise = noise_for(actor, books.noise_seed, books.noise_counter, envs, order.horizon)
    start = books.episode_lengths == 0
    decision = actor.act(observations, noise=noise[0], episode_start=start, envs=envs)
    rollout = rollout_for(source, order, observations, start, dtypes_of(decision))
    actions = store(rollout, 0, decision)
    with nullcontext(Whole(source)) if in_pieces is None else in_pieces() as pieces:
        run = Run(pieces, actor, envs, rollout, books, noise)
        try:
            run.begin([tree.row(actions, own) for own in pieces.slices])
            run.finish()
        finally:
            books.noise_counter += run.done
    rollout.counter = books.noise_counter
    end_rollout(rollout, books, actor, envs, run.endings(), run.episodes())
    return rollout


def rollout_for(
    source: LockstepSource,
    order: Order,
    observations: Tree,
    start: NDArray[np.bool_],
    dtypes: Dtypes,
) -> Rollout:
    """Returns `order.out`, or a new rollout, whose first row holds what is acted on.

    Args:
        source: says of which form.
        order: what is asked for.
        observations: tree of `[N, *obs]`.
        start: `[N]`, whose observation is a reset's.
        dtypes: of log-probabilities and values.
    """
    fresh = Rollout.empty(
        order.horizon,
        source.num_envs,
        getattr(source, "single_observation_space", tree.row(observations, 0)),
        source.single_action_space,
        log_prob_dtype=dtypes[0],
        value_dtype=dtypes[1],
    )
    rollout = reuse_or_allocate(order.out, fresh)
    rollout.action_space = source.single_action_space
    tree.copy_into(tree.row(rollout.observations, 0), observations)
    rollout.episode_start[...] = False
    rollout.episode_start[0] = start
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


class Run:
    """One rollout under way: how far each piece has come, and what has ended.

    Args:
        pieces: what is stepped.
        actor: decides for all of them.
        envs: `[N]`, as `envs_of` returns them.
        rollout: is filled; its first row holds what is acted on.
        books: of the session.
        noise: `[T, N, noise_size]`.
    """

    def __init__(
        self,
        pieces: Pieces,
        actor: Policy,
        envs: NDArray[np.int64],
        rollout: Rollout,
        books: Books,
        noise: NDArray[np.float64],
    ) -> None:
        self._pieces, self._actor, self._envs, self._rollout = pieces, actor, envs, rollout
        self._noise, self._tally = noise, Tally(books)
        self._rows = rollout.step_rows()
        self._slices = pieces.slices
        self._whole = self._slices == [slice(0, len(envs))]
        self._t = [0] * len(self._slices)  # steps that each piece has completed
        self._finals: list[Final] = []

    @property
    def done(self) -> int:
        """How many steps all pieces have completed."""
        return min(self._t)

    def begin(self, actions: list[Tree]) -> None:
        """Begins the first step of every piece, with its actions."""
        # All of them are checked first: where one is wrong no worker has been told anything.
        for index, own in enumerate(actions):
            self._pieces.prepare(index, own)
        for index in range(len(actions)):
            self._pieces.begin(index)

    def decide(self) -> list[Tree]:
        """Returns the first actions of every piece."""
        return self._decide(list(range(len(self._slices))))

    def finish(self) -> None:
        """Steps every piece until it has filled its rows."""
        pieces, horizon = self._pieces, self._rollout.horizon
        flying = list(range(len(self._slices)))
        taken: list[int] = []
        while flying or taken:
            taken = taken or self._take_all(pieces.ready(flying), flying)
            going = [index for index in taken if self._t[index] < horizon]
            decided = self._decide(going) if going else []
            taken = self._take_all(flying.copy(), flying) if pieces.by_turns else []
            for index, actions in zip(going, decided, strict=True):
                pieces.prepare(index, actions)
                pieces.begin(index)
            flying += going

    def endings(self) -> Endings:
        """Returns where episodes ended, as lockstep would have it."""
        self._finals.sort(key=lambda final: (final[0], final[1].envs[0]))
        return Endings.of(self._finals)

    def episodes(self) -> list[Episode]:
        """Returns the episodes that ended, likewise."""
        return sorted(self._tally.episodes, key=lambda episode: (episode.end_step, episode.env))

    def _take_all(self, ready: list[int], flying: list[int]) -> list[int]:
        """Takes the steps of the pieces in `ready`, which are no longer in `flying` then."""
        for index in ready:
            self._take(index)
            flying.remove(index)
        return ready

    def _take(self, index: int) -> None:
        """Takes the step of one piece, and keeps the books of its environments."""
        t, envs = self._t[index], self._slices[index]
        whole = self._rows[t]
        rows = whole if self._whole else _part(whole, envs)
        finals = self._pieces.take(index, rows)
        self._t[index] = t + 1
        self._tally.count(envs, rows.rewards)
        if finals is not None:
            values = values_now(self._rollout, self._actor, self._envs, finals)
            self._finals.append((t, finals, values))
            self._tally.end(t, finals.envs, whole.valid)
            self._rollout.episode_start[t + 1 : t + 2, finals.envs] = True  # none after the last

    def _decide(self, going: list[int]) -> list[Tree]:
        """Asks the policy once for all pieces that can go on; returns the actions of each."""
        rollout, places = self._rollout, [(self._t[i], self._slices[i]) for i in going]
        decision = self._actor.act(
            _joined([tree.row(rollout.observations, place) for place in places]),
            noise=_joined([self._noise[place] for place in places]),
            episode_start=_joined([rollout.episode_start[place] for place in places]),
            envs=_joined([self._envs[envs] for _, envs in places]),
        )
        if len(places) == 1:
            return [store(rollout, places[0][0], decision, places[0][1])]
        actions, begin = [], 0
        for t, envs in places:
            end = begin + envs.stop - envs.start
            acts, log_probs, values = (tree.row(one, slice(begin, end)) for one in decision)
            actions.append(store(rollout, t, (acts, log_probs, values), envs))
            begin = end
        return actions


def _part(rows: StepRows, envs: slice) -> StepRows:
    return StepRows(
        tree.row(rows.next_observations, envs),
        rows.rewards[envs],
        rows.terminated[envs],
        rows.truncated[envs],
        rows.valid[envs],
    )


def _joined(parts: list[Tree]) -> Tree:
    return tree.concatenate(parts) if len(parts) > 1 else parts[0]
