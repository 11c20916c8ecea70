"""One call of every shard at once; a shard that is lost is made anew, and gets the call again.

Ray itself restarts nothing here (`max_restarts=0`): a successor needs what its predecessor had
come to, and that is the driver's, in the checkpoint that came with each answer.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from vecsess.errors import SpawnError, WorkerDied
from vecsess.integrations.ray.doors import Door, door_of, refusing
from vecsess.integrations.ray.pieces import joined
from vecsess.integrations.ray.placement import explain_room, strategy_for, suspect
from vecsess.integrations.ray.shard import Answer, Shard
from vecsess.integrations.ray.slots import Copy, Limits, ShardIncident, Slot
from vecsess.recovery.policy import Incident
from vecsess.wire.values import Fields, Given

_LOG = logging.getLogger("vecsess")
_LOOK_S = 0.2  # between two looks at who is silent or slow
_RACE_LEAST_S = 1.0  # a copy takes that long to begin
_LOSSES = 10  # of one shard, in a row

Submit = Callable[[Slot, Any], Any]
Take = Callable[[Slot, Answer], None]


class Shards:
    """All shards of a session.

    Args:
        slots: one for each.
        pack: returns what a shard is made of, pickled, from what brings it back.
        path: the driver's `sys.path`.
        options: Ray's, of each actor.
        limits: how long is waited.

    Attributes:
        incidents: what went wrong.
        spaces: observation and action space of one environment, once a shard has opened.
        begun: environments that could not be brought back, and began new episodes.
    """

    def __init__(
        self,
        slots: list[Slot],
        pack: Callable[[Slot], bytes],
        path: list[str],
        options: Fields,
        limits: Limits,
    ) -> None:
        self.slots, self._pack, self._path = slots, pack, path
        self._options, self._limits = options, limits
        self._remote = ray.remote(concurrency_groups={"health": 1})(Shard)
        self.incidents: list[ShardIncident] = []
        self.spaces: tuple[Any, Any] | None = None
        self.begun: set[int] = set()
        self._silent: dict[str, float] = {}  # nodes where a copy fell silent, and when

    # --- one call --------------------------------------------------------------------------------

    def call(self, submit: Submit, take: Take, *, race: bool = False) -> None:
        """Calls every shard once, and takes each answer as it comes.

        Whatever fails, the shards stand again where the call found them: they are made anew from
        what brings them back.

        Args:
            submit: calls one actor; returns the reference, or several for an answer in pieces.
            take: gets a shard and what it answered.
            race: a shard that is much slower than the others may be raced by a second copy.
        """
        done: list[float] = []
        try:
            for slot in self.slots:
                slot.raced = False
                if not slot.copies:
                    self._add(slot)
            for slot in self.slots:
                self._send(slot.copies[0], slot, submit)
            self._wait(submit, take, done, race)
        except BaseException:
            self.drop()
            raise

    def open(self) -> None:
        """Makes sure that every shard stands."""

        def opened(slot: Slot, actor: Given) -> Given:
            return next(copy.opened for copy in slot.copies if copy.actor is actor)

        self.call(opened, lambda slot, answer: None)

    def drop(self) -> None:
        """Ends all actors; the next call makes new ones, from what brings them back."""
        for slot in self.slots:
            for copy in slot.copies:
                ray.kill(copy.actor)
            slot.copies.clear()

    def close(self, close_s: float = 5.0) -> None:
        """Ends all sessions, then their actors."""
        refs = [copy.actor.close.remote() for slot in self.slots for copy in slot.copies]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=close_s)
        self.drop()

    def _wait(self, submit: Submit, take: Take, done: list[float], race: bool) -> None:
        waited = {slot.index for slot in self.slots}
        look_s = time.monotonic() + _LOOK_S
        while waited:
            flying = {
                copy.refs[0]: (self.slots[index], copy)
                for index in waited
                for copy in self.slots[index].copies
            }
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=_LOOK_S)
            for ref in ready:
                slot, copy = flying[ref]
                answer = self._settle(slot, copy, submit)
                if answer is not None:
                    done.append(time.monotonic() - copy.since_s)
                    waited.discard(slot.index)
                    self._win(slot, copy)
                    take(slot, answer)
            if time.monotonic() >= look_s:
                usual = sorted(done)[len(done) // 2] if 2 * len(done) >= len(self.slots) else None
                copies = [copy for index in waited for copy in self.slots[index].copies]
                gone = refusing(copy.door for copy in copies if copy.door is not None)
                for index in waited:
                    self._look(self.slots[index], submit, usual if race else None, gone)
                look_s = time.monotonic() + _LOOK_S

    def _settle(self, slot: Slot, copy: Copy, submit: Submit) -> Answer | None:
        """Returns a shard's answer; None where it was lost, and is on its way again."""
        try:
            self._greet(slot, copy)
            answer = joined(ray.get(copy.refs, timeout=self._limits.answer_s))
        except (RuntimeEnvSetupError, ActorUnschedulableError) as error:
            raise SpawnError(
                f"shard {slot.index} can't be started: {error}. See options={{...}}"
            ) from error
        except RayError as error:
            # Our methods answer with data, and our constructor does nothing.
            if isinstance(error, RayTaskError) or "error raised in its creation task" in str(error):
                raise SpawnError(
                    f"shard {slot.index}: its node can't run it; install the driver's vecsess "
                    "there, with the extra `ray`, or ship it with options={'runtime_env': ...}: "
                    f"{error}"
                ) from error
            self._lose(slot, copy, error, submit)
            return None
        _raise(answer)
        return answer

    def _greet(self, slot: Slot, copy: Copy) -> None:
        """Takes what a copy said when it opened its session."""
        if copy.greeted:
            return
        told = ray.get(copy.opened, timeout=self._limits.answer_s)
        _raise(told)
        if told["unrestored"] and copy.racing:
            raise _UnlikeError("its environments do not reproduce")
        copy.greeted, copy.heard_s = True, time.monotonic()
        if copy.node != told["node"] or copy.door is None:
            copy.node, copy.door = told["node"], door_of(told["node"])
        self.spaces = self.spaces or told["spaces"]
        if told["unrestored"]:
            begun = {env + slot.first: why for env, why in told["unrestored"].items()}
            what = f"environments {sorted(begun)} could not be restored, and begin new episodes"
            self._note(slot, copy, Incident(what, "Unrestored", -1, slot.generation, None, begun))
            self.begun |= set(begun)

    def _win(self, slot: Slot, copy: Copy) -> None:
        """Keeps the copy that answered first."""
        for other in slot.copies:
            if other is not copy:
                incident = Incident("outrun by a second copy", "Outrun", -1, slot.generation, None)
                self._note(slot, other, incident)
                if not other.racing:
                    suspect(other.node)
                ray.kill(other.actor)
        slot.copies, slot.fails = [copy], 0
        copy.racing, copy.refs = False, []

    # --- actors ----------------------------------------------------------------------------------

    def _add(self, slot: Slot, *, racing: bool = False) -> Copy:
        """Makes an actor for a shard, on a node that is not suspect."""
        used = [other.node for other in self.slots if other is not slot]
        strategy = strategy_for(self._options["num_cpus"], used)
        actor = self._remote.options(scheduling_strategy=strategy, **self._options).remote()
        opened = actor.open.remote(slot.index, (slot.first, slot.n), self._pack(slot), self._path)
        copy = Copy(actor, opened, time.monotonic(), racing)
        if not isinstance(strategy, str):
            copy.node, copy.door = strategy.node_id, door_of(strategy.node_id)
        slot.copies.append(copy)
        slot.generation += 1
        return copy

    def _send(self, copy: Copy, slot: Slot, submit: Submit) -> None:
        now, refs = time.monotonic(), submit(slot, copy.actor)
        copy.refs = refs if isinstance(refs, list) else [refs]
        copy.since_s, copy.ping = now, None
        if copy.heard_s is not None:
            copy.heard_s = now

    def _lose(self, slot: Slot, copy: Copy, error: BaseException, submit: Submit) -> None:
        """Gives a copy up; where it was the only one, a successor gets the call."""
        began = time.monotonic()
        suspect(copy.node)
        if isinstance(error, TimeoutError):
            self._silent[copy.node] = began
        ray.kill(copy.actor)  # it may only be out of reach, and must not go on
        slot.copies.remove(copy)
        incident = Incident(str(error), type(error).__name__, -1, slot.generation, None)
        self._note(slot, copy, incident)
        if slot.copies:
            slot.copies[0].racing = False
            return
        slot.fails += 1
        if slot.fails > _LOSSES:
            raise WorkerDied(
                f"shard {slot.index} was lost {slot.fails} times in a row; last: {error}. See "
                "`incidents`, and the logs of its nodes"
            ) from error
        self._send(self._add(slot), slot, submit)
        incident.duration_s = time.monotonic() - began

    def tell(self, slot: Slot, incidents: list[Incident]) -> None:
        """Notes what went wrong inside of a shard, counted in the whole session."""
        for incident in incidents:
            incident.env = None if incident.env is None else incident.env + slot.first
            incident.outcomes = {e + slot.first: done for e, done in incident.outcomes.items()}
            self.incidents.append(ShardIncident(slot.index, slot.node, incident))

    def _note(self, slot: Slot, copy: Copy, incident: Incident) -> None:
        self.incidents.append(ShardIncident(slot.index, copy.node, incident))
        _LOG.warning("shard %d, node %s: %s", slot.index, copy.node, incident.what)

    # --- who is silent or slow -------------------------------------------------------------------

    def _look(self, slot: Slot, submit: Submit, usual_s: float | None, gone: set[Door]) -> None:
        """Gives up who is gone or silent; has raced who takes longer than `usual_s`."""
        now = time.monotonic()
        for copy in list(slot.copies):
            error = self._loss_of(slot, copy, now, gone)
            if error is not None:
                self._lose(slot, copy, error, submit)
                return
        copy, race = slot.copies[0], self._limits.race
        if usual_s is None or race is None or slot.raced or slot.fails or len(slot.copies) > 1:
            return
        if now - copy.since_s > max(race * usual_s, _RACE_LEAST_S):
            slot.raced = True
            suspect(copy.node)
            self._send(self._add(slot, racing=True), slot, submit)

    def _loss_of(self, slot: Slot, copy: Copy, now: float, gone: set[Door]) -> Exception | None:
        """Returns why a copy is to be given up, None where it is not."""
        if copy.door in gone:
            return ConnectionRefusedError("its raylet is gone")
        if not copy.greeted:
            self._look_at_opening(slot, copy, now)
        heard_s = self._heard(copy, now)
        if heard_s is None:
            # Its node may be one that stands still, where it will never begin.
            stands = self._silent.get(copy.node, -1.0) >= copy.made_s
            return TimeoutError("another shard on its node fell silent") if stands else None
        silent_s, answer_s = now - heard_s, self._limits.answer_s
        if answer_s is not None and silent_s > answer_s:
            return TimeoutError(f"silent for {silent_s:.1f} s")
        return None

    def _look_at_opening(self, slot: Slot, copy: Copy, now: float) -> None:
        """Greets a copy that has opened its session; raises where that takes too long."""
        if ray.wait([copy.opened], timeout=0)[0]:
            with contextlib.suppress(RayError):  # its call says so too, and is looked at there
                self._greet(slot, copy)
        elif now - copy.made_s > self._limits.start_s and not copy.racing:
            raise SpawnError(
                f"shard {slot.index} did not start within start_s={self._limits.start_s:g}: "
                + explain_room(self._options["num_cpus"], len(self.slots))
            )

    def _heard(self, copy: Copy, now: float) -> float | None:
        """Returns when a copy was last heard of, None before; asks it for a sign of life."""
        if copy.ping is None:
            copy.ping = copy.actor.ping.options(concurrency_group="health").remote()
        elif ray.wait([copy.ping], timeout=0)[0]:
            try:
                ray.get(copy.ping)
                copy.heard_s = now
            except RayError as error:  # its call says so too, or its silence will
                _LOG.debug("a ping of %s: %s", copy.node, error)
            copy.ping = None
        return copy.heard_s


class _UnlikeError(RayError):
    """A second copy would collect something else."""


def _raise(answer: Answer) -> None:
    """Raises what a shard answered where that is an error."""
    if "error" in answer:
        error = pickle.loads(answer["error"])  # noqa: S301  # a cluster is one trust domain
        assert isinstance(error, Exception), "packed as one"
        raise error
