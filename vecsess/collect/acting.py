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
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.actor import Actor
from vecsess.collect.loop import (
    Books,
    Endings,
    SingleBooks,
    begin_collecting,
    end_rollout,
    envs_of,
    rollout_for,
    values_of,
)
from vecsess.collect.paced import Paced, Run
from vecsess.collect.packing import pack, unpack
from vecsess.collect.policies import (
    AnyPolicy,
    Dtypes,
    Policy,
    as_policy,
    dtypes_of,
    noise_for,
    state_keeper,
)
from vecsess.collect.rollout import Episode, Rollout
from vecsess.contract import StepRows, Violation
from vecsess.errors import ActionError, ContractViolation, ServerDied, VecsessError
from vecsess.fleet.flight import Flight
from vecsess.session.acting import Acting, Outcome, end_worker
from vecsess.session.actions import ActionCheck
from vecsess.session.engine import Engine
from vecsess.tree import Tree
from vecsess.wire.broadcast import parts_of
from vecsess.wire.leaves import assemble
from vecsess.wire.values import Array, Given


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
        policy: as for `collect_rollout`.
        horizon: how many locksteps.
        seed: as for `collect_rollout`.
        counter: likewise.
        out: likewise.
        frozen: the policy may change meanwhile, so what is left to ask is asked of what was sent.
    """

    def __init__(
        self,
        session: Given,
        books: Books,
        policy: AnyPolicy,
        horizon: int,
        seed: int | None,
        counter: int | None,
        out: Rollout | None,
        *,
        frozen: bool = False,
    ) -> None:
        self._session, self._engine, self._books = session, session.engine, books
        self._acting: Acting = session.acting
        self._horizon, self._out, self._frozen = horizon, out, frozen
        self._policy = actor = as_policy(policy, session.single_action_space)
        keeper = state_keeper(actor)
        self._observations = begin_collecting(session, books, horizon, seed, counter)
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
            horizon=self._horizon,
            first_env=int(self._envs[0]),
            starts=self._starts,
            state=self._state,
        )
        packed = pack(actor)
        arrays = [] if self._state is None else tree.leaves(self._state)
        shapes = [(array.shape[1:], array.dtype) for array in arrays]
        with self._engine.gate.during("begin_rollout"):
            return self._acting.begin([packed.head, *packed.buffers], self._horizon, shapes)

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
        told = {outcome.dtypes for outcome in outcomes if outcome.dtypes}
        if len(told) > 1:
            raise TypeError(f"expected one dtype of log_probs and values from the policy: {told}")
        log_probs, values = told.pop() if told else self._probe(policy)
        rollout = rollout_for(
            self._session, self._horizon, self._observations, (log_probs, values), self._out
        )
        tree.copy_into(tree.row(rollout.observations, 0), self._observations)
        rollout.episode_start[...] = False
        rollout.episode_start[0] = self._starts
        return rollout

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
        noise = noise_for(policy, books.noise_seed, books.noise_counter, self._envs, self._horizon)
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
        finals, _ = run.in_order()
        ended = Endings.of(finals)
        if ended.values is None and len(ended.envs):
            envs, observations = self._envs[ended.envs], ended.observations
            ended = replace(ended, values=values_of(rollout, policy, envs, observations))
        for own in (part.rows.envs for part in paced.parts):
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
        books.noise_counter += self._horizon
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
    """Keeps the books of a whole rollout; returns the episodes that ended in it.

    The rewards are added one by one, as in lockstep: another order is another sum.
    """
    returns, lengths = books.episode_returns, books.episode_lengths
    begun = -lengths
    episodes: list[Episode] = []
    ended: dict[int, list[int]] = {}
    for t, env in zip(endings.steps.tolist(), endings.envs.tolist(), strict=True):
        ended.setdefault(t, []).append(env)
    for t, rewards in enumerate(rollout.rewards):
        returns += rewards
        for env in ended.get(t, ()):
            if rollout.valid[t, env]:  # else it did not end, it was lost
                episodes.append(Episode(float(returns[env]), t + 1 - int(begun[env]), env, t))
            returns[env], begun[env] = 0.0, t + 1
    lengths[:] = rollout.horizon - begun
    return episodes


class Parts:
    """The workers' parts of one rollout: copied once, checked, and noted.

    Args:
        engine: of the session.
        rollout: what they are copied to.
        policy: gets back the state of the environments that it decided for elsewhere.
        envs: as `envs_of` returns them.
        state: the policy's at the beginning, None where it keeps none.

    Attributes:
        endings: of the parts that are as they should be.
    """

    def __init__(
        self,
        engine: Engine,
        rollout: Rollout,
        policy: Policy,
        envs: NDArray[np.int64],
        state: Tree,
    ) -> None:
        self._engine, self._rollout = engine, rollout
        self._policy, self._envs, self._state = policy, envs, state
        self._errors: list[tuple[int, VecsessError]] = []
        self._refused: set[int] = set()
        self.endings: list[Endings] = []

    def take(self, outcome: Outcome) -> None:
        """Takes one worker's part, or notes why it is none."""
        worker, steps = outcome.worker, outcome.steps
        if outcome.loss is None:
            envs = slice(worker.first_env, worker.first_env + worker.rows)
            part = Part(self._engine, self._rollout, outcome, envs)
            problem = part.first_problem()
            if problem is not None:
                self._react(outcome, *problem)
            elif outcome.trouble is None and self._accept(part):
                return
        if outcome.trouble is not None and worker.index not in self._refused:
            self._errors.append((steps, outcome.trouble))
        self._refused.add(worker.index)

    def _react(self, outcome: Outcome, t: int, error: VecsessError) -> None:
        """Keeps an error that is to be raised; else the part is done again."""
        self._refused.add(outcome.worker.index)
        if self._engine.terms.reactions.to(error) == "raise":
            self._errors.append((t, error))

    def _accept(self, part: Part) -> bool:
        """Notes a part that is as it should be; False where its worker lied about actions."""
        sent = part.sent_actions()
        if sent is None:
            return False
        views, envs = part.outcome.views, part.envs
        recovery = self._engine.recovery
        checksums, firsts = views.checksums.copy(), views.firsts.copy()
        recovery.complete_rollout(part.outcome.worker, sent, part.done, checksums, firsts)
        self._rollout.valid[:, envs] = True
        self._rollout.next_values[-1, envs] = views.last_values
        if self._state is not None:
            arrays = iter([array.copy() for array in views.state])
            state = tree.map_leaves(lambda _: next(arrays), self._state)
            state_keeper(self._policy).set_state(self._envs[envs], state)
        self.endings.append(part.endings())
        return True

    def raise_first(self) -> None:
        """Raises what went wrong first, if anything is to be raised."""
        if self._errors:
            raise min(self._errors, key=lambda pair: pair[0])[1]

    def again(self, outcomes: list[Outcome]) -> dict[int, Outcome | None]:
        """Returns the workers whose part is to be done again; those given up have no outcome.

        One that lives stands somewhere in the midst of it: it is ended.
        """
        known = {outcome.worker.index: outcome for outcome in outcomes}
        again = {}
        for worker in self._engine.lockstep.workers:
            outcome = known.get(worker.index)
            if outcome is None or worker.index in self._refused:
                again[worker.index] = outcome
                if outcome is not None and outcome.loss is None:
                    error = end_worker(self._engine, worker, "its part is done again")
                    outcome.loss = error if isinstance(error, ServerDied) else None
        return again


class Part:
    """One worker's part of a rollout, copied out of memory that it can no longer change.

    Args:
        engine: of the session.
        rollout: where it is copied to.
        outcome: what came of it.
        envs: its environments.

    Attributes:
        done: `[t, n]` bool, where episodes ended.
    """

    def __init__(self, engine: Engine, rollout: Rollout, outcome: Outcome, envs: slice) -> None:
        self._engine, self._rollout = engine, rollout
        self.outcome, self.envs = outcome, envs
        self._steps, views = outcome.steps, outcome.views
        steps, whole = self._steps, self._steps == rollout.horizon
        flags = views.flags[:steps].copy()
        both = flags.view(np.uint8).reshape(*flags.shape, 2) != 0
        self.done: Array = both.any(axis=2)
        rollout.terminated[:steps, envs], rollout.truncated[:steps, envs] = (
            both[..., 0],
            both[..., 1],
        )
        for name in ("rewards", "log_probs", "values"):
            getattr(rollout, name)[:steps, envs] = getattr(views, name)[:steps]
        for target, source in zip(tree.leaves(rollout.actions), views.actions, strict=True):
            target[:steps, envs] = source[:steps]
        fits = steps + 1 - whole  # rows, the first of which is known; the last one lies elsewhere
        for target, source in zip(
            tree.leaves(rollout.observations), views.observations, strict=True
        ):
            target[1:fits, envs] = source[1:fits]
        for target, source in zip(
            tree.leaves(rollout.last_observations), views.observations, strict=True
        ):
            target[envs] = source[steps]
        self._ends, self._rows = np.nonzero(self.done)
        self._finals = [leaf[: len(self._ends)].copy() for leaf in views.finals]
        self._final_values = views.final_values[: len(self._ends)].astype(rollout.values.dtype)

    def first_problem(self) -> tuple[int, VecsessError] | None:
        """Returns what went wrong first in an environment, and at which step."""
        rollout, engine, steps, envs = self._rollout, self._engine, self._steps, self.envs
        last = tree.row(rollout.last_observations, envs)
        seen = [leaf[1:steps, envs] for leaf in tree.leaves(rollout.observations)]
        rewards = rollout.rewards[:steps, envs]
        if not engine.passes(rewards, [*seen, *tree.leaves(last), *self._finals]):
            pairs = zip(seen, tree.leaves(last), strict=True)
            arrays = [np.concatenate([rows, after[None]]) for rows, after in pairs]
            terminated, truncated = (
                flags[:steps, envs] for flags in (rollout.terminated, rollout.truncated)
            )
            rows = StepRows(tuple(arrays), rewards, terminated, truncated, self.done)
            found = engine.first_violation(rows, self._ends, self._finals) if steps else None
            if found is not None:
                return found[0], self._violation(*found)
        if self.outcome.failures:
            error = self.outcome.failures[0]
            if error.env is not None:
                self._locate(error, steps, error.env - envs.start)
            return steps, error
        return None

    def _violation(self, t: int, violation: Violation) -> ContractViolation:
        error = ContractViolation(
            violation.message,
            worker=self.outcome.worker.index,
            env=violation.env + self.envs.start,
            field=violation.field,
        )
        self._locate(error, t, violation.env)
        return error

    def _locate(self, error: VecsessError, t: int, row: int) -> None:
        """Adds episode and step of an environment at step `t` of this part."""
        progress, env = self._engine.progress, self.envs.start + row
        ends = np.flatnonzero(self.done[:t, row])
        error.episode = progress.episodes[env] + len(ends)
        error.step = t - int(ends[-1]) - 1 if len(ends) else t + progress.step_of(env)

    def sent_actions(self) -> list[Array] | None:
        """Returns the actions as the environments got them, None where some are none."""
        engine, steps, envs = self._engine, self._steps, self.envs
        rows = steps * (envs.stop - envs.start)
        flat = tree.map_leaves(
            lambda leaf: leaf[:steps, envs].reshape(rows, *leaf.shape[2:]), self._rollout.actions
        )
        space, contract = engine.fleet.description.action_space, engine.terms.contract
        try:
            checked = ActionCheck(space, rows, contract)(flat)
        except ActionError as error:
            self.outcome.loss = end_worker(engine, self.outcome.worker, str(error))
            return None
        return [leaf.reshape(steps, -1, *leaf.shape[1:]) for leaf in checked]

    def endings(self) -> Endings:
        """Returns where episodes ended, the final observations, and their values."""
        finals = assemble(self._engine.space, iter(self._finals))
        return Endings(self._ends, self._rows + self.envs.start, finals, self._final_values)
