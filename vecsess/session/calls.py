"""Calls to the environments beside reset and step: methods, attributes, and what is only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vecsess.fleet.reports import RESULTS, failures_of, values_of
from vecsess.fleet.worker import Worker
from vecsess.session.engine import Engine
from vecsess.wire.messages import Call
from vecsess.wire.values import Given


class Calls:
    """One call at a time to some environments of a session.

    Args:
        engine: of the session; its gate is the caller's business.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._envs: list[int] = []

    def chosen(self, indices: Sequence[int] | None) -> list[int]:
        """Returns the environments that are meant; a negative index counts from the end."""
        every = range(self._engine.n)
        return list(every) if indices is None else [every[index] for index in indices]

    def begin(self, verb: str, name: str, envs: list[int], packed: list[bytes]) -> None:
        """Sends a call.

        Args:
            verb: of the message `Call`.
            name: of the method or attribute.
            envs: which environments.
            packed: a pickle for each of them.
        """
        arguments = dict(zip(envs, packed, strict=True))

        def message(worker: Worker, seq: int) -> Call | None:
            own = [env for env in envs if worker.holds(env)]
            rows = [env - worker.first_env for env in own]
            data = [arguments[env] for env in own]
            return Call(seq, rows, verb, name, data) if rows else None

        engine = self._engine
        engine.gate.tell()
        self._envs = envs
        engine.lockstep.flight.begin(message, engine.terms.timeouts.step_s)

    def finish(self, timeout_s: float | None) -> tuple[Given, ...]:
        """Waits for the results, one for each environment."""
        engine = self._engine
        engine.gather(engine.lockstep, timeout_s)
        answers, workers = engine.lockstep.flight.answers, engine.lockstep.workers
        results: dict[int, Any] = {}
        for env, what, value in values_of(answers, workers):
            if what == "called":  # also where it raised: it may have changed things before
                engine.recovery.note_call(env)
            elif what in RESULTS:
                results[env] = value
        engine.raise_failures()
        return tuple(results.get(env) for env in self._envs)

    def set(self, name: str, envs: list[int], packed: list[bytes]) -> None:
        """Sets an attribute, and notes it; `packed` are pickles of the values."""
        engine = self._engine
        self.begin("set", name, envs, packed)
        engine.gather(engine.lockstep)
        failures = failures_of(engine.lockstep.flight.answers, engine.lockstep.workers)
        failed = {error.env for error in failures}
        for env, value in zip(envs, packed, strict=True):
            if env in failed:  # a setter that raised may have changed things before
                engine.recovery.note_call(env)
            else:
                engine.recovery.note_set(env, name, value)
        engine.raise_failures()
