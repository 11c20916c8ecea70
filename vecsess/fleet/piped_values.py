"""Takes what came by pipe of observations, and puts it where the manager reads observations."""

from __future__ import annotations

from typing import Any

from vecsess.fleet.worker import Worker
from vecsess.wire.leaves import FormError, Space, all_leaves_of, field_name, part_at
from vecsess.wire.messages import Done
from vecsess.wire.piped import unpack_piped
from vecsess.wire.slab import Views
from vecsess.wire.values import FrameError, unpack_value

OBSERVATION, FINAL = "observation", "final"


class PipedValues:
    """The parts of an observation that have no fixed shape.

    Args:
        space: of one environment's observations.
        views: the fields of all ranges; those of piped leaves hold objects.
    """

    def __init__(self, space: Space, views: Views) -> None:
        self._places = {OBSERVATION: views.observations, FINAL: views.finals}
        self._parts = {
            index: (part_at(space, leaf.path), field_name(OBSERVATION, leaf.path))
            for index, leaf in enumerate(all_leaves_of(space))
            if leaf.piped
        }

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self, worker: Worker, reply: Done) -> None:
        """Takes what a worker sent with its reply.

        Raises:
            FrameError: not a value of the space.
        """
        for entry in reply.values:
            if type(entry) is list and len(entry) == 3 and entry[1] in self._places:
                self._take(worker, *entry)

    def _take(self, worker: Worker, row: Any, what: str, data: Any) -> None:
        pair = unpack_value(data) if type(data) is bytes else None
        fits = type(row) is int and 0 <= row < worker.rows
        if not fits or type(pair) is not list or [type(part) for part in pair] != [int, bytes]:
            raise FrameError(f"expected {what} as [row, [leaf, value]]")
        leaf, packed = pair
        if leaf not in self._parts:
            raise FrameError(f"expected a leaf of {list(self._parts)}, got {leaf}")
        space, field = self._parts[leaf]
        try:
            value = unpack_piped(space, packed, field)
        except FormError as error:
            raise FrameError(f"{field}: {error}") from error
        self._places[what][leaf][worker.index, row] = value
