"""Infos: what of them lies in shared memory, and what came by pipe, as Gymnasium merges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vecsess.contract import Finals
from vecsess.fleet.reports import SCHEMA, values_of
from vecsess.fleet.rows import Blocks
from vecsess.fleet.worker import Worker
from vecsess.tree import leaves
from vecsess.wire.columns import MAX_SCHEMAS, Entry, Schema, records
from vecsess.wire.leaves import assemble
from vecsess.wire.messages import Done
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import Array, Fields, FrameError, Plain

Infos = Fields
AddInfo = Callable[[Infos, Fields, int], Infos]

_WHATS = ("info", "final_info")
_BOXED = np.array([np.False_, np.True_], object)  # NumPy's bool is an object to Gymnasium


@dataclass(frozen=True, slots=True)
class Part:
    """The infos of one schema that came in a lockstep.

    Attributes:
        what: "info" or "final_info".
        envs: whose, `[K]` ascending; None for all.
        rows: a private copy of their bytes, `[K, bytes]`.
    """

    what: str
    schema: Schema
    envs: Array | None
    rows: Array

    @property
    def first(self) -> int:
        """The first of its environments."""
        return 0 if self.envs is None else int(self.envs[0])

    @property
    def plain(self) -> bool:
        """Whether it is about all environments, and each key has an array."""
        return self.envs is None and not (self.schema.nested or self.schema.boxed)

    def columns(self) -> Iterator[Array]:
        """Returns the numbers and arrays in its rows, `[K, *shape]` each."""
        return iter(self.schema.columns(self.rows))


class _MixedError(Exception):
    """Two schemas do not agree on a key: only one environment after the other tells what holds."""


class InfoReader:
    """Reads the infos of all workers out of the slab.

    Args:
        workers: all of them.
        layout: of a worker's range.
        views: the fields, `[workers, rows, ...]`.
    """

    def __init__(self, workers: list[Worker], layout: Layout, views: Views) -> None:
        counts = [worker.rows for worker in workers]
        self._workers, self._views, self._n = workers, views, sum(counts)
        self._blocks = Blocks(counts, layout.rows)
        self._space, self._leaves = layout.observation_space, layout.observations
        self._worker_of = np.repeat(np.arange(len(workers)), counts)
        self._schemas: dict[int, Schema] = {}
        self._told: dict[int, tuple[int, int]] = {}  # by worker: generation, and how many schemas
        self._numbers = np.zeros((self._n, 2), np.uint64)
        self._alike: tuple[bytes, Schema] = (b"", Schema([]))  # where all have infos of one schema
        self.parts: list[Part] = []  # what the last command gave

    def learn(self, worker: Worker, reply: Done) -> None:
        """Takes what a worker says of how it writes infos.

        Raises:
            FrameError: it describes too many.
        """
        for _, what, schema in reply.values:
            if what != SCHEMA:
                continue
            generation, count = self._told.get(worker.index, (-1, 0))
            count = count if generation == worker.generation else 0
            room = MAX_SCHEMAS * (len(self._workers) + MAX_SCHEMAS)
            if count == MAX_SCHEMAS or len(self._schemas) > room:
                raise FrameError(f"expected at most {MAX_SCHEMAS} descriptions of infos")
            self._told[worker.index] = worker.generation, count + 1
            self._schemas.setdefault(schema.number, schema)

    def take(self, seq: int) -> int | None:
        """Copies the infos that came with a command: later its rows are written again.

        Args:
            seq: the number of the command; a worker that did not get it has none.

        Returns:
            A worker that wrote what nobody has described, None where there is none.
        """
        self.parts = []
        numbers, views = self._numbers, self._views
        current = views.told.tolist().count(seq)
        if not current:
            return None
        raw = views.info_numbers.tobytes() if current == len(self._workers) else b""
        if raw and raw == self._alike[0]:
            self.parts = [self._part(0, self._alike[1], None)]
            return None
        self._blocks.gather(views.info_numbers, numbers)
        if not raw:
            numbers[(views.told != seq)[self._worker_of]] = 0
        for which in range(2):
            for number, envs in _grouped(numbers[:, which]):
                schema = self._schemas.get(number)
                if schema is None:
                    return int(self._worker_of[envs[0]])
                everyone = len(envs) == self._n
                self.parts.append(self._part(which, schema, None if everyone else envs))
        only = self.parts[0] if raw and len(self.parts) == 1 else None
        if only is not None and only.envs is None and only.what == "info":
            self._alike = raw, self.parts[0].schema
        return None

    def _part(self, which: int, schema: Schema, envs: Array | None) -> Part:
        field = self._views.infos[:, :, which, : schema.size_bytes]
        rows = np.empty((self._n, schema.size_bytes), np.uint8)
        self._blocks.gather(field, rows)
        return Part(_WHATS[which], schema, envs, rows if envs is None else rows[envs])

    def of_each(self, answers: dict[int, Done]) -> tuple[list[Fields], dict[int, Fields]]:
        """Returns each environment's info `[N]`, {} where it has none, and the final ones.

        Args:
            answers: what came beside the slab, by worker.
        """
        infos: list[Fields] = []
        finals: dict[int, Fields] = {}
        for part in self.parts:
            told = records(part.schema.entries, part.rows)
            if part.envs is None and part.what == "info":
                infos = told
                continue
            envs = range(self._n) if part.envs is None else part.envs.tolist()
            if part.what == "final_info":
                finals.update(zip(envs, told, strict=True))
                continue
            infos = infos or [{} for _ in range(self._n)]
            for env, info in zip(envs, told, strict=True):
                infos[env] = info
        infos = infos or [{} for _ in range(self._n)]
        for env, what, value in values_of(answers, self._workers) if answers else ():
            if what == "info":
                infos[env] = value
            elif what == "final_info":
                finals[env] = value
        return infos, finals

    def merged(self, add: AddInfo, answers: dict[int, Done], finals: Finals | None) -> Infos:
        """Returns the infos of a step or a reset, equal to those of Gymnasium's `SyncVectorEnv`.

        Args:
            add: `VectorEnv._add_info`.
            answers: what came beside the slab, by worker.
            finals: of the environments that were reset in the same step.
        """
        if not answers or next(values_of(answers, self._workers), None) is None:
            try:
                return self._laid(finals)
            except _MixedError:
                pass
        told, ends = self.of_each(answers)
        last = {} if finals is None else {int(env): k for k, env in enumerate(finals.envs)}
        infos: Infos = {}
        for env, info in enumerate(told):
            if finals is not None and env in last:
                final = {
                    "final_obs": self._one_of(finals, last[env]),
                    "final_info": ends.get(env, {}),
                }
                add_info(add, infos, final, env)
            if info:
                add_info(add, infos, info, env)
        return infos

    def _laid(self, finals: Finals | None) -> Infos:
        """Returns the infos without a look at single environments: all of them lie in columns."""
        infos: Infos = {}
        if finals is None and len(self.parts) == 1 and self.parts[0].plain:
            values: list[Plain] = self.parts[0].schema.keys.copy()
            values[::2] = self.parts[0].columns()
            masks = np.empty((len(values) // 2, self._n), np.bool_)
            masks.fill(True)  # a fourth of what `np.ones` costs
            values[1::2] = masks
            return dict(zip(self.parts[0].schema.keys, values, strict=True))
        if not self.parts and finals is None:
            return infos
        ended = self._n if finals is None else int(finals.envs[0])
        parts = sorted(self.parts, key=lambda part: part.first)
        told = [part for part in parts if part.what == "info"]
        for part in told:  # keys come in the order in which environments bring them
            if finals is not None and ended <= part.first:
                self._lay_finals(infos, finals, parts)
                ended = self._n
            self._lay(infos, part.schema.entries, part.columns(), part)
        if finals is not None and ended < self._n:
            self._lay_finals(infos, finals, parts)
        return infos

    def _lay_finals(self, infos: Infos, finals: Finals, parts: list[Part]) -> None:
        """Adds the last observations and infos of ended episodes."""
        observations, mask = np.empty(self._n, object), np.zeros(self._n, np.bool_)
        for k, env in enumerate(finals.envs.tolist()):
            observations[env], mask[env] = self._one_of(finals, k), True
        last: Infos = {}
        for part in parts:
            if part.what == "final_info":
                self._lay(last, part.schema.entries, part.columns(), part)
        infos["final_obs"], infos["_final_obs"] = observations, mask
        infos["final_info"], infos["_final_info"] = last, mask.copy()

    def _lay(
        self, infos: Infos, entries: tuple[Entry, ...], columns: Iterator[Array], part: Part
    ) -> None:
        """Adds what environments of one schema have under these keys."""
        for entry in entries:
            key, mask = entry.key, f"_{entry.key}"
            if entry.kind == "dict":
                inner = infos.setdefault(key, {})
                if type(inner) is not dict:
                    raise _MixedError
                self._lay(inner, entry.entries, columns, part)
            else:
                column = next(columns)
                column = _BOXED[column.view(np.uint8)] if entry.boxed else column
                infos[key] = self._spread(column, part.envs, infos.get(key))
            infos[mask] = self._mask(part.envs, infos.get(mask))

    def _spread(self, column: Array, envs: Array | None, whole: Plain) -> Array:
        """Returns an array of all environments, with those of a column `[K, ...]` written in."""
        if whole is None:
            if envs is None:
                return column
            shape = (self._n, *column.shape[1:])
            boxed = column.dtype == object
            whole = np.full(shape, None, object) if boxed else np.zeros(shape, column.dtype)
        elif (
            type(whole) is not np.ndarray
            or whole.dtype != column.dtype
            or whole.shape[1:] != column.shape[1:]
        ):
            raise _MixedError
        whole[slice(None) if envs is None else envs] = column
        return whole  # type: ignore[no-any-return]

    def _mask(self, envs: Array | None, mask: Plain = None) -> Array:
        if envs is None and mask is None:
            return np.ones(self._n, np.bool_)
        mask = np.zeros(self._n, np.bool_) if mask is None else mask
        return self._spread(np.ones(1, np.bool_), envs, mask)

    def _one_of(self, finals: Finals, k: int) -> Plain:
        """Returns a final observation as environments give it: what is discrete as an int."""
        if type(finals.observations) is np.ndarray and not self._leaves[0].discrete:
            return finals.observations[k]
        parts = zip(self._leaves, leaves(finals.observations), strict=True)
        ones: list[Plain] = [int(array[k]) if leaf.discrete else array[k] for leaf, array in parts]
        return assemble(self._space, iter(ones))


def add_info(add: AddInfo, infos: Infos, info: dict[Plain, Plain], env: int) -> None:
    """Adds an environment's info; what does not fit beside the others' is kept as an object.

    Gymnasium's own raises there, such as for another shape than before, or an integer of more
    than 64 bits. The lockstep's rows are worth more.
    """
    for key, value in info.items():
        try:
            add(infos, {key: value}, env)
        except Exception:  # whatever NumPy says no with
            if type(value) is dict and type(infos.get(key, {})) is dict:
                add(infos, {key: {}}, env)
                add_info(add, infos[key], value, env)
            else:
                _keep_object(add, infos, key, value, env)


def _keep_object(add: AddInfo, infos: Infos, key: Plain, value: Plain, env: int) -> None:
    mask = f"_{key}"
    fresh = add({}, {key: None}, env)  # an array of objects, and which of them are told
    whole, told = fresh[key], fresh[mask]
    before: Plain = infos.get(key)
    known: Plain = infos.get(mask)
    fits = type(known) is np.ndarray and known.dtype == np.bool_ and known.shape == told.shape
    if fits and type(before) is np.ndarray:  # else an info's own key is that of the mask
        for other in np.flatnonzero(known).tolist():
            whole[other], told[other] = before[other], True
    whole[env] = value
    infos[key], infos[mask] = whole, told


def _grouped(numbers: Array) -> Iterator[tuple[int, Array]]:
    """Yields each number but 0, and the environments that have it."""
    groups: dict[int, list[int]] = {}
    for env, number in enumerate(numbers.tolist()):
        if number:
            groups.setdefault(number, []).append(env)
    for number, envs in groups.items():
        yield number, np.array(envs)
