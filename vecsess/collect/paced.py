"""Collecting where not all environments wait for each other: the same batch, sooner.

`"pipelined"`: one half of the environments steps while the policy works on the other half.
`"free"`: each worker goes on as soon as its own actions are known, so that a batch takes as long as
the slowest worker's steps together, and not as long as each step's slowest worker.

Every environment sees the actions, and the policy the observations and the noise, that they would
in lockstep. So the batch is the same, bit for bit on one kind of CPU, for a policy that computes
each row by itself; a matrix product may round differently with another number of rows.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.loop import (
    Books,
    Endings,
    Final,
    begin_collecting,
    end_rollout,
    envs_of,
    rollout_for,
    store,
    values_now,
)
from vecsess.collect.policies import AnyPolicy, Policy, as_policy, dtypes_of, noise_for
from vecsess.collect.rollout import Episode, Rollout
from vecsess.contract import Finals, StepRows
from vecsess.errors import ActionError
from vecsess.fleet.deadlines import SLICE_S
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.plan import cores
from vecsess.session.actions import ActionCheck
from vecsess.tree import Tree
from vecsess.wire.values import Array, Given

Pace = Literal["lockstep", "pipelined", "free"]
PACES: tuple[Pace, ...] = get_args(Pace)


def groups_for(pace: Pace, workers: int) -> list[slice]:
    """Returns the workers that step together: two halves, or each for itself."""
    if pace == "free":
        return [slice(worker, worker + 1) for worker in range(workers)]
    middle = (workers + 1) // 2
    halves = [slice(0, middle), slice(middle, workers)]
    return [half for half in halves if half.stop > half.start]


class Paced:
    """The parts of a vector session, stepped each at its own pace.

    Args:
        session: a started `VecCheckedSession`.
        pace: "pipelined" or "free".
        workers: only these, at the pace "free"; None for all.
    """

    def __init__(self, session: Given, pace: Pace, workers: list[int] | None = None) -> None:
        self._engine = engine = session.engine
        self._lockstep: Lockstep = engine.lockstep
        groups = groups_for(pace, len(self._lockstep.workers))
        if workers is not None:
            groups = [slice(index, index + 1) for index in workers]
        self.parts = [self._lockstep.part(own) for own in groups]
        self._in_turn = pace == "pipelined"
        # On cores that both halves need, one that begins early only keeps the other from its end.
        self.by_turns = self._in_turn and len(self._lockstep.workers) > cores()
        space, contract = session.single_action_space, session.contract
        sizes = [part.rows.envs.stop - part.rows.envs.start for part in self.parts]
        self._checks = [ActionCheck(space, size, contract) for size in sizes]

    def check(self, index: int, actions: Tree) -> list[Array]:
        """Returns one part's actions, `[n, *action]`, as they can be sent."""
        try:
            return self._checks[index](actions)
        except ActionError as error:
            first = self.parts[index].rows.envs.start
            error.env = None if error.env is None else error.env + first
            raise

    def begin(self, index: int, checked: list[Array]) -> None:
        """Sends one part its actions."""
        self._engine.begin_part(self.parts[index], checked)

    def take(self, index: int, rows: StepRows) -> Finals | None:
        """Waits for one part's step and copies it into `rows [n, ...]`."""
        finals: Finals | None = self._engine.take_step(self.parts[index], rows)
        return finals

    def ready(self, flying: list[int]) -> list[int]:
        """Waits until a part has answered; returns those that have, or the next in turn."""
        if self._in_turn:
            return flying[:1]
        hints, parts = self._lockstep.flight.hints, self.parts
        while True:  # a part is one worker here
            at = [hints[parts[i].own.start][0] for i in flying]
            pairs = zip(flying, at, strict=True)
            found = [i for i, hint in pairs if parts[i].flight.awaited in (None, hint)]
            if found or (found := self._block(flying)):
                return found

    def _block(self, flying: list[int]) -> list[int]:
        """Sleeps until a worker has something to say, at most for a slice of time."""
        workers = {index: self.parts[index].own.start for index in flying}
        crew = [self._lockstep.workers[worker] for worker in workers.values()]
        woken = self._lockstep.flight.woken(crew, SLICE_S)
        if not woken:
            for index in flying:
                self.parts[index].flight.check_deadlines()
        return [index for index in flying if workers[index] in woken]

    def end(self) -> None:
        """Makes one lockstep of the parts again; all have taken equally many steps."""
        self._engine.unite(self.parts)


def fill_paced(
    session: Given,
    books: Books,
    policy: AnyPolicy,
    horizon: int,
    seed: int | None,
    counter: int | None,
    out: Rollout | None,
    pace: Pace,
) -> Rollout:
    """Fills a rollout at a pace other than lockstep; see `collect_rollout` for the arguments."""
    actor = as_policy(policy, session.single_action_space)
    observations = begin_collecting(session, books, horizon, seed, counter)
    envs = envs_of(session)
    # All of it at once: parts are at different steps.
    noise = noise_for(actor, books.noise_seed, books.noise_counter, envs, horizon)
    start = books.episode_lengths == 0
    decision = actor.act(observations, noise=noise[0], episode_start=start, envs=envs)
    rollout = rollout_for(session, horizon, observations, dtypes_of(decision), out)
    tree.copy_into(tree.row(rollout.observations, 0), observations)
    rollout.episode_start[...] = False
    rollout.episode_start[0] = start
    actions = store(rollout, 0, decision)
    with session.engine.gate.during("collect"):
        paced = Paced(session, pace)
        run = Run(paced, actor, envs, rollout, books, noise)
        run.begin([tree.row(actions, part.rows.envs) for part in paced.parts])
        run.finish()
        paced.end()
    books.noise_counter += horizon
    rollout.counter = books.noise_counter
    finals, episodes = run.in_order()
    end_rollout(rollout, books, actor, envs, Endings.of(finals), episodes)
    return rollout


class Run:
    """One rollout under way: how far each part has come, and what has ended."""

    def __init__(
        self,
        paced: Paced,
        actor: Policy,
        envs: NDArray[np.int64],
        rollout: Rollout,
        books: Books,
        noise: NDArray[np.float64],
    ) -> None:
        self._paced, self._actor, self._envs, self._rollout = paced, actor, envs, rollout
        self._books, self._noise = books, noise
        self._rows = rollout.step_rows()
        self._slices = [part.rows.envs for part in paced.parts]
        self._t = [0] * len(self._slices)  # steps that each part has completed
        self._finals: list[Final] = []
        self._episodes: list[Episode] = []

    def begin(self, actions: list[Tree]) -> None:
        """Sends every part its first actions."""
        # All of them first: where one is wrong no worker has been told anything.
        checked = [self._paced.check(index, part) for index, part in enumerate(actions)]
        for index, part in enumerate(checked):
            self._paced.begin(index, part)

    def decide(self) -> list[Tree]:
        """Returns the first actions of every part."""
        return self._decide(list(range(len(self._slices))))

    def finish(self) -> None:
        """Steps every part until it has filled its rows."""
        flying = list(range(len(self._slices)))
        taken: list[int] = []
        while flying or taken:
            taken = taken or self._take_all(self._paced.ready(flying), flying)
            going = [index for index in taken if self._t[index] < self._rollout.horizon]
            decided = self._decide(going) if going else []
            taken = self._take_all(flying.copy(), flying) if self._paced.by_turns else []
            for index, part in zip(going, decided, strict=True):
                self._paced.begin(index, self._paced.check(index, part))
            flying += going

    def _take_all(self, ready: list[int], flying: list[int]) -> list[int]:
        """Takes the steps of the parts in `ready`, which are no longer in `flying` then."""
        for index in ready:
            self._take(index)
            flying.remove(index)
        return ready

    def in_order(self) -> tuple[list[Final], list[Episode]]:
        """Returns the finals with their step, and the episodes, as lockstep would have them."""
        self._finals.sort(key=lambda final: (final[0], final[1].envs[0]))
        self._episodes.sort(key=lambda episode: (episode.end_step, episode.env))
        return self._finals, self._episodes

    def _take(self, index: int) -> None:
        """Takes the step of one part, and keeps the books of its environments."""
        t, envs, whole = self._t[index], self._slices[index], self._rows[self._t[index]]
        rows = StepRows(
            tree.row(whole.next_observations, envs),
            whole.rewards[envs],
            whole.terminated[envs],
            whole.truncated[envs],
            whole.valid[envs],
        )
        finals = self._paced.take(index, rows)
        self._t[index] = t + 1
        returns, lengths = self._books.episode_returns, self._books.episode_lengths
        returns[envs] += rows.rewards
        lengths[envs] += 1
        if finals is None:
            return
        values = values_now(self._rollout, self._actor, self._envs, finals)
        self._finals.append((t, finals, values))
        for env in finals.envs.tolist():
            if whole.valid[env]:  # else it did not end, it was lost
                self._episodes.append(Episode(float(returns[env]), int(lengths[env]), env, t))
        returns[finals.envs] = 0.0
        lengths[finals.envs] = 0
        self._rollout.episode_start[t + 1 : t + 2, finals.envs] = True

    def _decide(self, going: list[int]) -> list[Tree]:
        """Asks the policy once for all parts that can go on; returns the actions of each."""
        rollout, places = self._rollout, [(self._t[i], self._slices[i]) for i in going]
        observations = [tree.row(rollout.observations, (t, envs)) for t, envs in places]
        decision = self._actor.act(
            _joined(observations),
            noise=_joined([self._noise[t, envs] for t, envs in places]),
            episode_start=_joined([rollout.episode_start[t, envs] for t, envs in places]),
            envs=_joined([self._envs[envs] for _, envs in places]),
        )
        actions, begin = [], 0
        for t, envs in places:
            end = begin + envs.stop - envs.start
            acts, log_probs, values = (tree.row(one, slice(begin, end)) for one in decision)
            actions.append(store(rollout, t, (acts, log_probs, values), envs))
            begin = end
        return actions


def _joined(parts: list[Tree]) -> Tree:
    return tree.concatenate(parts) if len(parts) > 1 else parts[0]
