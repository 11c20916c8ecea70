"""stdin and stdout for the protocol alone; imported before anything that might print."""

from __future__ import annotations

import os


def take_streams() -> tuple[int, int]:
    """Returns private descriptors of stdin and stdout, and gives both numbers another meaning.

    From here on descriptor 0 is at its end, and what is written to descriptor 1 goes to stderr,
    also by C code and by processes that the environment starts.
    """
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return read_fd, write_fd
