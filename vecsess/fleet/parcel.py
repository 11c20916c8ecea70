"""What makes the environments, pickled once for all workers; what is large lies in one memory.

The memory is sealed, and each worker maps it for itself: what it writes to is its own copy.
"""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass

from vecsess.wire.code import keep_in
from vecsess.wire.slab import create_memfd

_LARGE = 1 << 16  # bytes from which on it pays
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Parcel:
    """A pickle as workers get it.

    Attributes:
        head: the pickle, empty where it lies in the memory.
        fd: of the memory, -1 for none; workers inherit it under this number.
        sizes: of the pickle and of each of its buffers in the memory.
    """

    head: bytes
    fd: int
    sizes: list[int]


def pack_parcel(dump: Callable[[Callable[[pickle.PickleBuffer], bool]], bytes]) -> Parcel:
    """Returns what `dump` pickles, with its large buffers beside it.

    Args:
        dump: called with the callback for buffers, as `pickle.dumps` takes it.
    """
    buffers: list[memoryview] = []
    head = dump(keep_in(buffers, _LARGE))
    if not buffers and len(head) < _LARGE:
        return Parcel(head, -1, [])
    fd = create_memfd("vecsess-parcel")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.writelines((head, *buffers))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return Parcel(b"", fd, [len(head), *(buffer.nbytes for buffer in buffers)])
