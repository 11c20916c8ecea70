"""One memory that the manager writes and every worker only reads: what goes to all of them once.

It is a memfd that grows but can't be cut, and that nobody can map for writing any more once the
manager has (`F_SEAL_FUTURE_WRITE`, Linux 5.1). A worker maps it privately: what it changes there
is its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator

from vecsess.wire.slab import LIBC, LINE, create_memfd
from vecsess.wire.values import Plain

_ADD_SEALS = 1033
_SEALS = 0x1 | 0x2 | 0x10  # seal, shrink, future writes
_ROOM_BYTES = 1 << 36  # addresses, not memory: so much can be sent at once


class Broadcast:
    """The manager's end.

    Attributes:
        fd: what the workers get; it belongs to whoever made this.
        usable: False where the system refuses the seal, so that a worker could write there.
    """

    def __init__(self) -> None:
        self.fd = create_memfd("vecsess-broadcast")
        self._memory: memoryview | None = None
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = LIBC.mmap(None, _ROOM_BYTES, protection, mmap.MAP_SHARED, self.fd, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            return
        weakref.finalize(self, LIBC.munmap, address, _ROOM_BYTES)
        try:
            fcntl.fcntl(self.fd, _ADD_SEALS, _SEALS)
        except OSError:
            return
        self._memory = memoryview((ctypes.c_char * _ROOM_BYTES).from_address(address)).cast("B")

    @property
    def usable(self) -> bool:
        """Whether something can be sent this way."""
        return self._memory is not None

    def write(self, parts: list[Plain]) -> list[int]:
        """Writes the parts one behind the other; nobody may be reading any more.

        Args:
            parts: flat bytes each.

        Returns:
            The size of each, as `parts_of` wants them.
        """
        assert self._memory is not None, "asked only where it is usable"
        sizes = [len(part) for part in parts]
        if (total := _end(sizes)) > os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, total)
        for part, (begin, end) in zip(parts, _places(sizes), strict=True):
            self._memory[begin:end] = part
        return sizes


def parts_of(fd: int, sizes: list[int]) -> list[memoryview]:
    """Returns what was written, in memory that is private to this process once it is changed.

    Args:
        fd: of the memory, as a worker got it.
        sizes: as `write` returned them.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    memory = memoryview(mmap.mmap(fd, _end(sizes), mmap.MAP_PRIVATE, protection))
    return [memory[begin:end] for begin, end in _places(sizes)]


def _places(sizes: list[int]) -> Iterator[tuple[int, int]]:
    begin = 0
    for size in sizes:
        yield begin, begin + size
        begin += -(-size // LINE) * LINE


def _end(sizes: list[int]) -> int:
    return max(sum(-(-size // LINE) * LINE for size in sizes), 1)
