"""What is sent to the workers to decide there: the policy, its noise, and the checks of it.

A worker knows `vecsess.wire` alone; what it needs of the rest comes with this object's pickle, and
is imported once the first one arrives. So the checks are the trainer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.collect.policies import Dtypes, Policy, dtypes_of, fitting, noise_for, state_keeper
from vecsess.contract import Contract
from vecsess.session.actions import ActionCheck
from vecsess.tree import Tree
from vecsess.wire.leaves import all_leaves_of, assemble, pick
from vecsess.wire.values import Array, Space


@dataclass(eq=False)
class Actor:
    """Decides for the environments of whichever worker has it.

    Attributes:
        policy: as `as_policy` returns it.
        contract: says what becomes of actions out of bounds.
        seed, counter: of the noise of the first step.
        horizon: how many steps.
        first_env: of the session; a part of a larger one begins at another than 0.
        starts: `[N]` bool, whose first observation is a reset's.
        state: tree of `[N, ...]`, the policy's; None where it keeps none.
    """

    policy: Policy
    contract: Contract
    seed: int
    counter: int
    horizon: int
    first_env: int
    starts: NDArray[np.bool_]
    state: Tree

    def begin(self, rows: slice, observation_space: Space, action_space: Space) -> Array:
        """Prepares for one worker's environments; returns where an episode starts, `[n]` bool.

        Args:
            rows: which of the session's environments they are.
            observation_space: of one of them.
            action_space: likewise.
        """
        envs = self._envs = np.arange(rows.start, rows.stop) + self.first_env
        self._noise = noise_for(self.policy, self.seed, self.counter, envs, self.horizon)
        self._observation_space = observation_space
        self._action_space, leaves = action_space, list(all_leaves_of(action_space))
        self._shapes = [(leaf.path, (len(envs), *leaf.shape), leaf.dtype) for leaf in leaves]
        self._check = ActionCheck(action_space, len(envs), self.contract)
        self._dtypes: Dtypes | None = None
        if self.state is not None:
            state_keeper(self.policy).set_state(envs, tree.row(self.state, rows))
        return self.starts[rows]

    def decide(
        self, t: int, observations: list[Array], starts: Array
    ) -> tuple[list[Array], Sequence[Array]]:
        """Returns actions as they are sent, one array a leaf; and what to note of the decision.

        Args:
            t: the step.
            observations: `[n, *leaf]` per leaf.
            starts: `[n]` bool, which of them are a reset's.

        Raises:
            ActionError: actions that are none of the space's.
            TypeError, ValueError: something else that a policy must not return.
        """
        decision = self.policy.act(
            assemble(self._observation_space, iter(observations)),
            noise=self._noise[t],
            episode_start=starts,
            envs=self._envs,
        )
        if self._dtypes is None:
            self._dtypes = dtypes_of(decision)
        actions, log_probs, values = decision
        noted = [
            fitting("actions", pick(actions, path), shape, dtype)
            for path, shape, dtype in self._shapes
        ]
        sent = self._check(assemble(self._action_space, iter(noted)))
        rows, (log_probs_dtype, values_dtype) = self._envs.shape, self._dtypes
        noted.append(fitting("log_probs", log_probs, rows, log_probs_dtype))
        noted.append(fitting("values", values, rows, values_dtype))
        return sent, noted

    @property
    def keeps_state(self) -> bool:
        """Whether values of final observations depend on when they are asked for."""
        return self.state is not None

    def value(self, rows: Array, observations: list[Array]) -> Array:
        """Returns the values `[k]` of observations that are not acted on.

        Args:
            rows: `[k]`, of this worker's environments.
            observations: `[k, *leaf]` per leaf.
        """
        seen = assemble(self._observation_space, iter(observations))
        given = self.policy.value(seen, envs=self._envs[rows])
        assert self._dtypes is not None, "there was a decision before"
        return fitting("values", given, (len(rows),), self._dtypes[1])

    def state_after(self) -> list[Array]:
        """Returns the policy's state of these environments, `[n, ...]` per array."""
        if self.state is None:
            return []
        return tree.leaves(state_keeper(self.policy).get_state(self._envs))
