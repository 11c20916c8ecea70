"""Brings lost environments back, so that the batch comes out as if nothing had happened.

The ladder: replay the episode; else replay from the last seeded reset; else a marked truncation.
A replay counts only if every checksum in it is the one that was logged.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vecsess.errors import (
    RestartLimitExceeded,
    ServerDied,
    StateError,
    VecsessError,
    WorkerError,
)
from vecsess.journal import Account, Journal
from vecsess.launch import Launched
from vecsess.lockstep import Lockstep
from vecsess.reports import failures_of
from vecsess.reproducer import write_reproducer
from vecsess.wire.messages import Close, Done, Replay, Replayed, Reset, Step, StepWith
from vecsess.worker import Worker

_LOG = logging.getLogger("vecsess")
_RESET_TRIES = 3
_TRIES = 4  # how often a worker may be lost again before the lockstep is complete


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPolicy:
    """How often workers may be restarted, as an OTP supervisor's intensity and period.

    Attributes:
        max_restarts: how many restarts of one worker within `within_s`; None for any number.
        within_s: the period, in seconds.
        backoff_s: how long the second restart in a row waits; each further one twice as long,
            with up to a quarter more at random. The first does not wait.
        max_backoff_s: the longest such wait.
        replay_budget_s: how long one replay may take before the ladder goes on.
        log_bytes: how much memory the log of actions and checksums may take.
        reproducer_dir: where the file goes that reproduces a poisonous step; None for the
            system's folder of temporary files.

    Example:
        >>> RestartPolicy(max_restarts=3, within_s=60).max_restarts
        3
    """

    max_restarts: int | None = 10
    within_s: float = 60.0
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0
    replay_budget_s: float = 2.0
    log_bytes: int = 64 << 20
    reproducer_dir: str | None = None


Reaction = Literal["replay", "truncate", "raise"]
FailureReaction = Literal["raise", "truncate", "restart"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reactions:
    """What is done about each kind of failure."""

    on_crash: Reaction = "replay"
    on_error: FailureReaction = "raise"
    on_violation: FailureReaction = "raise"
    on_limit: Literal["raise", "quarantine"] = "raise"

    def __post_init__(self) -> None:
        allowed = {
            "on_crash": ("replay", "truncate", "raise"),
            "on_error": ("raise", "truncate", "restart"),
            "on_violation": ("raise", "truncate", "restart"),
            "on_limit": ("raise", "quarantine"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}: expected one of {values}, got {getattr(self, name)!r}")


@dataclass(slots=True)
class Incident:
    """What went wrong, and what was done about it.

    Attributes:
        what: the error, as text.
        kind: its class, such as "WorkerDied".
        worker: index of the worker; -1 for the fork server.
        generation: the worker's generation that was lost.
        env: the environment that the worker was calling, None between calls.
        outcomes: for each environment of the worker, what was done: "replayed episode",
            "replayed seeded reset", "truncated: ...", "reset".
        duration_s: from the loss to the successor at work.
        time_s: when it was noticed, on the clock of `time.time`.
    """

    what: str
    kind: str
    worker: int
    generation: int
    env: int | None
    outcomes: dict[int, str] = field(default_factory=dict)
    duration_s: float = 0.0
    time_s: float = field(default_factory=time.time)


class Recovery:
    """Watches a lockstep and brings back what it loses.

    Args:
        launched: the workers.
        n: how many environments.
        autoreset_mode: "same_step", "next_step" or "disabled".
        reactions: what is done about each kind of failure.
        policy: how often, and how long.
    """

    def __init__(
        self,
        launched: Launched,
        n: int,
        autoreset_mode: str,
        reactions: Reactions,
        policy: RestartPolicy | None,
    ) -> None:
        self._lockstep = lockstep = launched.lockstep
        self._launched, self._reactions = launched, reactions
        self._policy = policy or RestartPolicy()
        self._journal: Journal | None = None
        if reactions.on_crash == "replay":
            self._journal = Journal(
                lockstep.layout, lockstep.views, n, autoreset_mode, self._policy.log_bytes
            )
        self._root_seed = secrets.randbits(32)
        self._reset: tuple[list[int], list[int | None], bytes] = ([], [], b"")
        self.incidents: list[Incident] = []
        self.lost: dict[int, str] = {}  # env -> why its row of this lockstep is invalid
        self.quarantined: dict[int, str] = {}
        self.unreplayable: set[int] = set()
        self._restarts: dict[int, deque[float]] = {}
        self._suspects: dict[int, tuple[int, int]] = {}  # env -> where it last killed its worker
        self._truncations = 0
        lockstep.watch(self._worker_lost)

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
            self._root_seed = abs(first)
        self.lost.clear()
        if self._journal is not None and not continued:
            self._journal.break_off()
        for worker in self._lockstep.active:
            if worker.dead and self._launched.renew is not None:
                self._launched.renew(worker)

    def complete_reset(self) -> None:
        """Logs the reset: every environment has answered it."""
        if self._journal is not None:
            envs, seeds, options = self._reset
            self._journal.reset(envs, seeds, options, [self._place(env) for env in envs])

    def begin_step(self, actions: list[Any]) -> None:
        """Logs the actions of a lockstep that is about to be sent."""
        if self.lost:
            self.lost.clear()
        if self.quarantined:
            self.lost.update(self.quarantined)
        if self._journal is not None:
            self._journal.note(actions)

    def complete_step(self, ended: Any) -> None:
        """Logs what came of the lockstep; `ended [K]` are the environments whose episode did."""
        if self._journal is not None:
            self._journal.complete(ended)

    def begin_part(self, part: Lockstep, actions: list[Any]) -> None:
        """Does what `begin_step` does, for workers that go at their own pace."""
        for env in range(part.envs.start, part.envs.stop):
            self.lost.pop(env, None)
            if env in self.quarantined:
                self.lost[env] = self.quarantined[env]
        if self._journal is not None:
            self._journal.note(actions, part.envs, part.own.start)

    def complete_part(self, part: Lockstep, ended: Any) -> None:
        """Does what `complete_step` does, for workers that go at their own pace."""
        if self._journal is not None:
            self._journal.complete_part(ended, part.own)

    def meet(self) -> None:
        """All workers have come to the same lockstep again."""
        if self._journal is not None:
            self._journal.meet()

    def note_set(self, env: int, name: str, packed: bytes) -> None:
        """Logs that an attribute was set; `packed` is a pickle of its value."""
        if self._journal is not None:
            self._journal.set(env, name, packed)

    def note_call(self, env: int) -> None:
        """Logs a call that may have changed an environment: its episode can't be replayed."""
        if self._journal is not None:
            self._journal.called(env)

    def settle(self, error: VecsessError, reaction: str) -> None:
        """Cuts off the episode of an environment that raised or broke the contract.

        Args:
            error: names the environment.
            reaction: "truncate", or "restart" for a new process too.
        """
        env = error.env
        assert env is not None, "a failure names its environment"
        worker = self._lockstep.workers[int(self._lockstep.worker_of[env])]
        incident = self._record(worker, error)
        if reaction == "truncate" or self._launched.renew is None:
            incident.outcomes[env] = self.cut_off(env, str(error))
            return
        self.lost[env] = str(error)
        self._launched.renew(worker)
        worker.flight.unread = True  # the others of its group take this step a second time
        self._bring_back(worker, incident, set())
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
        kept = {index for index in due if not self._can_bring_back(workers[index])}
        for index in due.keys() - kept:
            with contextlib.suppress(WorkerError):  # it is replaced in any case
                self._lockstep.exchange(workers[index], Close, close_s)
        return {index: why for index, why in due.items() if index not in kept}

    def recycle(self, due: dict[int, str], on_ready: Callable[[Worker], None]) -> None:
        """Replaces workers that were told to close, once the next step has been sent.

        Args:
            due: why, by worker.
            on_ready: called with each that stands again.
        """
        assert self._launched.renew is not None, "only processes are ever due"
        for index, why in due.items():
            worker = self._lockstep.workers[index]
            done = Incident(why, "Recycled", index, worker.generation, None)
            try:
                self._launched.renew(worker)
                self._bring_back(worker, done, set())
                on_ready(worker)
            except WorkerError as error:
                self._worker_lost(worker, error)
            _LOG.info("worker %d: %s; %s", index, why, done.outcomes)

    def _can_bring_back(self, worker: Worker) -> bool:
        envs = range(worker.first_env, worker.first_env + worker.rows)
        if self._journal is None or not self.unreplayable.isdisjoint(envs):
            return False
        accounts = [self._journal.accounts(env, *self._place(env)) for env in envs]
        return all(accounts) and worker in self._lockstep.active

    # --- checkpoints -----------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Returns the log and what else later recoveries depend on, as plain data.

        Raises:
            StateError: there is no log to take it from.
        """
        if self._journal is None:
            raise StateError(
                "expected on_crash='replay', whose log is what a checkpoint is made of"
            )
        lockstep = self._lockstep
        return {
            "journal": self._journal.dump(lockstep.worker_of, lockstep.row_of),
            "root_seed": self._root_seed,
            "truncations": self._truncations,
            "unreplayable": sorted(self.unreplayable),
        }

    def load(self, plain: dict[str, Any]) -> dict[int, str]:
        """Brings every environment to where `dump` found it.

        Returns:
            Those that could not be brought back, and why; they have begun new episodes.
        """
        if self._journal is None:
            raise StateError("expected on_crash='replay', as the checkpoint was taken with it")
        lockstep = self._lockstep
        self._journal.load(plain["journal"], lockstep.worker_of, lockstep.row_of)
        self._root_seed, self._truncations = plain["root_seed"], plain["truncations"]
        self.unreplayable = set(plain["unreplayable"])
        for worker in lockstep.workers:
            for row in range(worker.rows):
                self._climb(worker.first_env + row, worker, row, ahead=0)
        failed = dict(self.lost)
        self.lost.clear()
        return failed

    def _place(self, env: int) -> tuple[int, int]:
        return int(self._lockstep.worker_of[env]), int(self._lockstep.row_of[env])

    # --- a lost worker ---------------------------------------------------------------------------

    def _worker_lost(self, worker: Worker | None, error: WorkerError) -> None:
        """Brings a worker back and sends it what it was lost in, or raises."""
        if self._reactions.on_crash == "raise":
            raise error
        began = time.monotonic()
        poison = self._suspect(worker, error.env)
        for attempt in range(_TRIES):
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
                if attempt == _TRIES - 1:
                    raise
                error = again
                poison = poison | ({again.env} if again.env is not None else set())
            else:
                break
        incident.duration_s = time.monotonic() - began
        _LOG.warning("%s; %s", incident.what, incident.outcomes)

    def _restore(self, worker: Worker | None, incident: Incident, poison: set[int]) -> None:
        """Starts the successor of a worker, or of all, and brings its environments back."""
        assert self._launched.renew is not None, "only processes can be lost"
        self._launched.renew(worker)
        for one in self._lockstep.active if worker is None else [worker]:
            one.losses += 1
            self._bring_back(one, incident, poison)

    def _suspect(self, worker: Worker | None, env: int | None) -> set[int]:
        """Returns the environment if this is the second time that this very step kills."""
        if worker is None or env is None or self._journal is None:
            return set()  # without a journal no step is run a second time
        if not isinstance(worker.flight.message(worker), Step | StepWith):
            return set()
        place = self._journal.place(env)
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

    def _bring_back(self, worker: Worker, incident: Incident, poison: set[int]) -> None:
        """Brings each environment of a successor to where its predecessor's was."""
        message = worker.flight.message(worker) if worker.flight.unread else None
        again = {}
        if isinstance(message, Reset):
            again = dict(zip(message.rows, message.seeds, strict=True))
        for row in range(worker.rows):
            env = worker.first_env + row
            if row in again:
                self._prepare_reset(env, worker, row, again[row])
                incident.outcomes[env] = "reset"
            elif env in self.lost:
                self.cut_off(env, self.lost[env])
            elif env in poison:
                path = self._reproduce(env, worker, row)
                incident.outcomes[env] = self.cut_off(
                    env, f"the same step ended its worker twice; reproducer: {path}"
                )
            else:
                incident.outcomes[env] = self._climb(env, worker, row)
        self._place_actions(worker)
        without = {row for row in range(worker.rows) if worker.first_env + row in self.lost}
        worker.flight.resend(worker, without)

    def _prepare_reset(self, env: int, worker: Worker, row: int, seed: int | None) -> None:
        """Gives an environment what a reset under way depends on: attributes, its own stream."""
        if self._journal is None or env in self.unreplayable:
            return
        if seed is not None:
            accounts = [self._journal.settings(env)]
        else:
            accounts = self._journal.accounts(env, worker.index, row)
        for attempt, account in enumerate(accounts):
            if not self._replay(env, worker, row, account, afresh=attempt > 0):
                return

    def _climb(self, env: int, worker: Worker, row: int, ahead: int | None = None) -> str:
        """Goes down the ladder for one environment; returns what was done."""
        why = "on_crash='truncate'"
        if env in self.unreplayable:
            why = "its replays do not reproduce"
        elif self._journal is not None:
            accounts = self._journal.accounts(env, worker.index, row)
            why = "its log does not reach back, or holds a call that is not pure"
            for attempt, account in enumerate(accounts):
                why = self._replay(env, worker, row, account, afresh=attempt > 0)
                if not why:
                    return f"replayed {account.rung}"
            if "another" in why:
                self._give_up_replays(env)
        return self.cut_off(env, why, int(worker.flight.unread) if ahead is None else ahead)

    def _replay(self, env: int, worker: Worker, row: int, account: Account, *, afresh: bool) -> str:
        """Replays one environment; returns why that failed, "" where it did not."""
        script = [["make"], *account.script] if afresh else account.script
        budget_s = self._policy.replay_budget_s
        reply = self._lockstep.exchange(
            worker,
            lambda seq: Replay(seq, row, script, int(budget_s * 1000)),
            self._lockstep.replay_s(budget_s),
        )
        if not isinstance(reply, Replayed):
            return "the worker did not replay"
        if reply.failures:
            return f"its replay failed: {reply.failures[0][1:4]}"
        got = np.frombuffer(reply.checksums, np.uint64).tolist()
        expected = account.expected
        if len(got) != len(expected):
            return f"its replay gave {len(got)} of {len(expected)} results"
        for index, (one, other) in enumerate(zip(got, expected, strict=True)):
            if other is not None and one != other:
                return f"its replay gave another result than the first time, at command {index}"
        return ""

    def _give_up_replays(self, env: int) -> None:
        self.unreplayable.add(env)
        warnings.warn(
            f"env {env}: a replay did not reproduce its episode, so it is truncated from now on "
            "when its worker is lost; randomness outside of np_random is the usual cause",
            UserWarning,
            stacklevel=2,
        )

    def _place_actions(self, worker: Worker) -> None:
        """Puts the actions of the lockstep under way into a successor's range."""
        if not isinstance(worker.flight.message(worker), Step | StepWith):
            return
        if self._journal is None or not worker.flight.unread:
            return
        for row in range(worker.rows):
            actions = self._journal.pending_action(worker.first_env + row)
            for array, action in zip(self._lockstep.views.actions, actions, strict=True):
                array[worker.index, row] = action

    # --- a lost row ------------------------------------------------------------------------------

    def cut_off(self, env: int, why: str, ahead: int = 1) -> str:
        """Ends an environment's episode as a marked truncation and starts another.

        Args:
            env: its worker is alive and owes no reply.
            why: goes into `lost` and the incident.
            ahead: 1 where this takes the place of a step, 0 between two.

        Returns:
            What was done, for the incident.

        Raises:
            EnvError: it can't be reset any more.
        """
        lockstep = self._lockstep
        worker = lockstep.workers[int(lockstep.worker_of[env])]
        row = int(lockstep.row_of[env])
        for _ in range(_RESET_TRIES):
            self._truncations += 1
            sequence = np.random.SeedSequence([self._root_seed, env, self._truncations])
            seed = int(sequence.generate_state(1)[0])
            reply = lockstep.exchange(
                worker,
                lambda seq, seed=seed: Reset(seq, [row], [seed], b"", 0),  # type: ignore[misc]
                lockstep.reset_s,
            )
            assert isinstance(reply, Done), "a reset is answered by Done"
            errors = failures_of({worker.index: reply}, lockstep.workers)
            if not errors:
                break
        else:
            raise errors[0]
        if self._journal is not None:
            self._journal.reset([env], [seed], b"", [(worker.index, row)], ahead)
        self.lost[env] = why
        return f"truncated: {why}"

    def _reproduce(self, env: int, worker: Worker, row: int) -> str:
        if self._journal is None:
            return "none, for there is no log"
        accounts = self._journal.accounts(env, worker.index, row)
        script = accounts[0].script if accounts else []
        action = self._journal.pending_action(env)
        return write_reproducer(
            self._policy.reproducer_dir,
            self._launched.pickled,
            self._launched.settings or {},
            env,
            [*script, ["steps", 1, _column(action)]],
        )

    def _quarantine(self, worker: Worker, incident: Incident) -> None:
        """Leaves a worker's rows masked from now on; the others go on."""
        worker.flight.retire(worker)
        if worker in self._lockstep.active:
            self._lockstep.retire(worker)
        for env in range(worker.first_env, worker.first_env + worker.rows):
            self.quarantined[env] = self.lost[env] = incident.outcomes[env] = "quarantined"
        _LOG.error("worker %d is quarantined: %s", worker.index, incident.what)

    def _record(self, worker: Worker | None, error: VecsessError) -> Incident:
        index, generation = (-1, 0) if worker is None else (worker.index, worker.generation)
        incident = Incident(str(error), type(error).__name__, index, generation, error.env)
        self.incidents.append(incident)
        return incident


def _column(action: list[Any]) -> list[Any]:
    return [np.asarray(part)[None] for part in action]
