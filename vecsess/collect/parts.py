"""The workers' parts of a rollout: copied once out of their memory, checked, and noted.

A worker can change its memory at any time, so nothing is looked at there: first it is copied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.endings import Endings, unfinite
from vecsess.collect.policies import Policy, state_keeper
from vecsess.collect.rollout import Rollout
from vecsess.contract import StepRows, Violation
from vecsess.errors import ActionError, ContractViolation, PolicyError, ServerDied, VecsessError
from vecsess.session.acting import Outcome, end_worker
from vecsess.session.actions import ActionCheck
from vecsess.session.engine import Engine
from vecsess.tree import Tree
from vecsess.wire.leaves import assemble
from vecsess.wire.values import Array


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
            if problem is None and outcome.trouble is None:
                outcome.trouble = part.first_trouble()
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

    def first_trouble(self) -> PolicyError | None:
        """Returns what the policy said there that is not finite, if anything is."""
        rollout, envs, worker = self._rollout, self.envs, self.outcome.worker.index
        log_probs, values = rollout.log_probs[:, envs], rollout.values[:, envs]
        error = unfinite("log_probs", log_probs, worker, envs.start)
        return error or unfinite("values", values, worker, envs.start)

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
