"""One session as a source for the collection loop: a lockstep of N = 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np

from vecsess import tree
from vecsess.contract import Finals, StepRows, Transition
from vecsess.tree import Tree

S = TypeVar("S")


class SingleLockstep(Generic[S]):
    """Steps one session, given as three callbacks; its state goes in and comes out of each.

    Args:
        start: takes a seed or None, returns a session.
        observe: takes a session, returns the observation to act on.
        step_checked: takes a session and an action, returns the transition and the session after
            it, which after a done step has been reset.
        action_space: of the environment.
        cast_observation: applied to each observation before the policy or the batch sees it.
        cast_reward: applied to each reward.
        session: one that was started already, or None.

    Example:
        >>> counting = SingleLockstep(
        ...     start=lambda seed: 0,
        ...     observe=lambda count: np.array([float(count)]),
        ...     step_checked=lambda count, action: (
        ...         Transition(count, action, 1.0, count + 1, terminated=False, truncated=False),
        ...         count + 1,
        ...     ),
        ...     action_space=gymnasium.spaces.Discrete(2),
        ... )
        >>> counting.start()
        array([[0.]])
    """

    num_envs = 1

    def __init__(
        self,
        start: Callable[[int | None], S],
        observe: Callable[[S], Tree],
        step_checked: Callable[[S, Any], tuple[Transition, S]],
        action_space: gymnasium.Space[Any],
        *,
        cast_observation: Callable[[Tree], Tree] | None = None,
        cast_reward: Callable[[float], float] | None = None,
        session: S | None = None,
    ) -> None:
        self.single_action_space = action_space
        self._start, self._observe, self._step_checked = start, observe, step_checked
        self._cast_observation = cast_observation
        self._cast_reward = cast_reward
        self._session = session

    @property
    def started(self) -> bool:
        """Whether there is an observation to act on."""
        return self._session is not None

    def start(self, seed: int | None = None) -> Tree:
        """Starts the session; returns its observation, `[1, *obs]`."""
        self._session = self._start(seed)
        return self.observe()

    def observe(self) -> Tree:
        """Returns the observation to act on, `[1, *obs]`."""
        return self._as_row(self._observe(self._held()))

    def step_into(self, actions: Tree, rows: StepRows) -> Finals | None:
        """Does one step with `actions [1, *act]`; fills the rows, all of length 1."""
        # A copy: an environment that keeps or changes its action must not reach the batch.
        action = tree.map_leaves(lambda leaf: leaf[0].copy(), actions)
        transition, self._session = self._step_checked(self._held(), action)
        reward = float(transition.reward)
        rows.rewards[0] = reward if self._cast_reward is None else self._cast_reward(reward)
        rows.terminated[0] = transition.terminated
        rows.truncated[0] = transition.truncated
        rows.valid[0] = transition.valid is None or bool(transition.valid)
        tree.copy_into(rows.next_observations, self.observe())
        if not transition.done:
            return None
        return Finals(np.zeros(1, dtype=np.int64), self._as_row(transition.next_observation))

    def _held(self) -> S:
        assert self._session is not None, "started before it is observed or stepped"
        return self._session

    def _as_row(self, observation: Tree) -> Tree:
        cast = self._cast_observation
        observation = observation if cast is None else cast(observation)
        return tree.map_leaves(lambda leaf: np.array(leaf)[None], observation)
