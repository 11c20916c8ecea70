"""How an environment is brought back: the commands that led to where it is, and what each gave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vecsess.wire.values import Array, Plain

Script = list[list[Plain]]
EVENT_BYTES = 512  # about as much as an event takes, without what is in it


@dataclass(frozen=True, slots=True)
class Event:
    """Something rarer than a step, after `at` locksteps: a "reset", a "set", or a "call"."""

    at: int
    verb: str
    arguments: tuple[Plain, ...] = ()
    checksum: int | None = None

    @property
    def size_bytes(self) -> int:
        """Returns about how much memory it takes."""
        return EVENT_BYTES + sum(map(sys.getsizeof, self.arguments))


@dataclass(frozen=True, slots=True)
class Account:
    """How to bring an environment back: the commands, and the checksum that each must give."""

    script: Script
    expected: list[int | None]
    rung: str  # "episode" or "seeded reset", for incidents
    steps: int


@dataclass(frozen=True, slots=True)
class _Start:
    """A command that an account can begin with."""

    rung: str
    at: int
    command: list[Plain]
    checksum: int | None
    event: Event | None = None  # that it is


@dataclass(frozen=True, slots=True)
class Past:
    """What the journal knows of one environment.

    Attributes:
        events: resets, attributes that were set, and calls, in order.
        episode_at: the lockstep at which its episode began.
        episode: how many auto-resets there were since the last reset.
        rng: `[words]`, its RNG's state before the reset that began its episode.
        first_checksum: of its episode's first observation.
        end: how many locksteps it has completed.
        reaches: whether the log holds the locksteps from one on.
        steps: returns the actions, `[n, *leaf]` per leaf, and checksums from one lockstep to
            another.
    """

    events: list[Event]
    episode_at: int
    episode: int
    rng: Array
    first_checksum: int
    end: int
    reaches: Callable[[int], bool]
    steps: Callable[[int, int], tuple[list[Plain], list[int]]]

    def accounts(self) -> list[Account]:
        """Returns the ways to bring the environment back, the quickest first.

        From the start of its episode, where its RNG state or seed is known; else from its last
        seeded reset, as far as the log reaches.
        """
        starts = (self._episode_start(), self._seeded_start())
        told = [self._account(start) for start in starts if start is not None]
        found = [account for account in told if account is not None]
        # In the first episode after a seeded reset the two are one.
        return found[:1] if len({account.steps for account in found}) == 1 else found

    def settings(self) -> Account:
        """Returns how to set the environment's attributes again, and no more."""
        script = [["set", *event.arguments] for event in self.events if event.verb == "set"]
        return Account(script, [], "attributes", 0)

    def _episode_start(self) -> _Start | None:
        resets = [event for event in self.events if event.verb == "reset"]
        seed = resets[-1].arguments[0] if resets else None
        if not self.rng[0] and (self.episode or seed is None):
            return None  # an RNG whose state can't be kept
        if resets and not self.episode:
            command = ["reset", *resets[-1].arguments]
            last = resets[-1]
            return _Start("episode", self.episode_at, command, last.checksum, last)
        command = ["episode", self.episode, self.rng.copy(), seed]
        return _Start("episode", self.episode_at, command, self.first_checksum)

    def _seeded_start(self) -> _Start | None:
        for event in self.events:
            if event.verb == "reset" and event.arguments[0] is not None:
                command = ["reset", *event.arguments]
                return _Start("seeded reset", event.at, command, event.checksum, event)
        return None

    def _account(self, start: _Start) -> Account | None:
        """Returns the account from a start, None where the log does not reach or can't be run."""
        if start.at < self.end and not self.reaches(start.at):
            return None
        before: Script = []
        script: Script = [start.command]
        expected: list[int | None] = [start.checksum]
        at, met = start.at, start.event is None
        for event in self.events:
            met = met or event is start.event
            if event.verb == "call" and not met:
                continue  # the same lockstep, but before
            if event.at < start.at or (event.at == start.at and event.verb == "reset"):
                if event.verb == "set":
                    before.append(["set", *event.arguments])
                elif event.verb == "reset":  # attributes set since the last step came first
                    before += script[1:]
                    del script[1:]
                continue
            if event.verb == "call":
                return None
            self._add_steps(at, event.at, script, expected)
            at = event.at
            if event.verb == "reset":
                # Its RNG state is what the script has led to; only a start must bring one.
                script.append(["reset", *event.arguments[:2], None])
                expected.append(event.checksum)
            else:
                script.append([event.verb, *event.arguments])
        self._add_steps(at, self.end, script, expected)
        return Account([*before, *script], expected, start.rung, self.end - start.at)

    def _add_steps(self, begin: int, end: int, script: Script, expected: list[int | None]) -> None:
        """Adds the steps from lockstep `begin` to `end` to a script."""
        if begin < end:
            columns, checksums = self.steps(begin, end)
            script.append(["steps", end - begin, columns])
            expected += checksums


def join_pieces(pieces: list[list[Array]]) -> list[Plain]:
    """Returns the pieces of each leaf's actions as one, as they can be sent."""
    columns = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    # What goes by pipe is msgpack already, in an array of objects.
    return [column.tolist() if column.dtype == object else column for column in columns]
