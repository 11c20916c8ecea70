"""Brings one environment back: the logged commands again, with a checksum of what each gave."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable

import numpy as np

from vecsess.wire.messages import OVER_BUDGET, Replay, Replayed
from vecsess.wire.slab import Checksum
from vecsess.wire.values import Given
from vecsess.workers.env_host import NO_INFOS, EnvHost, Failures
from vecsess.workers.episodes import load_rng
from vecsess.workers.sources import note_new


def replay(host: EnvHost, command: Replay) -> Replayed:
    """Runs a script on one row, through the very code that ran it first.

    The script's entries are `["reset", seed, options, rng]`, `["episode", number, rng, seed]`,
    `["steps", count, arrays]` with one `[count, *action]` array per leaf, `["set", name, value]`
    and `["make"]`, which builds the environment anew. It stops at the first entry that fails.

    Returns:
        A checksum for every reset and every step, in order.
    """
    run = _Run(host, command.row, command.budget_ms / 1000)
    verbs: dict[str, Callable[..., Failures]] = {
        "reset": run.reset,
        "episode": run.begin_episode,
        "steps": run.step,
        "set": run.set,
        "make": run.make,
    }
    failures: Failures = []
    for verb, *arguments in command.script:
        try:
            failures = verbs[verb](*arguments)
        except Exception as error:  # of a constructor, of a setter
            failures = [host.failure(command.row, error)]
        if failures:
            break
    host.drop_observations()
    checksums = np.array(run.checksums, np.uint64).tobytes()
    return Replayed(command.seq, checksums, failures, note_new())


class _Run:
    """One replay of one row."""

    def __init__(self, host: EnvHost, row: int, budget_s: float) -> None:
        self._host, self._row, self._budget_s = host, row, budget_s
        # In steps; the first one in a process may have to compile, and does not count.
        self._spent_s, self._steps = 0.0, 0
        self._checksum, self._replayed = Checksum(host.views), host.views.replayed
        self._replayed[0] = 0
        self.checksums: list[int] = []

    def reset(self, seed: int | None, options: bytes, rng: Given) -> Failures:
        if rng is not None:
            load_rng(self._host.envs[self._row], rng)
        _, failures = self._host.reset([self._row], [seed], options, NO_INFOS)
        return self._note(failures)

    def begin_episode(self, number: int, rng: Given, seed: int | None) -> Failures:
        return self._note(self._host.begin_episode(self._row, number, rng, seed))

    def step(self, count: int, arrays: list[Given]) -> Failures:
        row, views = self._row, self._host.views
        for step in range(count):
            for field, column in zip(views.actions, arrays, strict=True):
                field[0, row] = column[step]
            began = time.monotonic()
            _, failures = self._host.step(NO_INFOS, [row])
            if self._note(failures):
                return failures
            self._spent_s += time.monotonic() - began if self._steps else 0.0
            self._steps += 1
            if self._spent_s > self._budget_s:
                what = f"{self._steps} steps took {self._spent_s:.2f} s"
                return [[row, OVER_BUDGET, "", what, ""]]
        return []

    def set(self, name: str, value: bytes) -> Failures:
        self._host.envs[self._row].set_wrapper_attr(name, pickle.loads(value))  # noqa: S301  # from the manager
        return []

    def make(self) -> Failures:
        self._host.remake(self._row)
        return []

    def _note(self, failures: Failures) -> Failures:
        if not failures:
            self.checksums.append(self._checksum.of_row(0, self._row))
            self._replayed[0] += 1
        return failures
