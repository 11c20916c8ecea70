"""What a session has told its environments, so that a lost one can be brought back.

Actions are noted before they are sent, checksums when a lockstep is complete; both for all
environments in one strided copy. Resets and attribute changes are rare, and kept as events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vecsess.recovery.accounts import Account, Event, Past, join_pieces
from vecsess.wire.slab import Checksum, Layout, Views

Array = npt.NDArray[Any]

CHUNK_STEPS = 256
_ALL = slice(None)


@dataclass(slots=True)
class _Chunk:
    """The actions and checksums of `CHUNK_STEPS` locksteps."""

    actions: list[Array]  # [CHUNK_STEPS, N, *leaf] per leaf
    checksums: Array  # [CHUNK_STEPS, workers, rows] uint64

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for array in self.actions) + self.checksums.nbytes


@dataclass(slots=True)
class Journal:
    """The log of one session, bounded in bytes.

    Args:
        layout: of a worker's range.
        views: the fields of all ranges.
        n: how many environments.
        autoreset_mode: "same_step", "next_step" or "disabled".
        limit_bytes: past it the oldest locksteps are forgotten.
    """

    layout: Layout
    views: Views
    n: int
    autoreset_mode: str
    limit_bytes: int
    t: int = 0  # how many locksteps are complete
    ahead: dict[int, int] = field(
        default_factory=dict
    )  # how many more, of a worker at its own pace
    _chunks: dict[int, _Chunk] = field(default_factory=dict)  # by t // CHUNK_STEPS
    _events: list[list[Event]] = field(init=False)
    # Lists where single environments are written all the time: a tenth of an array's cost.
    _starts: list[int] = field(init=False)  # [N] the lockstep at which the current episode began
    _episodes: list[int] = field(init=False)  # [N] how many auto-resets since the last reset
    _rng: Array = field(init=False)  # [N, words], before the episode's reset
    _firsts: Array = field(init=False)  # [N, words], the row as it was after the episode's reset
    _ended: Array | None = None
    _checksum: Checksum = field(init=False)
    _places: list[tuple[int, int]] = field(init=False)  # [N] worker and row

    def __post_init__(self) -> None:
        self._events = [[] for _ in range(self.n)]
        self._starts, self._episodes = [0] * self.n, [0] * self.n
        self._rng = np.zeros((self.n, self.views.rng.shape[-1]), np.uint64)
        self._firsts = np.zeros((self.n, self.views.words.shape[-1]), np.uint64)
        self._checksum = Checksum(self.views)
        workers = self.views.rewards.shape[0]
        counts = [self.n // workers + (index < self.n % workers) for index in range(workers)]
        self._places = [(w, row) for w, count in enumerate(counts) for row in range(count)]

    # --- writing ---------------------------------------------------------------------------------

    def note(self, actions: list[Array], envs: slice = _ALL, worker: int = 0) -> None:
        """Notes the actions of a lockstep that is about to be sent.

        Args:
            actions: `[n, *leaf]` per leaf.
            envs: whose actions these are.
            worker: one of theirs.
        """
        t = self.t if not self.ahead else self.time_of(worker)
        chunk = self._chunks.get(t // CHUNK_STEPS)
        if chunk is None:
            chunk = self._new_chunk(t)
        place = t % CHUNK_STEPS
        for column, batch in zip(chunk.actions, actions, strict=True):
            column[place, envs] = batch

    def complete(self, ended: Array | None) -> None:
        """Takes the checksums of the lockstep that was noted last.

        Args:
            ended: the environments whose episode ended in it, None where none did.
        """
        chunk = self._chunks[self.t // CHUNK_STEPS]
        self._checksum.of_all(out=chunk.checksums[self.t % CHUNK_STEPS])
        self.t += 1
        began = ended
        if self.autoreset_mode != "same_step":
            # There an episode begins with the step after the one that ended the last.
            began, self._ended = self._ended, ended
            if self.autoreset_mode == "disabled":
                return
        if began is not None:
            self._begin_episodes(began, self.t)

    def complete_part(self, ended: Array | None, own: slice) -> None:
        """Does what `complete` does for workers that go at their own pace; same-step auto-reset."""
        t = self.time_of(own.start)
        chunk = self._chunks[t // CHUNK_STEPS]
        self._checksum.of_some(own, out=chunk.checksums[t % CHUNK_STEPS, own])
        for worker in range(own.start, own.stop):
            self.ahead[worker] = t + 1 - self.t
        if ended is not None:
            self._begin_episodes(ended, t + 1)

    def _begin_episodes(self, envs: Array, t: int) -> None:
        """Keeps what the episodes began with that have just been begun by auto-reset."""
        rng, words = self.views.rng, self.views.words
        for env in envs.tolist():
            place = self._places[env]
            self._rng[env] = rng[place]
            self._firsts[env] = words[place]
            self._starts[env] = t
            self._episodes[env] += 1

    def meet(self) -> None:
        """All workers have come to the same lockstep again."""
        self.t += max(self.ahead.values(), default=0)
        self.ahead.clear()

    def time_of(self, worker: int) -> int:
        """Returns how many locksteps a worker has completed."""
        return self.t + self.ahead.get(worker, 0)

    def reset(
        self,
        envs: Iterable[int],
        seeds: list[int | None],
        options: bytes,
        places: list[Any],
        ahead: int = 0,
    ) -> None:
        """Notes that environments were reset; the slab holds what came of it.

        Args:
            envs: which ones.
            seeds: one for each of `envs`.
            options: a pickle, empty for none.
            places: `(worker, row)` of each of `envs`.
            ahead: 1 where it took the place of the lockstep that was noted but is not complete.
        """
        for env, seed, (worker, row) in zip(envs, seeds, places, strict=True):
            if seed is not None:  # what attributes were set to outlives a reset
                self._events[env] = [event for event in self._events[env] if event.verb == "set"]
            self._rng[env] = self.views.rng[worker, row]
            rng = None if seed is not None else self._rng[env].copy()
            checksum = self._checksum.of_row(worker, row)
            at = self.time_of(worker) + ahead
            event = Event(at, "reset", (seed, options, rng), checksum)
            self._events[env].append(event)
            self._starts[env] = at
            self._episodes[env] = 0
        if self._ended is not None:  # their episodes have begun, and will not by themselves
            self._ended = np.setdiff1d(self._ended, list(envs))
        self._forget()

    def place(self, env: int) -> tuple[int, int]:
        """Returns where an environment stands: its episode's first lockstep, and the next one."""
        return self._starts[env], self.time_of(self._places[env][0])

    def set(self, env: int, name: str, value: bytes) -> None:
        """Notes that an attribute was set; `value` is a pickle."""
        self._events[env].append(Event(self.t, "set", (name, value)))

    def called(self, env: int) -> None:
        """Notes a call that may have changed the environment in a way that can't be replayed."""
        self._events[env].append(Event(self.t, "call"))

    def break_off(self) -> None:
        """Forgets all but what attributes were set to: the last lockstep was not completed."""
        for events in self._events:
            events[:] = [event for event in events if event.verb == "set"]
        self._chunks.clear()
        self._ended = None
        self.meet()

    def pending_action(self, env: int) -> list[Array]:
        """Returns an environment's action in the lockstep that was noted but is not complete."""
        t = self.time_of(self._places[env][0])
        chunk, place = self._chunks[t // CHUNK_STEPS], t % CHUNK_STEPS
        return [column[place, env] for column in chunk.actions]

    # --- reading ---------------------------------------------------------------------------------

    def accounts(self, env: int, worker: int, row: int) -> list[Account]:
        """Returns the ways to bring an environment back, the quickest first."""
        return self._past(env, worker, row).accounts()

    def settings(self, env: int) -> Account:
        """Returns how to set an environment's attributes again, and no more."""
        return self._past(env, *self._places[env]).settings()

    def _past(self, env: int, worker: int, row: int) -> Past:
        return Past(
            self._events[env],
            self._starts[env],
            self._episodes[env],
            self._rng[env],
            self._checksum.of_first(self._firsts[env]),
            self.time_of(worker),
            lambda at: at // CHUNK_STEPS in self._chunks,
            lambda begin, end: self._steps(env, worker, row, begin, end),
        )

    def _steps(
        self, env: int, worker: int, row: int, begin: int, end: int
    ) -> tuple[list[Any], list[int]]:
        """Returns an environment's actions and checksums from one lockstep to another."""
        pieces: list[list[Array]] = []
        checksums: list[int] = []
        for index in range(begin // CHUNK_STEPS, (end - 1) // CHUNK_STEPS + 1):
            low = max(begin - index * CHUNK_STEPS, 0)
            high = min(end - index * CHUNK_STEPS, CHUNK_STEPS)
            chunk = self._chunks[index]
            pieces.append([column[low:high, env] for column in chunk.actions])
            checksums += chunk.checksums[low:high, worker, row].tolist()
        return join_pieces(pieces), checksums

    # --- plain data ------------------------------------------------------------------------------

    def dump(self, workers: Array, rows: Array) -> dict[str, Any]:
        """Returns the whole log as plain data, whatever the grouping.

        Args:
            workers: `[N]`, each environment's worker.
            rows: `[N]`, its row there.
        """
        chunks = [
            [index, chunk.actions, chunk.checksums[:, workers, rows]]
            for index, chunk in self._chunks.items()
        ]
        events = [
            [[event.at, event.verb, list(event.arguments), event.checksum] for event in events]
            for events in self._events
        ]
        return {
            "t": self.t,
            "starts": self._starts,
            "episodes": self._episodes,
            "rng": self._rng,
            "firsts": self._firsts,
            "ended": self._ended,
            "events": events,
            "chunks": chunks,
        }

    def load(self, plain: dict[str, Any], workers: Array, rows: Array) -> None:
        """Takes what `dump` returned as its own."""
        self.t = plain["t"]
        self._starts, self._episodes = plain["starts"], plain["episodes"]
        self._rng[:], self._firsts[:] = plain["rng"], plain["firsts"]
        self._ended = plain["ended"]
        self._events = [
            [
                Event(at, verb, tuple(arguments), checksum)
                for at, verb, arguments, checksum in events
            ]
            for events in plain["events"]
        ]
        self._chunks.clear()
        for index, actions, checksums in plain["chunks"]:
            chunk = _Chunk(list(actions), self._no_checksums())
            chunk.checksums[:, workers, rows] = checksums
            self._chunks[index] = chunk

    # --- bounds ----------------------------------------------------------------------------------

    def _new_chunk(self, t: int) -> _Chunk:
        actions = [
            np.zeros((CHUNK_STEPS, self.n, *leaf.shape), leaf.dtype) for leaf in self.layout.actions
        ]
        chunk = _Chunk(actions, self._no_checksums())
        self._chunks[t // CHUNK_STEPS] = chunk
        while len(self._chunks) > 2 and len(self._chunks) * chunk.size_bytes > self.limit_bytes:
            del self._chunks[min(self._chunks)]
        return chunk

    def _no_checksums(self) -> Array:
        return np.zeros((CHUNK_STEPS, *self.views.rewards.shape), np.uint64)

    def _forget(self) -> None:
        """Drops the locksteps that no environment's account begins before."""
        oldest = min(
            next((event.at for event in events if event.verb == "reset"), self.t)
            for events in self._events
        )
        for index in [index for index in self._chunks if (index + 1) * CHUNK_STEPS <= oldest]:
            del self._chunks[index]
