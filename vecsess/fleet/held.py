"""How much the replies to one command take together: each is bounded, and so are all of them."""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence

from vecsess.wire.values import MAX_OBJECTS, count_objects

# Of all replies to one command, as they came and as what was made of them.
MAX_REPLY_BYTES = int(os.environ.get("VECSESS_MAX_REPLY_BYTES", str(1 << 32)))
OBJECT_BYTES = 100  # about what one takes
_SHORT = 1 << 12  # what is no longer is not counted


class Held:
    """What workers have sent since a command was given, by worker, in bytes of memory."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}

    def forget(self, worker: int | None = None) -> None:
        """Begins anew, or goes on without what one worker has sent."""
        if worker is not None:
            self._bytes.pop(worker, None)
        elif self._bytes:
            self._bytes = {}

    def expect(self, worker: int, length: int) -> int | None:
        """Notes a frame that is coming; returns the worker that sent most where it is too much."""
        self._bytes[worker] = length
        if sum(self._bytes.values()) <= MAX_REPLY_BYTES:
            return None
        return max(self._bytes, key=self._bytes.__getitem__)

    def decoded(self, worker: int, parts: Sequence[bytes]) -> None:
        """Notes that objects were made of some msgpack."""
        count = sum(map(len, parts))  # no object takes less than a byte
        if count <= _SHORT:
            return
        known = sum(self._bytes.values())
        if count > MAX_OBJECTS or known + count * OBJECT_BYTES > MAX_REPLY_BYTES // 2:
            count = sum(count_objects(part, MAX_OBJECTS) for part in parts)
        self._bytes[worker] = self._bytes.get(worker, 0) + count * OBJECT_BYTES

    def told(self) -> str:
        """Returns what is wrong where it is too much."""
        most = heapq.nlargest(4, self._bytes.items(), key=lambda item: item[1])
        whose = ", ".join(f"{size:,} from worker {worker}" for worker, size in most)
        return (
            f"expected replies that take at most {MAX_REPLY_BYTES:,} bytes of memory altogether, "
            f"got {sum(self._bytes.values()):,}: {whose}; the variable VECSESS_MAX_REPLY_BYTES "
            "raises the bound"
        )
