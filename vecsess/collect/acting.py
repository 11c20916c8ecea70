"""Collecting with the policy at the workers: one command a rollout, and the same batch.

Each worker fills its part by itself; the trainer checks the whole of it at once and copies it once.
Whatever goes wrong in a part (its worker dies, an environment raises, a transition breaks the
contract) is dealt with in one way: the part is done again, step by step, from where the rollout
began, through the code that collects at every other pace. So deadlines, replays, budgets, poison,
quarantine and marked truncations have one home. What an error is to be raised for is raised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vecsess import tree
from vecsess.collect.actor import Actor
from vecsess.collect.books import Books, SingleBooks, Tally, begin_collecting, envs_of
from vecsess.collect.endings import Endings, end_rollout, values_of
from vecsess.collect.loop import Run, rollout_for
from vecsess.collect.order import Order
from vecsess.collect.paced import Paced
from vecsess.collect.packing import pack, unpack
from vecsess.collect.parts import Parts
from vecsess.collect.policies import (
    Dtypes,
    Policy,
    as_policy,
    dtypes_of,
    noise_for,
    state_keeper,
)
from vecsess.collect.rollout import Episode, Rollout
from vecsess.errors import ServerDied, VecsessError
from vecsess.fleet.flight import Flight
from vecsess.session.acting import Acting, Outcome
from vecsess.wire.broadcast import parts_of
from vecsess.wire.values import Given


def acting_of(session: Given) -> Acting | None:
    """Returns what has a session's workers act by themselves, None where they can't."""
    if getattr(session, "acting", None) is None:
        session.acting = Acting(session.engine)
    acting: Acting = session.acting
    return acting if acting.possible else None


class Collecting:
    """A rollout that the workers fill: under way from when it is made, until `result`.

    Args:
        session: a vector session whose workers can act, `acting_of` says.
        books: of the session.
        order: what is asked for.
        frozen: the policy may change meanwhile, so what is left to ask is asked of what was sent.
    """

    def __init__(self, session: Given, books: Books, order: Order, *, frozen: bool = False) -> None:
        self._session, self._engine, self._books = session, session.engine, books
        self._acting: Acting = session.acting
        self._order, self._frozen = order, frozen
        self._policy = actor = as_policy(order.policy, session.single_action_space)
        keeper = state_keeper(actor)
        self._observations = begin_collecting(session, books, order)
        self._envs = envs_of(session)
        self._starts = books.episode_lengths == 0
        self._state = None if keeper is None else keeper.get_state(self._envs)
        self._sizes = self._send()
        self._result: Rollout | None = None

    def _send(self) -> list[int]:
        """Has the workers begin; returns the sizes of what was sent."""
        books = self._books
        actor = Actor(
            policy=self._policy,
            contract=self._session.contract,
            seed=books.noise_seed,
            counter=books.noise_counter,
            horizon=self._order.horizon,
            first_env=int(self._envs[0]),
            starts=self._starts,
            state=self._state,
        )
        packed = pack(actor)
        arrays = [] if self._state is None else tree.leaves(self._state)
        shapes = [(array.shape[1:], array.dtype) for array in arrays]
        with self._engine.gate.during("begin_rollout"):
            return self._acting.begin([packed.head, *packed.buffers], self._order.horizon, shapes)

    def result(self) -> Rollout:
        """Waits for the rollout; a second call returns the same.

        Raises:
            PolicyError: the policy raised at a worker, or returned what it must not.
            VecsessError: as for `collect_rollout`.
        """
        if self._result is None:
            try:
                self._result = self._finish()
            except BaseException:
                self._engine.gate.break_off()
                raise
        return self._result

    def _finish(self) -> Rollout:
        policy = self._sent() if self._frozen else self._policy
        with self._engine.gate.during("result"):
            outcomes = self._acting.wait()
            rollout = self._allocate(policy, outcomes)
            parts = Parts(self._engine, rollout, policy, self._envs, self._state)
            for outcome in outcomes:
                parts.take(outcome)
            parts.raise_first()
            endings = parts.endings
            again = parts.again(outcomes)
            if again:
                endings = [*endings, self._again(policy, rollout, again)]
            last = tree.leaves(rollout.last_observations)
            ended = [each.envs for each in parts.endings]
            self._engine.end_rollout(last, np.concatenate([_NONE, *ended]))
        if self._frozen and self._state is not None:
            state = state_keeper(policy).get_state(self._envs)
            state_keeper(self._policy).set_state(self._envs, state)
        self._close(policy, rollout, Endings.joined(endings))
        return rollout

    def _sent(self) -> Policy:
        """Returns the policy as it was sent; what it writes to is its own."""
        fd = self._engine.fleet.supervisor.broadcast.fd
        head, *buffers = parts_of(fd, self._sizes)
        policy: Policy = unpack(bytes(head), buffers).policy
        return policy

    def _allocate(self, policy: Policy, outcomes: list[Outcome]) -> Rollout:
        # `Acting.wait` has seen to it that all who tell dtypes tell the same.
        told = next((outcome.dtypes for outcome in outcomes if outcome.dtypes), ())
        log_probs, values = told or self._probe(policy)
        return rollout_for(
            self._session, self._order, self._observations, self._starts, (log_probs, values)
        )

    def _probe(self, policy: Policy) -> Dtypes:
        """Asks the policy once for its dtypes, where no worker came so far; its state stays."""
        noise = noise_for(policy, self._books.noise_seed, 0, self._envs, 1)[0]
        decision = policy.act(
            self._observations, noise=noise, episode_start=self._starts, envs=self._envs
        )
        if self._state is not None:
            state_keeper(policy).set_state(self._envs, self._state)
        return dtypes_of(decision)

    def _again(self, policy: Policy, rollout: Rollout, again: dict[int, Outcome | None]) -> Endings:
        """Does the parts of some workers from here, step by step, from where the rollout began."""
        books, engine = self._books, self._engine
        stream = books.noise_seed, books.noise_counter
        noise = noise_for(policy, *stream, self._envs, rollout.horizon)
        n = rollout.num_envs
        scratch = SingleBooks(0, 0, np.zeros(n), np.zeros(n, np.int64))
        paced = Paced(self._session, "free", sorted(again))
        run = Run(paced, policy, self._envs, rollout, scratch, noise)
        run.begin(run.decide())
        flights = {part.own.start: part.flight for part in paced.parts}
        outcomes = [each for each in again.values() if each is not None]
        server = next((each.loss for each in outcomes if isinstance(each.loss, ServerDied)), None)
        try:
            if server is not None:
                flights[outcomes[0].worker.index].report(None, server)
            for outcome in outcomes if server is None else []:
                self._bring_back(outcome, flights[outcome.worker.index])
        except VecsessError as error:
            raise engine.located(error) from error.__cause__
        run.finish()
        ended = run.endings()
        if ended.values is None and len(ended.envs):
            envs, observations = self._envs[ended.envs], ended.observations
            ended = replace(ended, values=values_of(rollout, policy, envs, observations))
        for own in paced.slices:
            last = tree.row(rollout.last_observations, own)
            rollout.next_values[-1, own] = values_of(rollout, policy, self._envs[own], last)
        return ended

    def _bring_back(self, outcome: Outcome, flight: Flight) -> None:
        """Replaces a worker whose first step has been sent again."""
        worker, recovery = outcome.worker, self._engine.recovery
        if outcome.loss is None:
            why = "its part of a rollout is done again"
            recovery.recycle({worker.index: why}, lambda _: None)
            return
        env, at = outcome.loss.env, self._acting.last_step(worker)
        flags = outcome.views.flags[:at].copy()
        flight.report(worker, outcome.loss)
        if env is not None:
            recovery.suspect(env, flags[:, env - worker.first_env] != 0)

    def _close(self, policy: Policy, rollout: Rollout, endings: Endings) -> None:
        """Keeps the books, and adds what is known only after the last step."""
        books = self._books
        np.logical_or(
            rollout.terminated[:-1], rollout.truncated[:-1], out=rollout.episode_start[1:]
        )
        episodes = count_episodes(rollout, books, endings)
        books.noise_counter += self._order.horizon
        rollout.counter = books.noise_counter
        end_rollout(rollout, books, policy, self._envs, endings, episodes, valued=True)


@dataclass(frozen=True, slots=True)
class Collected:
    """A rollout that is there already, with the handle of one that is under way."""

    rollout: Rollout

    def result(self) -> Rollout:
        """Returns the rollout."""
        return self.rollout


_NONE = np.zeros(0, np.int64)


def count_episodes(rollout: Rollout, books: Books, endings: Endings) -> list[Episode]:
    """Keeps the books of a whole rollout; returns the episodes that ended in it."""
    tally, everybody = Tally(books), slice(0, rollout.num_envs)
    ends = np.searchsorted(endings.steps, np.arange(rollout.horizon), side="right").tolist()
    begin = 0
    for t, (rewards, end) in enumerate(zip(rollout.rewards, ends, strict=True)):
        tally.count(everybody, rewards)
        if end > begin:
            tally.end(t, endings.envs[begin:end], rollout.valid[t])
        begin = end
    return tally.episodes
