"""A shard as the driver sees it: what brings it back, who works for it, how it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import ray
from ray.exceptions import RayError

from vecsess.errors import SpawnError
from vecsess.fleet.health import WorkerHealth
from vecsess.fleet.plan import registrations
from vecsess.integrations.ray.doors import Door
from vecsess.integrations.ray.log import Log
from vecsess.integrations.ray.placement import address_of
from vecsess.integrations.ray.shard import versions
from vecsess.recovery.policy import Incident
from vecsess.tree import Tree
from vecsess.wire.code import dumps
from vecsess.wire.values import Fields, Given

_HEALTH_S = 5.0


@dataclass(eq=False)
class Copy:
    """An actor that works for a shard; a second one may race the first.

    Attributes:
        actor: its handle.
        opened: what `open` will answer.
        made_s: when it was made.
        racing: whether it is a second copy.
        refs: what the call under way will answer, in pieces; see `cut`.
        since_s: when that began.
        greeted: whether it has opened its session, and said so.
        heard_s: when it last gave a sign of life; None before the first.
        ping: one that was not answered yet.
        node: where it lives, or is to; "" while that is not known.
        door: where that node's raylet listens, None where nobody here can tell.
    """

    actor: Given
    opened: Given
    made_s: float
    racing: bool = False
    refs: list[Given] = field(default_factory=list)
    since_s: float = 0.0
    greeted: bool = False
    heard_s: float | None = None
    ping: Given = None
    node: str = ""
    door: Door | None = None


@dataclass(eq=False)
class Slot:
    """One shard, as the driver sees it.

    Attributes:
        index: of the shard.
        first: of its environments.
        n: how many there are.
        log: what brings it back to where the last complete call left it; None for a new one.
        seen: its last observations, which a row that is cut off ends with; None where not known.
        copies: who works for it: none, one, or two that race.
        fails: losses in a row, without an answer in between.
        generation: how many actors there were before.
        raced: whether the call under way has had a second copy.
        took_s: how long it took to collect its last part.
        pieces: in how many its next part is asked for; see `cut`.
    """

    index: int
    first: int
    n: int
    log: Log | None = None
    seen: Tree | None = None
    copies: list[Copy] = field(default_factory=list)
    fails: int = 0
    generation: int = -1
    raced: bool = False
    took_s: float = 0.0
    pieces: int = 1

    def keep(self, kept: Fields, seen: Tree) -> None:
        """Takes what is new of what brings it back, and its last observations."""
        self.seen = seen
        if self.log is None:
            self.log = Log.begun(kept)
        else:
            self.log.add(kept)

    @property
    def envs(self) -> slice:
        """Its environments in the whole session."""
        return slice(self.first, self.first + self.n)

    @property
    def node(self) -> str:
        """Where it lives."""
        return self.copies[0].node if self.copies else ""


@dataclass(frozen=True, slots=True)
class ShardIncident:
    """Something that went wrong in a shard, or with it.

    Attributes:
        shard: its index.
        node: the id of the node where it was.
        incident: what, and what was done; `worker` is -1 where the whole shard was lost.
    """

    shard: int
    node: str
    incident: Incident


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long is waited; see `RaySession`."""

    answer_s: float | None
    race: float | None
    start_s: float


@dataclass(frozen=True, slots=True)
class ShardHealth:
    """One shard as it is now.

    Attributes:
        shard: its index.
        node: the address of its node, "" while it has none.
        envs: its environments in the whole session.
        workers: as `VecCheckedSession.health` says; None where the shard does not answer.
        took_s: how long it took to collect its last part.
    """

    shard: int
    node: str
    envs: range
    workers: list[WorkerHealth] | None
    took_s: float


def pack_shard(env: Given, settings: Fields, slot: Slot) -> bytes:
    """Pickles what a shard is made of; here, so that it can look where we would, first.

    Args:
        env: the session's.
        settings: of each shard.
        slot: the shard.

    Raises:
        SpawnError: something can't be pickled.
    """
    own = env[slot.envs] if isinstance(env, Sequence) and not isinstance(env, str) else env
    try:
        made = dumps((registrations(), own, settings, slot.log and slot.log.whole(), slot.seen))
        packed: bytes = dumps((versions(), made))
    except Exception as error:  # whatever a __reduce__ raises
        raise SpawnError(
            f"expected an environment and settings that can be pickled, got {error!r}. Make what "
            "they need inside of the callable"
        ) from error
    return packed


def ask_health(slots: list[Slot]) -> list[ShardHealth]:
    """Asks all shards at once how their workers are."""
    refs = {
        slot.index: slot.copies[0].actor.health.options(concurrency_group="health").remote()
        for slot in slots
        if slot.copies
    }
    ray.wait(list(refs.values()), num_returns=len(refs), timeout=_HEALTH_S)
    return [
        ShardHealth(
            slot.index,
            address_of(slot.node),
            range(slot.first, slot.first + slot.n),
            _now(refs[slot.index]) if slot.index in refs else None,
            slot.took_s,
        )
        for slot in slots
    ]


def _now(ref: Given) -> list[WorkerHealth] | None:
    """Returns what was answered, None where nothing was."""
    try:
        workers: list[WorkerHealth] = ray.get(ref, timeout=0)
    except RayError:
        return None
    return workers
