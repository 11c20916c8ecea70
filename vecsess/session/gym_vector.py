"""The verbs of `gymnasium.vector.VectorEnv`, those of `AsyncVectorEnv` included."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from vecsess.contract import Finals, StepRows
from vecsess.fleet.infos import Infos
from vecsess.session.calls import Calls
from vecsess.session.conventions import NO_INFOS, Seed
from vecsess.session.engine import Engine
from vecsess.tree import Tree, leaves, map_leaves
from vecsess.wire.code import dumps
from vecsess.wire.values import Array, Fields, Given

StepResult = tuple[Tree, Array, Array, Array, Infos]

# `call` would take them past the session, which would not know what state it is in.
_OWN_VERBS = ("reset", "step", "close", "_setattr", "_check_spaces")


class GymVector(VectorEnv[Any, Any, Any]):
    """A session as Gymnasium's vector environments are used.

    Args:
        engine: what steps the environments.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._gate, self._calls = engine.gate, Calls(engine)
        self._conventions = conventions = engine.terms.conventions
        self._shared: Tree | None = None  # what is given out each time where copy=False
        self._pipes = any(part.piped for part in engine.leaves)
        description = engine.fleet.description
        self.num_envs = engine.n
        self.single_observation_space = description.observation_space
        self.single_action_space = description.action_space
        self.observation_space = description.observation_batch
        self.action_space = batch_space(self.single_action_space, engine.n)
        self.spec = description.spec
        self.render_mode = description.render_mode
        self.metadata = {**description.metadata, "autoreset_mode": conventions.autoreset_mode}
        self.autoreset_mode = conventions.autoreset_mode
        self.observation_mode, self.copy = conventions.observation_mode, conventions.copy

    # --- reset and step --------------------------------------------------------------------------

    def reset(self, *, seed: Seed = None, options: Fields | None = None) -> tuple[Tree, Infos]:
        """Resets every environment, or some of them; abandons what is under way.

        Args:
            seed: an int gives environment i the seed `seed + i`; a sequence one each; None lets
                each go on with its own stream.
            options: passed on to every environment. With a mask `[N]` bool at "reset_mask" only
                those environments are reset where it is True; they get the other options.

        Returns:
            Observations `[N, *obs]` of the space's dtype, and infos as Gymnasium's.

        Raises:
            EnvError: an environment raised; the session can be reset again.
            ContractViolation: an observation is not of its space's form, or not finite.
        """
        with self._gate.during("reset"):
            self.engine.begin_reset("reset", seed, options, self._conventions.info_level)
            return self._given_reset(None)

    def reset_async(self, seed: Seed = None, options: Fields | None = None) -> None:
        """Sends what `reset` sends, without waiting.

        Raises:
            PendingCallError: something else is under way, and no wait for it has timed out.
        """
        with self._gate.during("reset_async"):
            self.engine.begin_reset("reset_async", seed, options, self._conventions.info_level)

    def reset_wait(self, timeout: float | None = None) -> tuple[Tree, Infos]:
        """Waits for what `reset_async` began; returns as `reset` does.

        Args:
            timeout: in seconds; past it the reset stays pending: wait again, or reset.

        Raises:
            NoPendingCallError: `reset_async` was not called.
            TimeoutError: the timeout passed.
        """
        with self._gate.during("reset_wait"):
            return self._given_reset(timeout)

    def step(self, actions: Tree) -> StepResult:
        """Steps every environment; what follows the end of an episode, `autoreset_mode` says.

        Args:
            actions: `[N, *action]`, checked before any worker is told.

        Returns:
            Observations `[N, *obs]`, rewards `[N]` float64, terminations and truncations `[N]`
            bool, and infos. With "same_step" the observation is the reset's where an episode
            ended, and the infos have `final_obs` and `final_info`.

        Raises:
            ActionError: not a batch of the action space; nothing has happened.
            EnvError: an environment raised; reset before the next step.
            ContractViolation: a transition broke the contract; reset before the next step.
            WorkerError: a worker died, missed a deadline, or breached the protocol.
        """
        with self._gate.during("step"):
            self.engine.begin_step(actions, self._conventions.info_level)
            return self._given_step(None)

    def step_async(self, actions: Tree) -> None:
        """Sends the actions without waiting for what comes of them.

        Raises:
            PendingCallError: something is under way.
        """
        with self._gate.during("step_async"):
            self.engine.begin_step(actions, self._conventions.info_level)

    def step_wait(self, timeout: float | None = None) -> StepResult:
        """Waits for what `step_async` began; returns as `step` does.

        Args:
            timeout: in seconds; past it the step stays pending: wait again, or reset.

        Raises:
            NoPendingCallError: `step_async` was not called.
            TimeoutError: the timeout passed.
        """
        with self._gate.during("step_wait"):
            return self._given_step(timeout)

    def _given_reset(self, timeout_s: float | None) -> tuple[Tree, Infos]:
        observations = self.engine.finish_reset(timeout_s)
        return self._given(observations), self._infos(None)

    def _given_step(self, timeout_s: float | None) -> StepResult:
        rows = self._new_rows()
        finals = self.engine.finish_step(rows, timeout_s)
        infos = self._infos(finals)
        observations = self._given(rows.next_observations)
        return observations, rows.rewards, rows.terminated, rows.truncated, infos

    def _new_rows(self) -> StepRows:
        rows, lockstep = self.engine.new_rows(), self.engine.lockstep
        if self._shared is not None:
            rows.next_observations = self._shared
            lockstep.last = [leaf.copy() for leaf in lockstep.last]
        return rows

    def _infos(self, finals: Finals | None) -> Infos:
        """Returns Gymnasium's dict of arrays with `_key` masks."""
        infos: Infos = {}
        engine = self.engine
        if self._conventions.info_level != NO_INFOS:
            flight = engine.lockstep.flight
            infos = flight.infos.merged(self._add_info, flight.answers, finals)
        if engine.recovery.lost:
            infos["invalid"] = np.zeros(self.num_envs, np.bool_)
            infos["invalid"][list(engine.recovery.lost)] = True
        return infos

    def _given(self, observations: Tree) -> Tree:
        """Returns observations as Gymnasium's own classes give them.

        That is, a tuple of N for what has no fixed shape, and with `copy=False` the same arrays
        each time.
        """
        if not self._conventions.copy:
            if self._shared is None:
                self._shared = observations
            elif observations is not self._shared:
                for shared, leaf in zip(leaves(self._shared), leaves(observations), strict=True):
                    shared[...] = leaf
            observations = self._shared
        if not self._pipes:
            return observations
        return map_leaves(_as_tuple, observations)

    # --- calls -----------------------------------------------------------------------------------

    def call(
        self, name: str, *args: Given, indices: Sequence[int] | None = None, **kwargs: Given
    ) -> tuple[Given, ...]:
        """Calls a method of every environment, or of some.

        Args:
            name: of a method, of the environment or of one of its wrappers; what can't be called
                is returned as it is.
            args: for the method; they travel as pickles.
            indices: of which environments; None for all.
            kwargs: for the method.

        Returns:
            One result for each environment: plain data.

        Raises:
            ValueError: `reset`, `step` and `close` are the session's.
            EnvError: it raised, is not there, or its result is no plain data.
        """
        refuse_own_verbs(name)
        return self.ask("call", name, indices, dumps((args, kwargs)))

    def call_async(
        self, name: str, /, *args: Given, indices: Sequence[int] | None = None, **kwargs: Given
    ) -> None:
        """Sends what `call` sends, without waiting."""
        refuse_own_verbs(name)
        envs = self._calls.chosen(indices)
        packed = [dumps((args, kwargs))] * len(envs)
        with self._gate.during("call_async"):
            self._calls.begin("call", name, envs, packed)

    def call_wait(self, timeout: float | None = None) -> tuple[Given, ...]:
        """Waits for what `call_async` began; returns as `call` does.

        Args:
            timeout: in seconds; past it the call stays pending: wait again, or reset.

        Raises:
            NoPendingCallError: `call_async` was not called.
            TimeoutError: the timeout passed.
        """
        with self._gate.during("call_wait"):
            return self._calls.finish(timeout)

    def get_attr(self, name: str, indices: Sequence[int] | None = None) -> tuple[Given, ...]:
        """Returns an attribute of every environment, or of some: plain data.

        Args:
            name: of an attribute, of the environment or of one of its wrappers. A method is
                called without arguments, as Gymnasium's own classes do.
            indices: of which environments; None for all.
        """
        return self.call(name, indices=indices)

    def set_attr(
        self,
        name: str,
        values: list[Given] | tuple[Given, ...] | Any,
        indices: Sequence[int] | None = None,
    ) -> None:
        """Sets an attribute of every environment, or of some; it outlives a restart too.

        Args:
            name: of the attribute.
            values: a list or a tuple with one for each, or one for all; they travel as pickles.
            indices: of which environments; None for all.

        Raises:
            ValueError: too few values, or too many.
        """
        envs = self._calls.chosen(indices)
        if isinstance(values, list | tuple):
            packed = [dumps(value) for value in values]
        else:
            packed = [dumps(values)] * len(envs)  # once: the log keeps it
        if len(packed) != len(envs):
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(packed)}` values for {len(envs)} environments."
            )
        with self._gate.during("set_attr"):
            self._calls.set(name, envs, packed)

    def render(self) -> tuple[Given, ...]:
        """Returns a frame of every environment, as its `render_mode` has it."""
        return self.ask("read", "render", None, dumps(((), {})))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of each environment's `np_random`."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]  # as Gymnasium's own vector environments
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """A copy of each environment's `np_random`: numbers drawn from it are not drawn there."""
        return self.get_attr("np_random")

    def ask(
        self, verb: str, name: str, indices: Sequence[int] | None, packed: bytes
    ) -> tuple[Given, ...]:
        """Makes a call of one of the message's verbs; returns a result for each environment."""
        envs = self._calls.chosen(indices)
        with self._gate.during("call"):
            self._calls.begin(verb, name, envs, [packed] * len(envs))
            return self._calls.finish(None)


def refuse_own_verbs(name: str) -> None:
    """Raises `ValueError` for a verb of the session itself."""
    if name in _OWN_VERBS:
        raise ValueError(
            f"Trying to call function `{name}` with `call`, use `{name}` directly instead."
        )


def _as_tuple(leaf: Array) -> Given:
    """Returns a leaf as Gymnasium has it: a tuple of N where its values have no fixed shape."""
    return tuple(copy.deepcopy(list(leaf))) if leaf.dtype == object else leaf
