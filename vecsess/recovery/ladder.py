"""The recovery ladder: replay the episode, else from the last seeded reset, else cut it off.

A replay counts only if every checksum in it is the one that was logged. What is cut off is a
marked truncation: its row is invalid, and the trainer is told so.
"""

from __future__ import annotations

import secrets
import warnings

import numpy as np

from vecsess.fleet.launch import Fleet
from vecsess.fleet.reports import failures_of
from vecsess.fleet.sources import compare_sources
from vecsess.fleet.worker import OutOfTimeError, Worker
from vecsess.recovery.accounts import Account, Script
from vecsess.recovery.journal import Journal, NoJournal
from vecsess.recovery.policy import RestartPolicy
from vecsess.recovery.progress import Progress
from vecsess.recovery.reproducer import write_reproducer
from vecsess.wire.messages import OVER_BUDGET, Done, Replay, Replayed, Reset, Step, StepWith
from vecsess.wire.values import FrameError, Plain


class Ladder:
    """Brings environments of successors to where their predecessors' were.

    Args:
        fleet: the workers.
        journal: what the environments were told.
        progress: where each environment stands.
        policy: how long a replay may take, and where reproducers go.

    Attributes:
        lost: environments whose row of the lockstep under way is invalid, and why.
        upcoming: by environment: the seed of a reset that is about to be sent.
        marked: those of them that a row has told of; their next episode has begun.
        unreplayable: environments whose replays have not reproduced.
        root_seed: the seeds of environments that were cut off are derived from it.
        rooted_at: after how many locksteps that was given.
    """

    def __init__(
        self,
        fleet: Fleet,
        journal: Journal | NoJournal,
        progress: Progress,
        policy: RestartPolicy,
    ) -> None:
        self._fleet, self._lockstep = fleet, fleet.lockstep
        self._policy, self._progress = policy, progress
        self.journal = journal
        self.lost: dict[int, str] = {}
        self.marked: set[int] = set()
        self.upcoming: dict[int, int | None] = {}
        self.unreplayable: set[int] = set()
        self.root_seed = secrets.randbits(32)
        self.rooted_at = 0
        # By environment: where it was cut off last, and how many strikes its reset had there.
        self._strikes: dict[int, tuple[tuple[int, int], int]] = {}
        # By generation and environment: what was done, and why which replay failed, so far.
        self._back: dict[tuple[int, int], str] = {}
        self._tried: dict[tuple[int, int, str], str] = {}
        self._rungs: dict[int, str] = {}  # by environment: what reproduced it last

    def bring_back(
        self,
        worker: Worker,
        outcomes: dict[int, str],
        poison: frozenset[int] | set[int] = frozenset(),
    ) -> None:
        """Brings each environment of a successor to where its predecessor's was.

        Raises:
            OutOfTimeError: the caller's time is up; called once more, this goes on where it was.
        """
        message = worker.flight.message(worker) if worker.flight.unread else None
        first = worker.first_env
        again = {env - first: seed for env, seed in self.upcoming.items() if worker.holds(env)}
        if isinstance(message, Reset):
            again = dict(zip(message.rows, message.seeds, strict=True))
        for row in range(worker.rows):
            env, back = worker.first_env + row, self._back
            place = worker.generation, env
            if place in back:
                outcomes[env] = back[place]
                continue
            if row in again:
                self.prepare_reset(env, worker, row, again[row])
                outcomes[env] = "reset"
            elif env in self.lost and env not in self.marked:
                outcomes[env] = self._begin_anew(env, worker, row, self.lost[env])
            elif env in poison:
                path = self._reproduce(env, worker, row)
                why = f"the same step ended its worker twice; reproducer: {path}"
                outcomes[env] = self._begin_anew(env, worker, row, why)
            else:
                outcomes[env] = self.climb(env, worker, row)
            back[place] = outcomes[env]
        self._back.clear()
        self._tried.clear()
        self._place_actions(worker)
        worker.changed = ""
        without = {row for row in range(worker.rows) if worker.first_env + row in self.lost}
        worker.flight.resend(worker, without)

    def prepare_reset(self, env: int, worker: Worker, row: int, seed: int | None) -> None:
        """Gives an environment what a reset depends on: attributes, its own stream."""
        journal = self.journal
        known = seed is None and not worker.changed and env not in self.unreplayable
        accounts = journal.accounts(env) if known else []
        for attempt, account in enumerate(accounts or [journal.settings(env)]):
            if not self._replay(env, worker, row, account, afresh=attempt > 0):
                return

    def climb(self, env: int, worker: Worker, row: int) -> str:
        """Goes down the ladder for one environment; returns what was done."""
        why = self.journal.unreachable
        if worker.changed:
            why = f"{worker.changed} has changed since it was read"
        elif env in self.unreplayable:
            why = "its replays do not reproduce"
        else:
            accounts = self.journal.accounts(env)
            for attempt, account in enumerate(accounts):
                why = self._replay(env, worker, row, account, afresh=attempt > 0)
                if not why:
                    self._rungs[env] = account.rung
                    return f"replayed {account.rung}"
                if worker.changed:
                    break
            if "another" in why:
                self._give_up_replays(env)
        return self._begin_anew(env, worker, row, why)

    def _begin_anew(self, env: int, worker: Worker, row: int, why: str) -> str:
        """Cuts off a successor's episode; its attributes are what its predecessor's were."""
        settings = self.journal.settings(env)
        if settings.script and (failed := self._replay(env, worker, row, settings, afresh=False)):
            why = f"{why}; its attributes were not set again: {failed}"
        message = worker.flight.message(worker) if worker.flight.unread else None
        return self.cut_off(env, why, int(isinstance(message, Step | StepWith)))

    def _replay(self, env: int, worker: Worker, row: int, account: Account, *, afresh: bool) -> str:
        """Replays one environment; returns why that failed, "" where it did not."""
        name = f"{account.rung}, afresh" if afresh else account.rung
        key = worker.generation, env, name
        if key not in self._tried:
            self._tried[key] = self._replay_once(worker, row, account, name, afresh=afresh)
        return self._tried[key]

    def _replay_once(
        self, worker: Worker, row: int, account: Account, name: str, *, afresh: bool
    ) -> str:
        script = [["make"], *account.script] if afresh else account.script
        budget_s = self._policy.replay_budget_s
        try:
            reply = self._lockstep.flight.exchange(
                worker,
                lambda seq: Replay(seq, row, script, int(budget_s * 1000)),
                self._replay_s(script, budget_s),
                Replayed,
                (row, name),
            )
        except FrameError as error:
            return f"its log is too long to be sent: {error}; lower RestartPolicy(log_bytes=...)"
        if changed := compare_sources(worker, reply.sources, self._fleet.began_ns):
            return f"{changed} has changed since it was read"
        if reply.failures:
            _, kind, name, message, _ = reply.failures[0]
            if kind == OVER_BUDGET:
                return (
                    f"{message} in its replay, of {account.steps}, and it was given up; raise "
                    f"RestartPolicy(replay_budget_s={budget_s})"
                )
            return f"its replay failed: {name}: {message}"
        got = np.frombuffer(reply.checksums, np.uint64).tolist()
        expected = account.expected
        if len(got) != len(expected):
            return f"its replay gave {len(got)} of {len(expected)} results"
        for index, (one, other) in enumerate(zip(got, expected, strict=True)):
            if other is not None and one != other:
                return f"its replay gave another result than the first time, at command {index}"
        return ""

    def _replay_s(self, script: Script, budget_s: float) -> float | None:
        """Returns how long to wait for a replay whose steps may take `budget_s` together."""
        timeouts = self._lockstep.flight.timeouts
        waits = [timeouts.step_s]  # for the first step, which does not count
        for verb, *_ in script:
            if verb in ("reset", "episode", "make"):
                waits.append(timeouts.start_s if verb == "make" else timeouts.reset_s)
        known = [wait for wait in waits if wait is not None]
        return budget_s + sum(known) if len(known) == len(waits) else None

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
        if not worker.flight.unread:
            return
        for row in range(worker.rows):
            actions = self.journal.pending_action(worker.first_env + row)
            if actions is None:
                return
            self._lockstep.rows.place_action(worker.first_env + row, actions)

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
            EnvError, ContractViolation: it can't be reset now.
            WorkerError: its worker was lost.
        """
        lockstep = self._lockstep
        worker = lockstep.holder(env)
        row = int(lockstep.rows.row_of[env])
        place = self._progress.time_of(worker.index) - self.rooted_at, ahead
        before, strikes = self._strikes.get(env, (place, 0))
        strikes = strikes if before == place else 0
        seed = self._seed_of(env, place, strikes)
        self._strikes[env] = place, strikes + 1  # a worker that is lost here may be chance, once
        try:
            reply = lockstep.flight.exchange(
                worker,
                lambda seq: Reset(seq, [row], [seed], b"", 0),
                lockstep.flight.timeouts.reset_s,
                Done,
                (row, "cut off"),
            )
        except OutOfTimeError:
            self._strikes[env] = place, strikes
            raise
        errors = failures_of({worker.index: reply}, lockstep.workers)
        if errors:
            self._strikes[env] = place, strikes + 2
            raise errors[0]
        self._strikes[env] = place, strikes
        self._progress.reset([env], ahead)
        self.journal.reset([env], [seed], b"")
        self.lost[env] = why
        return f"truncated: {why}"

    def _seed_of(self, env: int, place: tuple[int, int], strikes: int) -> int:
        """Returns the seed of the episode after one that is cut off.

        It is the same in whatever process, at whatever pace and however often it is cut off there,
        unless it is no good.
        """
        sequence = np.random.SeedSequence([self.root_seed, env, *place, strikes // 2])
        return int(sequence.generate_state(1)[0])

    def _reproduce(self, env: int, worker: Worker, row: int) -> str:
        accounts = self.journal.accounts(env)
        # The one that brought it here before: the quicker one may lead to another state.
        known = [each for each in accounts if each.rung == self._rungs.get(env)] or accounts
        script = known[0].script if known else []
        action = self.journal.pending_action(env)
        if action is None:
            return "none, for there is no log"
        return write_reproducer(
            self._policy.reproducer_dir,
            self._fleet.pickled,
            self._fleet.settings.for_worker(0),
            env,
            [*script, ["steps", 1, _column(action)]],
        )

    def can_bring_back(self, worker: Worker) -> bool:
        """Whether every environment of a worker can be replayed."""
        envs = range(worker.first_env, worker.first_env + worker.rows)
        if not self.unreplayable.isdisjoint(envs):
            return False
        accounts = [self.journal.accounts(env) for env in envs]
        return all(accounts) and worker in self._lockstep.flight.active


def _column(action: list[Plain]) -> list[Plain]:
    return [np.asarray(part)[None] for part in action]
