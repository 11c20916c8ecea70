"""What brings a shard back, kept by the driver: each answer of the shard adds what is new."""

from __future__ import annotations

from vecsess.session.checkpoint import state_of
from vecsess.wire.values import Fields, Given, pack_value


class Log:
    """One shard's checkpoint, put together.

    It reaches back as far as the shard's own log does, for environments that only a replay from
    their last seeded reset brings back.

    Args:
        kept: a whole checkpoint.
    """

    def __init__(self, kept: Fields) -> None:
        self._chunks: dict[int, Given] = {}
        self._kept, self._state = kept, state_of(kept)
        journal = self._journal()
        journal["held"] = [chunk[0] for chunk in journal["chunks"]]
        self._take()

    @classmethod
    def begun(cls, kept: Fields) -> Log:
        """Returns the log of a shard that was reset, from the first that it tells."""
        log = cls.__new__(cls)
        log._chunks = {}
        log.add(kept)
        return log

    def add(self, kept: Fields) -> None:
        """Takes a checkpoint of what is new."""
        self._kept, self._state = kept, state_of(kept)
        self._take()

    def whole(self) -> Fields:
        """Returns the checkpoint of all."""
        self._journal()["chunks"] = [self._chunks[index] for index in sorted(self._chunks)]
        data = {**self._kept, "state": pack_value(self._state)}
        self._journal()["chunks"] = []
        return data

    def _journal(self) -> Fields:
        journal: Fields = self._state["engine"]["recovery"]["journal"]
        return journal

    def _take(self) -> None:
        journal = self._journal()
        held = set(journal.pop("held"))
        self._chunks = {index: chunk for index, chunk in self._chunks.items() if index in held}
        self._chunks |= {chunk[0]: chunk for chunk in journal["chunks"]}
        journal["chunks"] = []
