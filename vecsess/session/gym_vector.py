"""The verbs of `gymnasium.vector.VectorEnv`, those of `AsyncVectorEnv` included."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import cloudpickle
import numpy as np

from vecsess.contract import StepRows
from vecsess.errors import NoPendingCallError
from vecsess.fleet.reports import Infos, result_of, values_of
from vecsess.fleet.worker import Worker
from vecsess.session.conventions import Seed
from vecsess.session.gate import AT_REST, PENDING, Phase
from vecsess.session.stepping import Array, Stepping
from vecsess.tree import Tree, leaves, map_leaves
from vecsess.wire.messages import Call

StepResult = tuple[Tree, Array, Array, Array, Infos]

# `call` would take them past the session, which would not know what state it is in.
_OWN_VERBS = ("reset", "step", "close", "_setattr", "_check_spaces")


class GymVector(Stepping):
    """A session as Gymnasium's vector environments are used."""

    # --- reset and step --------------------------------------------------------------------------

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Tree, Infos]:
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
        self._begin_reset("reset", seed, options, self._conventions.info_level)
        return self._given_reset(None)

    def reset_async(self, seed: Seed = None, options: dict[str, Any] | None = None) -> None:
        """Sends what `reset` sends, without waiting.

        Raises:
            PendingCallError: something else is under way, and no wait for it has timed out.
        """
        self._begin_reset("reset_async", seed, options, self._conventions.info_level)
        self._unawaited = True

    def reset_wait(self, timeout: float | None = None) -> tuple[Tree, Infos]:
        """Waits for what `reset_async` began; returns as `reset` does.

        Args:
            timeout: in seconds; past it the reset stays pending: wait again, or reset.

        Raises:
            NoPendingCallError: `reset_async` was not called.
            TimeoutError: the timeout passed.
        """
        self._require_pending("reset", Phase.RESETTING)
        return self._given_reset(timeout)

    def step(self, actions: Any) -> StepResult:
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
        self._begin_step(actions, self._conventions.info_level)
        return self._given_step(None)

    def step_async(self, actions: Any) -> None:
        """Sends the actions without waiting for what comes of them.

        Raises:
            PendingCallError: something is under way.
        """
        self._begin_step(actions, self._conventions.info_level, "step_async")
        self._unawaited = True

    def step_wait(self, timeout: float | None = None) -> StepResult:
        """Waits for what `step_async` began; returns as `step` does.

        Args:
            timeout: in seconds; past it the step stays pending: wait again, or reset.

        Raises:
            NoPendingCallError: `step_async` was not called.
            TimeoutError: the timeout passed.
        """
        self._require_pending("step", Phase.STEPPING)
        return self._given_step(timeout)

    def _given_reset(self, timeout_s: float | None) -> tuple[Tree, Infos]:
        observations = self._finish_reset(timeout_s)
        return self._given(observations), self._infos(None)

    def _given_step(self, timeout_s: float | None) -> StepResult:
        rows = self._new_rows()
        finals = self._complete_step(rows, timeout_s)
        infos = self._infos(finals) if finals is not None or self._lockstep.answers else {}
        observations = self._given(rows.next_observations)
        return observations, rows.rewards, rows.terminated, rows.truncated, infos

    def _new_rows(self) -> StepRows:
        rows = super()._new_rows()
        if self._shared is not None:
            rows.next_observations = self._shared
            self._lockstep.last = [leaf.copy() for leaf in self._lockstep.last]
        return rows

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
        self, name: str, *args: Any, indices: Sequence[int] | None = None, **kwargs: Any
    ) -> tuple[Any, ...]:
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
        self.call_async(name, *args, indices=indices, **kwargs)
        return self.call_wait()

    def call_async(
        self, name: str, /, *args: Any, indices: Sequence[int] | None = None, **kwargs: Any
    ) -> None:
        """Sends what `call` sends, without waiting."""
        if name in _OWN_VERBS:
            raise ValueError(
                f"Trying to call function `{name}` with `call`, use `{name}` directly instead."
            )
        envs = self._chosen(indices)
        self._begin_call("call", name, envs, [cloudpickle.dumps((args, kwargs))] * len(envs))
        self._unawaited = True

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Waits for what `call_async` began; returns as `call` does.

        Args:
            timeout: in seconds; past it the call stays pending: wait again, or reset.

        Raises:
            NoPendingCallError: `call_async` was not called.
            TimeoutError: the timeout passed.
        """
        self._require_pending("call", Phase.CALLING)
        return self._finish_call(timeout)

    def get_attr(self, name: str, indices: Sequence[int] | None = None) -> tuple[Any, ...]:
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
        values: list[Any] | tuple[Any, ...] | Any,
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
        envs = self._chosen(indices)
        each = values if isinstance(values, list | tuple) else [values] * len(envs)
        if len(each) != len(envs):
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(each)}` values for {len(envs)} environments."
            )
        packed = [cloudpickle.dumps(value) for value in each]
        self._begin_call("set", name, envs, packed)
        self._finish_call(None)
        for env, value in zip(envs, packed, strict=True):
            self._recovery.note_set(env, name, value)

    def render(self) -> tuple[Any, ...]:
        """Returns a frame of every environment, as its `render_mode` has it."""
        envs = self._chosen(None)
        self._begin_call("read", "render", envs, [cloudpickle.dumps(((), {}))] * len(envs))
        return self._finish_call(None)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of each environment's `np_random`."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]  # as Gymnasium's own vector environments
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """A copy of each environment's `np_random`: numbers drawn from it are not drawn there."""
        return self.get_attr("np_random")

    def _chosen(self, indices: Sequence[int] | None) -> list[int]:
        """Returns the environments that are meant; a negative index counts from the end."""
        if indices is None:
            return list(range(self.num_envs))
        return [range(self.num_envs)[index] for index in indices]

    def _begin_call(self, verb: str, name: str, envs: list[int], packed: list[bytes]) -> None:
        self._require("set_attr" if verb == "set" else "call_async", *AT_REST)
        arguments = dict(zip(envs, packed, strict=True))

        def message(worker: Worker, seq: int) -> Call | None:
            own = [env for env in envs if worker.holds(env)]
            rows = [env - worker.first_env for env in own]
            data = [arguments[env] for env in own]
            return Call(seq, rows, verb, name, data) if rows else None

        self._called, self._before_call = envs, self._state
        self._state = Phase.CALLING
        self._lockstep.begin(message, self._timeouts.step_s)

    def _finish_call(self, timeout_s: float | None) -> tuple[Any, ...]:
        before = self._before_call
        self._gather(self._lockstep, timeout_s)
        self._state = before
        self._raise_failures(self._lockstep, before)
        results: dict[int, Any] = {}
        for env, what, value in values_of(self._lockstep.answers, self._lockstep.workers):
            if what == "called":
                self._recovery.note_call(env)
            else:
                results[env] = result_of(what, value, env)
        return tuple(results.get(env) for env in self._called)

    def _require_pending(self, what: str, phase: Phase) -> None:
        """Raises the error for a wait where there is nothing to wait for."""
        self._require(f"{what}_wait", *PENDING, *AT_REST)
        if self._state is not phase:
            raise NoPendingCallError(
                f"Calling `{what}_wait` without any prior call to `{what}_async`.", what
            )


def _as_tuple(leaf: Array) -> Any:
    """Returns a leaf as Gymnasium has it: a tuple of N where its values have no fixed shape."""
    return tuple(copy.deepcopy(list(leaf))) if leaf.dtype == object else leaf
