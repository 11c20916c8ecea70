"""The rows of all workers as one batch: between `[N, ...]` and `[workers, rows, ...]`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vecsess.contract import StepRows
from vecsess.fleet.worker import Worker
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import Array, Plain


class Blocks:
    """Copies between `[N, ...]` and `[workers, rows, ...]`, in one piece, or two where n % workers.

    Args:
        counts: how many environments each worker holds; larger ones come first.
        rows: how many rows there is room for in each worker's range.
    """

    def __init__(self, counts: list[int], rows: int) -> None:
        larger = counts.count(counts[0])
        self._even = larger == len(counts) and counts[0] == rows
        self._alone = self._even and len(counts) == 1  # one range: the batch has its form
        self._split = larger * counts[0]
        self._large = (larger, counts[0])
        self._small = (len(counts) - larger, counts[-1])

    def gather(self, field: Array, out: Array) -> None:
        """Copies `field [workers, rows, ...]` into `out [N, ...]`."""
        if self._alone:
            out[...] = field[0]
            return
        if self._even:
            out.reshape(field.shape)[...] = field
            return
        for part, target in self._pieces(field, out):
            target[...] = part

    def scatter(self, batch: Array, field: Array) -> None:
        """Copies `batch [N, ...]` into `field [workers, rows, ...]`."""
        if self._alone:
            field[0] = batch
            return
        if self._even:
            field[...] = batch.reshape(field.shape)
            return
        for part, source in self._pieces(field, batch):
            part[...] = source

    def _pieces(self, field: Array, flat: Array) -> Iterator[tuple[Array, Array]]:
        """Yields the larger workers' part of both, then that of the others."""
        shape = field.shape[2:]
        (larger, most), (_, rows) = self._large, self._small
        yield field[:larger, :most], flat[: self._split].reshape(self._large + shape)
        yield field[larger:, :rows], flat[self._split :].reshape(self._small + shape)


class Rows:
    """The rows of some workers as one batch.

    Args:
        workers: all of the session, in the order of their environments.
        own: those whose rows these are.
        layout: of a worker's range.
        views: the fields of all, `[workers, rows, ...]`.

    Attributes:
        envs: the environments of `own`.
        worker_of: `[N]`, the worker of each environment of the session.
        row_of: `[N]`, its row there.
    """

    def __init__(self, workers: list[Worker], own: slice, layout: Layout, views: Views) -> None:
        self._views, self._own = views, views.of_workers(own)
        counts = [worker.rows for worker in workers]
        self._blocks = Blocks(counts[own], layout.rows)
        self.worker_of = np.repeat(np.arange(len(workers)), counts)
        self.row_of = np.concatenate([np.arange(rows) for rows in counts])
        self._places = list(zip(self.worker_of.tolist(), self.row_of.tolist(), strict=True))
        first, last = workers[own][0], workers[own][-1]
        self.envs = slice(first.first_env, last.first_env + last.rows)
        self._flags = np.zeros(self.envs.stop - self.envs.start, np.uint16)
        self._no_flags = self._flags.tobytes()

    def scatter(self, actions: list[Array]) -> None:
        """Puts actions where the workers read them: checked, `[n, *leaf]` per leaf."""
        for field, batch in zip(self._own.actions, actions, strict=True):
            self._blocks.scatter(batch, field)

    def place_action(self, env: int, action: list[Array]) -> None:
        """Puts one environment's action where its worker reads it, `[*leaf]` per leaf."""
        for field, part in zip(self._views.actions, action, strict=True):
            field[self._places[env]] = part

    def dump_piped(self) -> list[list[Plain]]:
        """Returns the parts of observations that have no place in shared memory, `[n]` a leaf."""
        fields = [field for field in self._own.observations if field.dtype == object]
        return [[field[place] for place in self._places] for field in fields]

    def load_piped(self, parts: list[list[Plain]], without: set[int]) -> None:
        """Puts back what `dump_piped` returned, but for the environments in `without`."""
        fields = [field for field in self._own.observations if field.dtype == object]
        for field, values in zip(fields, parts, strict=True):
            for env, value in enumerate(values):
                if env not in without:
                    field[self._places[env]] = value

    def read_step(self, rows: StepRows, observations: list[Array]) -> Array | None:
        """Copies a finished step into the caller's arrays.

        Args:
            rows: where to.
            observations: the leaves of `rows.next_observations`.

        Returns:
            The environments whose episode ended, `[K]` ascending; None where none did.
        """
        views, gather, flags = self._own, self._blocks.gather, self._flags
        for field, out in zip(views.observations, observations, strict=True):
            gather(field, out)
        gather(views.rewards, rows.rewards)
        gather(views.flags, flags)
        rows.valid.fill(True)
        rows.terminated.fill(False)
        rows.truncated.fill(False)
        raw = flags.tobytes()
        if raw == self._no_flags:
            return None
        ended = flags.nonzero()[0]
        for index in ended.tolist():  # a byte that is not 0 is True
            rows.terminated[index], rows.truncated[index] = raw[2 * index], raw[2 * index + 1]
        return ended + self.envs.start if self.envs.start else ended

    def read_observations(self, out: list[Array]) -> None:
        """Copies the observations to act on next; `out` holds `[N, *leaf]` per leaf."""
        for field, array in zip(self._own.observations, out, strict=True):
            self._blocks.gather(field, array)

    def read_finals(self, envs: Array) -> list[Array]:
        """Returns copies of the final observations of these environments, `[K, *leaf]` per leaf."""
        places = [self._places[env] for env in envs.tolist()]
        finals = []
        for field in self._views.finals:
            copies = np.empty((len(places), *field.shape[2:]), field.dtype)
            for index, place in enumerate(places):
                copies[index] = field[place]
            finals.append(copies)
        return finals
