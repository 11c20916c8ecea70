"""The checked verbs: whole transitions, and steps straight into a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecsess.contract import Finals, StepRows, Transition
from vecsess.errors import StateError
from vecsess.session.conventions import NO_INFOS
from vecsess.session.gate import STARTED
from vecsess.session.gym_vector import GymVector
from vecsess.session.seeds import Seed
from vecsess.tree import Tree, leaves, map_leaves


class CheckedVector(GymVector):
    """A session as collection uses it."""

    @property
    def started(self) -> bool:
        """Whether the environments have been reset and can be stepped."""
        return self._state in STARTED

    def start(self, seed: Seed = None) -> Tree:
        """Resets every environment and returns only the observations `[N, *obs]`.

        What of them has no fixed shape, such as texts, comes as an array of N objects.
        """
        self._begin_reset("reset", seed, None, NO_INFOS)
        return self._finish_reset()

    def observe(self) -> Tree:
        """Returns a copy of the observations to act on next, `[N, *obs]`."""
        self._require("observe", *STARTED)
        return self._read_observations()

    def step_checked(self, actions: Any) -> Transition:
        """Steps every environment and returns the whole transition.

        Args:
            actions: `[N, *action]`, checked before any worker is told.

        Returns:
            A batch `[N, ...]`; `next_observation` is the true one, before any auto-reset.

        Raises:
            As `step` does.
        """
        self._require("step_checked", *STARTED)
        self._require_same_step("step_checked")
        observation = self._read_observations()
        rows = self._new_rows()
        finals = self.step_into(actions, rows)
        following = rows.next_observations
        if finals is not None:
            following = map_leaves(np.copy, following)
            for leaf, last in zip(leaves(following), leaves(finals.observations), strict=True):
                leaf[finals.envs] = last
        return Transition(
            observation,
            actions,
            rows.rewards,
            following,
            rows.terminated,
            rows.truncated,
            rows.valid,
        )

    def step_into(self, actions: Any, rows: StepRows) -> Finals | None:
        """Steps every environment, straight into the caller's arrays: what collection runs on.

        Args:
            actions: `[N, *action]`, checked before any worker is told.
            rows: C-contiguous arrays to write to.

        Returns:
            The final observations of the environments whose episode ended, None where none did.

        Raises:
            As `step` does.
        """
        if not self._same_step:
            self._require_same_step("step_into")
        self._begin_step(actions, NO_INFOS)
        return self._complete_step(rows, None)

    def _require_same_step(self, verb: str) -> None:
        """Refuses what needs the reset in the same step."""
        if not self._same_step:
            mode = self._conventions.autoreset_mode.name.lower()
            raise StateError(
                f"`{verb}`: expected autoreset_mode='same_step', got {mode!r}, where a row may be "
                "a reset and no transition. Use step(), or make the session without autoreset_mode"
            )
