"""Which calls a session takes when, and what is done where one fails."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import numpy as np
from gymnasium.vector import VectorEnv

from vecsess.contract import Violation
from vecsess.errors import (
    CallTimeout,
    ClosedError,
    ContractViolation,
    PendingCallError,
    ResetNeededError,
    StateError,
    ThreadError,
    VecsessError,
)
from vecsess.fleet.launch import Launched
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.reports import failures_of, warn_once
from vecsess.recovery.losses import Recovery
from vecsess.recovery.policy import Reactions
from vecsess.session.gate import PENDING, Phase

E = TypeVar("E", bound=VecsessError)


class Guarded(VectorEnv[Any, Any, Any]):
    """The phases of a session, its books of episodes, and its failures.

    Args:
        launched: the workers.
        n: how many environments.
        reactions: what is done about each kind of failure.
        recovery: brings lost environments back.
    """

    def __init__(
        self, launched: Launched, n: int, reactions: Reactions, recovery: Recovery
    ) -> None:
        self._thread = threading.get_ident()
        self._lockstep, self._local = launched.lockstep, launched.local
        self._reactions, self._recovery = reactions, recovery
        self._ended = np.zeros(n, np.bool_)  # in their rows until a step or a reset; not same-step
        self._unawaited = False  # whether an asynchronous call is under way that nobody waited for
        self._given_up = False  # whether a wait for what is under way was broken off
        self._episodes = [0] * n  # how many each environment has finished
        self._begun = [0] * n  # the lockstep at which its episode began
        self._warned: set[str] = set()
        self._state = Phase.NEW

    # --- when ------------------------------------------------------------------------------------

    def _require(self, verb: str, *allowed: Phase) -> None:
        """Raises the error that says why this call can't be made now."""
        if threading.get_ident() != self._thread:
            raise ThreadError(
                "expected a call from the thread that made this session, got one from "
                f"{threading.current_thread().name!r}; make a session for each thread"
            )
        if self._state in allowed or self._may_abandon(verb):
            return
        if self._state is Phase.CLOSED:
            raise ClosedError(f"`{verb}`: this session was closed; make a new one")
        if self._state in PENDING:
            pending = PENDING[self._state]
            raise PendingCallError(
                f"Calling `{verb}` while waiting for a pending call to `{pending}` to complete: "
                f"{self._state.value}; wait for it with {pending}_wait(), or reset()",
                pending,
            )
        if self._state is Phase.ENDED:
            ended = np.flatnonzero(self._ended).tolist()
            raise ResetNeededError(
                f"`{verb}`: expected reset() of environments {ended} first: {self._state.value}; "
                "pass options={'reset_mask': mask}"
            )
        raise StateError(f"`{verb}`: expected reset() first: {self._state.value}")

    def _may_abandon(self, verb: str) -> bool:
        """Whether a reset may take the place of what is under way."""
        asked = verb == "reset" or (verb == "reset_async" and self._given_up)
        return asked and self._state in PENDING

    # --- what came back --------------------------------------------------------------------------

    def _gather(self, part: Lockstep, timeout_s: float | None) -> None:
        """Waits for the replies; whatever fails leaves a session that can be reset."""
        self._given_up = self._unawaited = False
        try:
            part.gather(timeout_s)
        except VecsessError as error:
            self._state = Phase.BROKEN
            raise self._located(error) from error.__cause__
        except TimeoutError as error:
            self._given_up = True
            pending = PENDING[self._state]
            raise CallTimeout(
                f"expected all answers within {timeout_s} s; the {pending} is still pending: "
                f"{pending}_wait() again, or reset()"
            ) from error
        except BaseException:  # such as Ctrl-C
            self._given_up = True
            raise

    def _settle_failures(self, part: Lockstep) -> None:
        """Raises what environments raised, or cuts their episodes off, as the session was told."""
        warn_once(part.answers, part.workers, self._warned)
        errors = failures_of(part.answers, part.workers)
        for error in errors:
            form = isinstance(error, ContractViolation)
            reaction = self._reactions.on_violation if form else self._reactions.on_error
            if reaction == "raise":
                self._raise_failures(part)
            self._recovery.settle(self._located(error), reaction)

    def _settle_violation(self, part: Lockstep, violation: Violation) -> None:
        error = self._broken(violation)
        if self._reactions.on_violation == "raise":
            raise error
        self._recovery.settle(error, self._reactions.on_violation)

    def _raise_failures(self, part: Lockstep, then: Phase = Phase.BROKEN) -> None:
        warn_once(part.answers, part.workers, self._warned)
        errors = failures_of(part.answers, part.workers)
        if errors:
            self._state = then
            error = self._located(errors[0])
            if len(errors) > 1:
                error.add_note(f"{len(errors) - 1} more environments failed in the same call")
            raise error from (self._local.last_exception if self._local else None)

    def _broken(self, violation: Violation) -> ContractViolation:
        self._state = Phase.BROKEN
        worker = int(self._lockstep.worker_of[violation.env])
        error = ContractViolation(
            violation.message, worker=worker, env=violation.env, field=violation.field
        )
        return self._located(error)

    def _located(self, error: E) -> E:
        """Adds episode and step of the environment that an error names."""
        if error.env is not None:
            error.episode = self._episodes[error.env]
            worker = self._lockstep.workers[int(self._lockstep.worker_of[error.env])]
            steps = self._lockstep.steps if worker.flight is None else worker.flight.steps
            error.step = steps - self._begun[error.env]
        return error
