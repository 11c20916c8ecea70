"""Brings lost environments back, so that the batch comes out as if nothing had happened.

The ladder: replay the episode; else replay from the last seeded reset; else a marked truncation.
A replay counts only if every checksum in it is the one that was logged.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vecsess.errors import RestartLimitExceeded, VecsessError, WorkerError
from vecsess.fleet.launch import Fleet
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.worker import OutOfTimeError, Worker
from vecsess.recovery.budget import Budget
from vecsess.recovery.journal import Journal, NoJournal
from vecsess.recovery.ladder import Ladder
from vecsess.recovery.policy import Incident, Reactions, RestartPolicy
from vecsess.recovery.progress import Progress
from vecsess.wire.messages import Close, Done, Step, StepWith
from vecsess.wire.values import Fields, Plain

_LOG = logging.getLogger("vecsess")
_INCIDENT_CHARACTERS = 2000  # of an error that an incident keeps: sessions live long


@dataclass(slots=True)
class _Repair:
    """What is being brought back, and how far that is.

    Attributes:
        lost: the workers to bring back; those that are dead are replaced.
        error: why; None once all is where it should be.
        cut: an environment whose episode is cut off in the process where it lives.
        poison: environments whose step under way is not tried again.
        incident: the record of `error`, None before it was counted.
        due_s: until when the backoff lasts.
        deaths: by environment, where its replays ended successors.
    """

    lost: list[Worker]
    error: VecsessError | None
    cut: int | None
    poison: set[int]
    incident: Incident | None = None
    due_s: float = 0.0
    deaths: dict[int, list[int]] = field(default_factory=dict)


class Recovery:
    """Watches a lockstep and brings back what it loses.

    Args:
        fleet: the workers.
        progress: where each environment stands.
        reactions: what is done about each kind of failure.
        policy: how often, and how long.
        blank: what stands in the observations of workers that were given up.
    """

    def __init__(
        self,
        fleet: Fleet,
        progress: Progress,
        reactions: Reactions,
        policy: RestartPolicy,
        blank: float = 0.0,
    ) -> None:
        self._lockstep = lockstep = fleet.lockstep
        self._fleet, self._reactions = fleet, reactions
        self._policy, self._blank = policy, blank
        self._progress = progress
        self._journal: Journal | NoJournal = NoJournal()
        if reactions.on_crash == "replay":
            self._journal = Journal(
                lockstep.layout, lockstep.views, progress, self._policy.log_bytes
            )
        self.ladder = Ladder(fleet, self._journal, progress, self._policy)
        # The environments whose row of the lockstep under way is invalid, and why.
        self.lost = self.ladder.lost
        self._marked = self.ladder.marked
        self._anew = True  # whether the reset under way is one of all
        self._reset: tuple[list[int], list[int | None], bytes] = ([], [], b"")
        self.incidents: list[Incident] = []
        self.quarantined: dict[int, str] = {}
        self._repair: _Repair | None = None  # one that the caller had no time for
        self._budget = Budget(policy)
        self._suspects: dict[int, tuple[int, int]] = {}  # env -> where it last killed its worker
        lockstep.flight.watch(self._worker_lost)

    # --- what the session does -------------------------------------------------------------------

    def begin_reset(
        self,
        envs: list[int],
        seeds: list[int | None],
        options: bytes,
        *,
        continued: bool,
        masked: bool = False,
    ) -> None:
        """Notes a reset that is about to be sent; revives dead workers.

        Args:
            envs: the environments that are reset.
            seeds: one for each of them.
            options: a pickle, empty for none.
            continued: the last call was completed, so the log before it still holds.
            masked: it is one of some, as steps with "disabled" need: failures are counted on.
        """
        self._reset, self._anew = (envs, seeds, options), not (masked and continued)
        self._marked.update(envs if continued else self.lost)
        self._forget_marked()
        self._drop_repair()
        if not continued:
            self._journal.break_off()
            self._progress.meet()
            for worker in self._lockstep.workers:
                worker.flight.unread = False  # what was under way is given up
        first = next((seed for seed in seeds if seed is not None), None)
        if first is not None:
            self.ladder.root_seed, self.ladder.rooted_at = abs(first), self._progress.t
        if self._fleet.renewable and not (continued and masked):  # else the others are to go on
            self._revive(dict(zip(envs, seeds, strict=True)))

    def _drop_repair(self) -> None:
        """Leaves one that nobody waited for: those that were not brought back are replaced."""
        repair, self._repair = self._repair, None
        if repair is not None:
            self._leave(repair.lost)

    @staticmethod
    def _leave(lost: list[Worker]) -> None:
        for worker in lost:
            worker.dead = True

    def _revive(self, seeds: dict[int, int | None]) -> None:
        """Replaces what an earlier failure has left dead, before it is reset."""
        active = self._lockstep.flight.active
        lost = [worker for worker in active if worker.dead or not self._fleet.serving]
        if not lost:
            return
        self.ladder.upcoming = seeds
        try:
            self._fleet.renew(lost)
            while lost:
                self.ladder.bring_back(lost[0], {})
                del lost[0]
        except VecsessError as error:
            self._lost_again(lost, error)
        except BaseException:
            self._leave(lost)
            raise
        finally:
            self.ladder.upcoming = {}

    def complete_reset(self) -> None:
        """Logs the reset: every environment has answered it."""
        if self._anew:
            self._budget.begin_anew()
        self._marked.update(set(self._reset[0]) - self.quarantined.keys())
        self._forget_marked()  # what had to be cut off before it could be reset
        self._progress.reset(self._reset[0])
        self._journal.reset(*self._reset)

    def begin_step(self, actions: list[Plain]) -> None:
        """Logs the actions of a lockstep that is about to be sent."""
        if self._marked:
            self._forget_marked()
        if self.quarantined:
            self.lost.update(self.quarantined)
        self._journal.note(actions)

    def mark(self, envs: Iterable[int]) -> None:
        """Notes that the rows of lost environments tell of it."""
        self._marked.update(envs)

    @property
    def unmarked(self) -> set[int]:
        """Those that were cut off between two steps: the next row tells of it."""
        return self.lost.keys() - self._marked - self.quarantined.keys()

    def _forget_marked(self, envs: Iterable[int] | None = None) -> None:
        told = self._marked.copy() if envs is None else self._marked.intersection(envs)
        for env in told:
            self.lost.pop(env, None)
        self._marked.difference_update(told)

    def complete_step(self, ended: Plain) -> None:
        """Logs what came of the lockstep; `ended [K]` are the environments whose episode did."""
        self._journal.complete(self._progress.complete(ended))
        self._budget.note_progress(self._lockstep, self.lost)

    def begin_part(self, part: Lockstep, actions: list[Plain]) -> None:
        """Does what `begin_step` does, for workers that go at their own pace."""
        own = range(part.rows.envs.start, part.rows.envs.stop)
        self._forget_marked(own)
        self.lost.update({env: self.quarantined[env] for env in own if env in self.quarantined})
        self._journal.note(actions, part.rows.envs, part.own.start)

    def complete_part(self, part: Lockstep, ended: Plain) -> None:
        """Does what `complete_step` does, for workers that go at their own pace."""
        self._journal.complete_part(self._progress.complete_part(ended, part.own), part.own)
        self._budget.note_progress(part, self.lost)

    def begin_rollout(self) -> None:
        """Does what `begin_step` does, for steps that the workers decide about themselves."""
        self._forget_marked()
        self.lost.update(self.quarantined)

    def complete_rollout(
        self, worker: Worker, actions: list[Plain], done: Plain, checksums: Plain, firsts: Plain
    ) -> None:
        """Logs all steps of a worker's part of a rollout.

        Args:
            worker: whose environments they are.
            actions: `[T, n, *leaf]` per leaf, as they were sent.
            done: `[T, n]` bool, where episodes ended.
            checksums: `[T, n]` uint64.
            firsts: `[n, words]`, of those whose episode ended, how the last one began.
        """
        envs = slice(worker.first_env, worker.first_env + worker.rows)
        self._journal.add_rollout(worker.index, envs, actions, checksums, firsts, done.any(axis=0))
        self._progress.complete_rollout(worker.index, worker.first_env, done)

    def suspect(self, env: int, done: Plain) -> None:
        """Notes at which step of a rollout an environment ended its worker; once more is poison.

        Args:
            env: which one.
            done: `[t]` bool, where its episodes ended before that step.
        """
        begun = self._progress.begun[env]
        at = self._progress.time_of(self._lockstep.holder(env).index)
        ends = done.nonzero()[0]
        self._suspects[env] = (at + int(ends[-1]) + 1 if len(ends) else begun, at + len(done))

    def meet(self) -> None:
        """All workers have come to the same lockstep again."""
        self._progress.meet()

    def note_set(self, env: int, name: str, packed: bytes) -> None:
        """Logs that an attribute was set; `packed` is a pickle of its value."""
        self._journal.set(env, name, packed)

    def note_call(self, env: int) -> None:
        """Logs a call that may have changed an environment: its episode can't be replayed."""
        self._journal.called(env)

    def settle(self, error: VecsessError, reaction: str, until: float | None = None) -> None:
        """Cuts off the episode of an environment that raised or broke the contract.

        Args:
            error: names the environment.
            reaction: "truncate", or "restart" for a new process too.
            until: when the caller's time is up, on the monotonic clock.

        Raises:
            OutOfTimeError: it is; the next wait goes on with it.
            RestartLimitExceeded: that was tried as often as the policy allows.
            WorkerError: a worker was lost in it, and `on_crash` is "raise".
        """
        env = error.env
        assert env is not None, "a failure names its environment"
        worker = self._lockstep.holder(env)
        self.lost[env] = error.brief
        flight = self._lockstep.flight
        flight.until = until
        try:
            if reaction == "restart" and self._fleet.renewable:
                self._replace(worker)
                self._mend([worker], error)
            else:
                self._mend([worker], error, cut=env)
        except OutOfTimeError:
            flight.put_off()
            raise
        finally:
            flight.until = None
        if worker.flight.unread:
            worker.flight.gather(None if until is None else max(0.0, until - time.monotonic()))

    @staticmethod
    def _replace(worker: Worker) -> None:
        """Has a worker replaced after it answered: its environments take this step once more."""
        worker.dead = worker.flight.unread = True

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
            workers[index].dead = True
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
            worker.dead, lost = True, [worker]
            done = Incident(why, "Recycled", index, worker.generation, None)
            try:
                self._restore(lost, done, set())
                on_ready(worker)
            except VecsessError as error:
                self._lost_again(lost, error)
            _LOG.info("worker %d: %s; %s", index, why, done.outcomes)

    # --- checkpoints -----------------------------------------------------------------------------

    def dump(self) -> Fields:
        """Returns the log and what else later recoveries depend on, as plain data.

        Raises:
            StateError: there is no log to take it from.
        """
        lockstep = self._lockstep
        return {
            "progress": self._progress.dump(),
            "journal": self._journal.dump(lockstep.rows.worker_of, lockstep.rows.row_of),
            "root_seed": self.ladder.root_seed,
            "rooted_at": self.ladder.rooted_at,
            "unreplayable": sorted(self.ladder.unreplayable),
        }

    def load(self, plain: Fields) -> dict[int, str]:
        """Brings every environment to where `dump` found it.

        Returns:
            Those that could not be brought back, and why; they have begun new episodes.
        """
        lockstep = self._lockstep
        self._progress.load(plain["progress"])
        self._journal.load(plain["journal"], lockstep.rows.worker_of, lockstep.rows.row_of)
        self.ladder.root_seed, self.ladder.rooted_at = plain["root_seed"], plain["rooted_at"]
        self.ladder.unreplayable = set(plain["unreplayable"])
        for worker in lockstep.workers:
            try:
                self.ladder.bring_back(worker, {})
            except VecsessError as error:
                self._lost_again([worker], error)
        failed = dict(self.ladder.lost)
        self.ladder.lost.clear()
        return failed

    # --- a lost worker ---------------------------------------------------------------------------

    def _worker_lost(self, worker: Worker | None, error: WorkerError) -> None:
        """Brings a worker back and sends it what it was lost in, or raises; None for all."""
        if self._repair is not None:
            self._finish(self._repair)
            return
        self._lost_again([] if worker is None else [worker], error)

    def _lost_again(self, lost: list[Worker], error: VecsessError) -> None:
        """Does the same for what may have failed while it was brought back."""
        if self._reactions.on_crash == "raise" and isinstance(error, WorkerError):
            raise error
        if error.worker is not None and self._fleet.renewable:
            self._lockstep.workers[error.worker].dead = True
        self._mend(lost, error)

    def _mend(self, lost: list[Worker], error: VecsessError, cut: int | None = None) -> None:
        """Tries until all is where it should be, or the policy is used up: the one place for it.

        Args:
            lost: the workers to bring back; those that are dead are replaced.
            error: why.
            cut: an environment whose episode is cut off in the process where it lives.
        """
        self._finish(_Repair(lost, error, cut, self._suspect(error)))

    def _finish(self, repair: _Repair) -> None:
        """Goes on with a repair until it is done.

        Raises:
            OutOfTimeError: the caller's time was up; the next wait goes on with it.
        """
        self._repair, began = None, time.monotonic()
        incident = repair.incident
        try:
            while repair.error is not None:
                incident = self._count(repair, repair.error)
                self._wait(repair.due_s)
                self._try(repair, incident)
        except OutOfTimeError:
            self._repair = repair
            raise
        finally:
            if incident is not None:
                incident.duration_s += time.monotonic() - began
        if incident is not None:
            _LOG.warning("%s; %s", incident.what, incident.outcomes)

    def _count(self, repair: _Repair, error: VecsessError) -> Incident:
        """Counts why there is a repair against the policy, once; returns the record of it."""
        if repair.incident is not None:
            return repair.incident
        incident = repair.incident = self._record(error)
        try:
            repair.due_s = time.monotonic() + self._budget.spend(error, restart=repair.cut is None)
        except RestartLimitExceeded as limit:
            repair.lost, repair.cut = self._without(repair.lost, error, incident, limit), None
        return incident

    def _try(self, repair: _Repair, incident: Incident) -> None:
        """Tries once; what fails in it is why there is another."""
        cut, error = repair.cut, repair.error
        repair.error = repair.incident = None
        try:
            if cut is None:
                self._restore(repair.lost, incident, repair.poison)
            else:
                incident.outcomes[cut] = self.ladder.cut_off(cut, self.lost[cut])
        except OutOfTimeError:
            repair.error, repair.incident = error, incident
            raise
        except VecsessError as failure:
            repair.error = failure
            if isinstance(failure, WorkerError) and self._reactions.on_crash == "raise":
                raise
            if cut is None and failure.worker is not None:
                self._lockstep.workers[failure.worker].dead = True
            elif cut is not None and isinstance(failure, WorkerError):  # lost in its reset
                self._replace(repair.lost[0])
                repair.cut = None
            repair.poison |= _poisonous(failure, repair.deaths, self._lockstep.views.replayed)

    def _wait(self, due_s: float) -> None:
        """Sleeps through a backoff, as far as the caller's time goes."""
        until = self._lockstep.flight.until
        wakes = due_s if until is None else min(due_s, until)
        time.sleep(max(0.0, wakes - time.monotonic()))
        if wakes < due_s:
            raise OutOfTimeError("a lost worker waits to be replaced, by RestartPolicy(backoff_s)")

    def _restore(self, lost: list[Worker], incident: Incident, poison: set[int]) -> None:
        """Brings back the environments of workers, which are taken from `lost` one by one."""
        if self._fleet.renewable:
            if not self._fleet.serving:
                lost[:] = self._lockstep.flight.active
            fresh = [worker for worker in lost if worker.dead]
            self._fleet.renew(lost)
            for worker in fresh:
                worker.losses += incident.kind != "Recycled"
        try:
            while lost:
                self.ladder.bring_back(lost[0], incident.outcomes, poison)
                del lost[0]
        except (VecsessError, OutOfTimeError):
            raise
        except BaseException:  # a Ctrl-C: those that are not what they were are replaced once more
            self._leave(lost)
            raise

    def _suspect(self, error: VecsessError) -> set[int]:
        """Returns the environment if this is the second time that this very step kills."""
        env, index = error.env, error.worker
        if index is None or env is None or not isinstance(error, WorkerError):
            return set()
        worker = self._lockstep.workers[index]
        if not isinstance(worker.flight.message(worker), Step | StepWith):
            return set()
        place = self._journal.place(env)
        if place is None:
            return set()
        if self._suspects.get(env) == place:
            return {env}
        self._suspects[env] = place
        return set()

    def _without(
        self,
        lost: list[Worker],
        error: VecsessError,
        incident: Incident,
        limit: RestartLimitExceeded,
    ) -> list[Worker]:
        """Goes on without a worker that has reached its limit, or raises; returns who is left."""
        active = self._lockstep.flight.active
        if self._reactions.on_limit == "raise" or error.worker is None or len(active) < 2:
            raise limit
        worker = self._lockstep.workers[error.worker]
        worker.flight.retire(worker)
        if worker in active:
            self._lockstep.flight.retire(worker)
        self._fleet.blank(worker, self._blank)
        for env in range(worker.first_env, worker.first_env + worker.rows):
            self.quarantined[env] = self.lost[env] = incident.outcomes[env] = "quarantined"
        _LOG.error("worker %d is quarantined: %s", worker.index, incident.what)
        return [other for other in lost if other is not worker]

    def _record(self, error: VecsessError) -> Incident:
        index = -1 if error.worker is None else error.worker
        generation = 0 if error.worker is None else self._lockstep.workers[index].generation
        what = str(error)
        if len(what) > _INCIDENT_CHARACTERS:
            half = _INCIDENT_CHARACTERS // 2
            what = f"{what[:half]} ... {what[-half:]}"
        incident = Incident(what, type(error).__name__, index, generation, error.env)
        self.incidents.append(incident)
        return incident


def _poisonous(
    failure: VecsessError, deaths: dict[int, list[int]], replayed: npt.NDArray[np.uint64]
) -> set[int]:
    """Returns the environment whose replay has ended its worker where none can be chance.

    Args:
        failure: of a recovery.
        deaths: by environment, where its replays have ended workers so far; this one is added.
        replayed: `[workers]`, how far the last replay in each has come.
    """
    if failure.env is None or failure.worker is None or not isinstance(failure, WorkerError):
        return set()
    where = int(replayed[failure.worker])
    before = deaths.setdefault(failure.env, [])
    # Elsewhere it may be chance, once more: whoever killed it is about.
    found = {failure.env} if where in before or len(before) > 1 else set()
    before.append(where)
    return found
