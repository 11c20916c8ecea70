"""What a session has told its environments, so that a lost one can be brought back.

Actions are noted before they are sent, checksums when a lockstep is complete; both for all
environments in one strided copy. Resets and attribute changes are rare, and kept as events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from vecsess.errors import StateError
from vecsess.recovery.accounts import EVENT_BYTES, Account, Event, Past
from vecsess.recovery.locksteps import Locksteps
from vecsess.recovery.progress import Progress
from vecsess.wire.slab import Checksum, Layout, Views
from vecsess.wire.values import Array, Fields

_ALL = slice(None)


@dataclass(slots=True)
class Journal:
    """The log of one session, bounded in bytes.

    Args:
        layout: of a worker's range.
        views: the fields of all ranges.
        progress: where each environment stands.
        limit_bytes: past it the oldest locksteps are forgotten.
    """

    layout: Layout
    views: Views
    progress: Progress
    limit_bytes: int
    _locksteps: Locksteps = field(init=False)
    _events: list[list[Event]] = field(init=False)
    _event_bytes: list[int] = field(init=False)  # [N]
    _rng: Array = field(init=False)  # [N, words], before the episode's reset
    _firsts: Array = field(init=False)  # [N, words], the row as it was after the episode's reset
    _checksum: Checksum = field(init=False)
    _places: list[tuple[int, int]] = field(init=False)  # [N] worker and row

    def __post_init__(self) -> None:
        n = len(self.progress.begun)
        self._events = [[] for _ in range(n)]
        self._event_bytes = [0] * n
        self._rng = np.zeros((n, self.views.rng.shape[-1]), np.uint64)
        self._firsts = np.zeros((n, self.views.words.shape[-1]), np.uint64)
        self._checksum = Checksum(self.views)
        grid = workers, _ = self.views.rewards.shape
        self._locksteps = Locksteps(
            self.layout,
            n,
            grid,
            self.limit_bytes,
            lambda: sum(self._event_bytes),
            lambda: min(map(self.progress.time_of, range(workers))),
        )
        counts = [n // workers + (index < n % workers) for index in range(workers)]
        self._places = [(w, row) for w, count in enumerate(counts) for row in range(count)]

    # Why there may be no account of an environment.
    unreachable: ClassVar = "its log does not reach back, or holds a call that is not pure"

    @property
    def size_bytes(self) -> int:
        """What it takes, without texts that go by pipe and what attributes were set to."""
        return self._locksteps.size_bytes + sum(self._event_bytes)

    # --- writing ---------------------------------------------------------------------------------

    def note(self, actions: list[Array], envs: slice = _ALL, worker: int = 0) -> None:
        """Notes the actions of a lockstep that is about to be sent.

        Args:
            actions: `[n, *leaf]` per leaf.
            envs: whose actions these are.
            worker: one of theirs.
        """
        self._locksteps.note(self.progress.time_of(worker), envs, actions)

    def complete(self, began: Array | None) -> None:
        """Takes the checksums of the lockstep that was completed last.

        Args:
            began: the environments whose episode began with it, None where none did.
        """
        self._checksum.of_all(out=self._locksteps.checksums(self.progress.t - 1))
        self._keep_starts(began)

    def complete_part(self, began: Array | None, own: slice) -> None:
        """Does what `complete` does for workers that go at their own pace."""
        t = self.progress.time_of(own.start) - 1
        self._checksum.of_some(own, out=self._locksteps.checksums(t)[own])
        self._keep_starts(began)

    def add_rollout(
        self,
        worker: int,
        envs: slice,
        actions: list[Array],
        checksums: Array,
        firsts: Array,
        began: Array,
    ) -> None:
        """Takes many steps of one worker at once, before `progress` counts them.

        Args:
            worker: which one.
            envs: its environments.
            actions: `[T, n, *leaf]` per leaf, as they were sent.
            checksums: `[T, n]` uint64.
            firsts: `[n, words]`, the slab's rows as their last episodes began.
            began: `[n]` bool, for which environments one did.
        """
        begin, rows = self.progress.time_of(worker), envs.stop - envs.start
        self._locksteps.add(begin, worker, envs, actions, checksums)
        self._firsts[envs][began] = firsts[began]
        self._rng[envs][began] = self.views.rng[worker, :rows][began]

    def _keep_starts(self, envs: Array | None) -> None:
        """Keeps what the episodes began with that have just been begun by auto-reset."""
        for env in () if envs is None else envs.tolist():
            place = self._places[env]
            self._rng[env] = self.views.rng[place]
            self._firsts[env] = self.views.words[place]

    def reset(self, envs: list[int], seeds: list[int | None], options: bytes) -> None:
        """Notes that environments were reset; the slab holds what came of it.

        Args:
            envs: which ones.
            seeds: one for each of `envs`.
            options: a pickle, empty for none.
        """
        for env, seed in zip(envs, seeds, strict=True):
            worker, row = self._places[env]
            if seed is not None:  # what attributes were set to outlives a reset
                self._keep_events(env, _latest_sets(self._events[env]))
            self._rng[env] = self.views.rng[worker, row]
            rng = None if seed is not None else self._rng[env].copy()
            checksum = self._checksum.of_row(worker, row)
            at = self.progress.begun[env]
            self._add(env, Event(at, "reset", (seed, options, rng), checksum))
        self._forget()

    def place(self, env: int) -> tuple[int, int]:
        """Returns where an environment stands: its episode's first lockstep, and the next one."""
        return self.progress.begun[env], self._now(env)

    def _now(self, env: int) -> int:
        return self.progress.time_of(self._places[env][0])

    def set(self, env: int, name: str, value: bytes) -> None:
        """Notes that an attribute was set; `value` is a pickle."""
        self._add(env, Event(self.progress.t, "set", (name, value)))

    def called(self, env: int) -> None:
        """Notes a call that may have changed the environment in a way that can't be replayed."""
        events = self._events[env]
        if not events or events[-1].verb != "call":  # one says as much as many
            self._add(env, Event(self.progress.t, "call"))

    def _add(self, env: int, event: Event) -> None:
        """Adds an event; where they take too much the way back begins anew.

        What attributes were set to last stays, whatever it takes: it is no past.
        """
        events = self._events[env]
        events.append(event)
        self._event_bytes[env] += event.size_bytes
        most = max(16 * EVENT_BYTES, self.limit_bytes // len(self._events))
        if self._event_bytes[env] <= most:
            return
        latest = _latest_sets(events)
        kept = sum(each.size_bytes for each in latest)
        self._event_bytes[env] = sum(each.size_bytes for each in events) - kept
        if self._event_bytes[env] > most:
            last = event if event.verb == "reset" else Event(event.at, "call")
            self._keep_events(env, [*latest, last])

    def _keep_events(self, env: int, events: list[Event]) -> None:
        """Forgets all but these; what attributes were set to last is not counted."""
        self._events[env] = events
        self._event_bytes[env] = sum(each.size_bytes for each in events if each.verb != "set")

    def break_off(self) -> None:
        """Forgets all but what attributes were set to: the last lockstep was not completed."""
        for env, events in enumerate(self._events):
            self._keep_events(env, _latest_sets(events))
        self._locksteps.clear()

    def pending_action(self, env: int) -> list[Array]:
        """Returns an environment's action in the lockstep that was noted but is not complete."""
        return self._locksteps.action(self._now(env), env)

    # --- reading ---------------------------------------------------------------------------------

    def accounts(self, env: int) -> list[Account]:
        """Returns the ways to bring an environment back, the quickest first."""
        return self._past(env).accounts()

    def settings(self, env: int) -> Account:
        """Returns how to set an environment's attributes again, and no more."""
        return self._past(env).settings()

    def _past(self, env: int) -> Past:
        return Past(
            self._events[env],
            self.progress.begun[env],
            self.progress.episodes[env],
            self._rng[env],
            self._checksum.of_first(self._firsts[env]),
            self._now(env),
            lambda at: self._locksteps.holds(at, env),
            lambda begin, end: self._locksteps.between(begin, end, env, self._places[env]),
        )

    # --- plain data ------------------------------------------------------------------------------

    def dump(self, workers: Array, rows: Array) -> Fields:
        """Returns the whole log as plain data, whatever the grouping.

        Args:
            workers: `[N]`, each environment's worker.
            rows: `[N]`, its row there.
        """
        events = [
            [[event.at, event.verb, list(event.arguments), event.checksum] for event in events]
            for events in self._events
        ]
        return {
            "rng": self._rng,
            "firsts": self._firsts,
            "events": events,
            "chunks": self._locksteps.dump(workers, rows),
        }

    def load(self, plain: Fields, workers: Array, rows: Array) -> None:
        """Takes what `dump` returned as its own."""
        self._rng[:], self._firsts[:] = plain["rng"], plain["firsts"]
        self._events = [
            [
                Event(at, verb, tuple(arguments), checksum)
                for at, verb, arguments, checksum in events
            ]
            for events in plain["events"]
        ]
        for env, told in enumerate(self._events):
            self._event_bytes[env] = sum(event.size_bytes for event in told)
        self._locksteps.load(plain["chunks"], workers, rows)

    def _forget(self) -> None:
        """Drops the locksteps that no environment's account begins before."""
        oldest = min(
            next((event.at for event in events if event.verb == "reset"), self.progress.t)
            for events in self._events
        )
        self._locksteps.forget_before(oldest)


def _latest_sets(events: list[Event]) -> list[Event]:
    """Returns what each attribute was set to last."""
    latest: dict[str, Event] = {}
    for event in events:
        if event.verb == "set":
            latest.pop(event.arguments[0], None)
            latest[event.arguments[0]] = event
    return list(latest.values())


class NoJournal:
    """The log of a session that keeps none: whatever is lost is cut off.

    What attributes are set to is no past, so that is kept all the same.
    """

    unreachable = "on_crash='truncate'"

    def __init__(self) -> None:
        self._settings: dict[int, dict[str, bytes]] = {}

    def note(self, actions: list[Array], envs: slice = _ALL, worker: int = 0) -> None:
        """Forgets the actions."""

    def complete(self, began: Array | None) -> None:
        """Forgets the lockstep."""

    def complete_part(self, began: Array | None, own: slice) -> None:
        """Forgets the step."""

    def add_rollout(
        self,
        worker: int,
        envs: slice,
        actions: list[Array],
        checksums: Array,
        firsts: Array,
        began: Array,
    ) -> None:
        """Forgets the steps."""

    def reset(self, envs: list[int], seeds: list[int | None], options: bytes) -> None:
        """Forgets the reset."""

    def set(self, env: int, name: str, value: bytes) -> None:
        """Keeps what an attribute was set to last; `value` is a pickle."""
        own = self._settings.setdefault(env, {})
        own.pop(name, None)  # in the order in which they were set
        own[name] = value

    def called(self, env: int) -> None:
        """Forgets the call."""

    def break_off(self) -> None:
        """There is nothing to forget."""

    def place(self, env: int) -> None:
        """No step is run a second time, so none can be known again."""

    def pending_action(self, env: int) -> None:
        """No action is known."""

    def accounts(self, env: int) -> list[Account]:
        """There is no way to bring an environment back."""
        return []

    def settings(self, env: int) -> Account:
        """Returns how to set the environment's attributes again."""
        script = [["set", *each] for each in self._settings.get(env, {}).items()]
        return Account(script, [], "attributes", 0)

    def dump(self, workers: Array, rows: Array) -> Fields:
        """Refuses: a checkpoint is made of a log."""
        raise StateError("expected on_crash='replay', whose log is what a checkpoint is made of")

    def load(self, plain: Fields, workers: Array, rows: Array) -> None:
        """Refuses, likewise."""
        raise StateError("expected on_crash='replay', as the checkpoint was taken with it")
