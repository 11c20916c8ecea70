"""Brings lost environments back, so that the batch comes out as if nothing had happened.

The ladder: replay the episode; else replay from the last seeded reset; else a marked truncation.
A replay counts only if every checksum in it is the one that was logged.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from vecsess.errors import (
    RestartLimitExceeded,
    ServerDied,
    VecsessError,
    WorkerError,
)
from vecsess.fleet.launch import Fleet
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.worker import Worker
from vecsess.recovery.journal import Journal, NoJournal
from vecsess.recovery.ladder import Ladder
from vecsess.recovery.policy import Incident, Reactions, RestartPolicy
from vecsess.recovery.progress import Progress
from vecsess.wire.messages import Close, Done, Step, StepWith

_LOG = logging.getLogger("vecsess")
_TRIES = 4  # how often a worker may be lost again before the lockstep is complete
_ANY_TRIES = 64  # the same, where any number of restarts is allowed: an end nevertheless


class Recovery:
    """Watches a lockstep and brings back what it loses.

    Args:
        fleet: the workers.
        progress: where each environment stands.
        reactions: what is done about each kind of failure.
        policy: how often, and how long.
    """

    def __init__(
        self,
        fleet: Fleet,
        progress: Progress,
        reactions: Reactions,
        policy: RestartPolicy,
    ) -> None:
        self._lockstep = lockstep = fleet.lockstep
        self._fleet, self._reactions = fleet, reactions
        self._policy = policy
        self._progress = progress
        self._journal: Journal | NoJournal = NoJournal()
        if reactions.on_crash == "replay":
            self._journal = Journal(
                lockstep.layout, lockstep.views, progress, self._policy.log_bytes
            )
        self.ladder = Ladder(fleet, self._journal, progress, self._policy)
        # The environments whose row of the lockstep under way is invalid, and why.
        self.lost = self.ladder.lost
        self._reset: tuple[list[int], list[int | None], bytes] = ([], [], b"")
        self.incidents: list[Incident] = []
        self.quarantined: dict[int, str] = {}
        self._restarts: dict[int, deque[float]] = {}
        self._suspects: dict[int, tuple[int, int]] = {}  # env -> where it last killed its worker
        lockstep.flight.watch(self._worker_lost)

    # --- what the session does -------------------------------------------------------------------

    def begin_reset(
        self, envs: list[int], seeds: list[int | None], options: bytes, *, continued: bool
    ) -> None:
        """Notes a reset that is about to be sent; revives dead workers.

        Args:
            envs: the environments that are reset.
            seeds: one for each of them.
            options: a pickle, empty for none.
            continued: the last call was completed, so the log before it still holds.
        """
        self._reset = (envs, seeds, options)
        first = next((seed for seed in seeds if seed is not None), None)
        if first is not None:
            self.ladder.root_seed = abs(first)
        self.lost.clear()
        if not continued:
            self._journal.break_off()
            self._progress.meet()
        for worker in self._lockstep.flight.active:
            if worker.dead and self._fleet.renewable:
                self._fleet.renew(worker)

    def complete_reset(self) -> None:
        """Logs the reset: every environment has answered it."""
        self._progress.reset(self._reset[0])
        self._journal.reset(*self._reset)

    def begin_step(self, actions: list[Any]) -> None:
        """Logs the actions of a lockstep that is about to be sent."""
        if self.lost:
            self.lost.clear()
        if self.quarantined:
            self.lost.update(self.quarantined)
        self._journal.note(actions)

    def complete_step(self, ended: Any) -> None:
        """Logs what came of the lockstep; `ended [K]` are the environments whose episode did."""
        self._journal.complete(self._progress.complete(ended))

    def begin_part(self, part: Lockstep, actions: list[Any]) -> None:
        """Does what `begin_step` does, for workers that go at their own pace."""
        for env in range(part.rows.envs.start, part.rows.envs.stop):
            self.lost.pop(env, None)
            if env in self.quarantined:
                self.lost[env] = self.quarantined[env]
        self._journal.note(actions, part.rows.envs, part.own.start)

    def complete_part(self, part: Lockstep, ended: Any) -> None:
        """Does what `complete_step` does, for workers that go at their own pace."""
        self._journal.complete_part(self._progress.complete_part(ended, part.own), part.own)

    def meet(self) -> None:
        """All workers have come to the same lockstep again."""
        self._progress.meet()

    def note_set(self, env: int, name: str, packed: bytes) -> None:
        """Logs that an attribute was set; `packed` is a pickle of its value."""
        self._journal.set(env, name, packed)

    def note_call(self, env: int) -> None:
        """Logs a call that may have changed an environment: its episode can't be replayed."""
        self._journal.called(env)

    def settle(self, error: VecsessError, reaction: str) -> None:
        """Cuts off the episode of an environment that raised or broke the contract.

        Args:
            error: names the environment.
            reaction: "truncate", or "restart" for a new process too.
        """
        env = error.env
        assert env is not None, "a failure names its environment"
        worker = self._lockstep.workers[int(self._lockstep.rows.worker_of[env])]
        incident = self._record(worker, error)
        if reaction == "truncate" or not self._fleet.renewable:
            incident.outcomes[env] = self.ladder.cut_off(env, str(error))
            return
        self.lost[env] = str(error)
        self._fleet.renew(worker)
        worker.flight.unread = True  # the others of its group take this step a second time
        self.ladder.bring_back(worker, incident.outcomes)
        worker.flight.gather()

    # --- workers that are due --------------------------------------------------------------------

    def begin_recycling(self, due: dict[int, str], close_s: float) -> dict[int, str]:
        """Lets workers close their environments before the next step is sent.

        Args:
            due: why, by worker.
            close_s: how long that may take; what is left then is killed.

        Returns:
            Those of `due` whose environments can be brought back.
        """
        workers = self._lockstep.workers
        kept = {index for index in due if not self.ladder.can_bring_back(workers[index])}
        for index in due.keys() - kept:
            with contextlib.suppress(WorkerError):  # it is replaced in any case
                self._lockstep.flight.exchange(workers[index], Close, close_s, Done)
        return {index: why for index, why in due.items() if index not in kept}

    def recycle(self, due: dict[int, str], on_ready: Callable[[Worker], None]) -> None:
        """Replaces workers that were told to close, once the next step has been sent.

        Args:
            due: why, by worker.
            on_ready: called with each that stands again.
        """
        for index, why in due.items():
            worker = self._lockstep.workers[index]
            done = Incident(why, "Recycled", index, worker.generation, None)
            try:
                self._fleet.renew(worker)
                self.ladder.bring_back(worker, done.outcomes)
                on_ready(worker)
            except WorkerError as error:
                self._worker_lost(worker, error)
            _LOG.info("worker %d: %s; %s", index, why, done.outcomes)

    # --- checkpoints -----------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Returns the log and what else later recoveries depend on, as plain data.

        Raises:
            StateError: there is no log to take it from.
        """
        lockstep = self._lockstep
        return {
            "progress": self._progress.dump(),
            "journal": self._journal.dump(lockstep.rows.worker_of, lockstep.rows.row_of),
            "root_seed": self.ladder.root_seed,
            "truncations": self.ladder.truncations,
            "unreplayable": sorted(self.ladder.unreplayable),
        }

    def load(self, plain: dict[str, Any]) -> dict[int, str]:
        """Brings every environment to where `dump` found it.

        Returns:
            Those that could not be brought back, and why; they have begun new episodes.
        """
        lockstep = self._lockstep
        self._progress.load(plain["progress"])
        self._journal.load(plain["journal"], lockstep.rows.worker_of, lockstep.rows.row_of)
        self.ladder.root_seed, self.ladder.truncations = plain["root_seed"], plain["truncations"]
        self.ladder.unreplayable = set(plain["unreplayable"])
        for worker in lockstep.workers:
            for row in range(worker.rows):
                self.ladder.climb(worker.first_env + row, worker, row, ahead=0)
        failed = dict(self.ladder.lost)
        self.ladder.lost.clear()
        return failed

    # --- a lost worker ---------------------------------------------------------------------------

    def _worker_lost(self, worker: Worker | None, error: WorkerError) -> None:
        """Brings a worker back and sends it what it was lost in, or raises."""
        if self._reactions.on_crash == "raise":
            raise error
        began = time.monotonic()
        poison = self._suspect(worker, error.env)
        deaths: dict[int, list[int]] = {}  # by environment: where its replays ended successors
        tries = _ANY_TRIES if self._policy.max_restarts is None else _TRIES
        for attempt in range(tries):
            worker = None if isinstance(error, ServerDied) else worker
            incident = self._record(worker, error)
            try:
                self._spend(worker, error)
                self._restore(worker, incident, poison)
            except RestartLimitExceeded:
                if self._reactions.on_limit == "raise" or worker is None:
                    raise
                self._quarantine(worker, incident)
                return
            except WorkerError as again:
                if attempt == tries - 1:
                    raise
                error = again
                if again.env is not None and again.worker is not None:
                    where = int(self._lockstep.views.replayed[again.worker])
                    before = deaths.setdefault(again.env, [])
                    # Elsewhere it may be chance, once more: whoever killed it is about.
                    if where in before or len(before) > 1:
                        poison = poison | {again.env}
                    before.append(where)
            else:
                break
        incident.duration_s = time.monotonic() - began
        _LOG.warning("%s; %s", incident.what, incident.outcomes)

    def _restore(self, worker: Worker | None, incident: Incident, poison: set[int]) -> None:
        """Starts the successor of a worker, or of all, and brings its environments back."""
        self._fleet.renew(worker)
        for one in self._lockstep.flight.active if worker is None else [worker]:
            one.losses += 1
            self.ladder.bring_back(one, incident.outcomes, poison)

    def _suspect(self, worker: Worker | None, env: int | None) -> set[int]:
        """Returns the environment if this is the second time that this very step kills."""
        if worker is None or env is None:
            return set()
        if not isinstance(worker.flight.message(worker), Step | StepWith):
            return set()
        place = self._journal.place(env)
        if place is None:
            return set()
        if self._suspects.get(env) == place:
            return {env}
        self._suspects[env] = place
        return set()

    def _spend(self, worker: Worker | None, error: WorkerError) -> None:
        """Counts a restart against the policy; waits where there were some lately."""
        policy, now = self._policy, time.monotonic()
        recent = self._restarts.setdefault(-1 if worker is None else worker.index, deque())
        while recent and now - recent[0] > policy.within_s:
            recent.popleft()
        if policy.max_restarts is not None and len(recent) >= policy.max_restarts:
            raise RestartLimitExceeded(
                f"lost {len(recent) + 1} times within {policy.within_s} s; last: {error.message}. "
                "Mend the environment, or allow more with RestartPolicy(max_restarts=...)",
                worker=error.worker,
                env=error.env,
            ) from error
        in_a_row = sum(1 for since in recent if now - since < policy.max_backoff_s)
        recent.append(now)
        if in_a_row and policy.max_restarts is not None:
            wait_s = min(policy.backoff_s * 2 ** (in_a_row - 1), policy.max_backoff_s)
            time.sleep(wait_s * (1 + random.random() / 4))  # jitter, not a secret

    def _quarantine(self, worker: Worker, incident: Incident) -> None:
        """Leaves a worker's rows masked from now on; the others go on."""
        worker.flight.retire(worker)
        if worker in self._lockstep.flight.active:
            self._lockstep.flight.retire(worker)
        for env in range(worker.first_env, worker.first_env + worker.rows):
            self.quarantined[env] = self.lost[env] = incident.outcomes[env] = "quarantined"
        _LOG.error("worker %d is quarantined: %s", worker.index, incident.what)

    def _record(self, worker: Worker | None, error: VecsessError) -> Incident:
        index, generation = (-1, 0) if worker is None else (worker.index, worker.generation)
        incident = Incident(str(error), type(error).__name__, index, generation, error.env)
        self.incidents.append(incident)
        return incident
