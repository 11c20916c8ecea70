"""An end for what might hang: an alarm, which reaches C calls too."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: int, error: BaseException) -> Iterator[None]:
    """Raises `error` where something takes longer."""

    def ring(*_: object) -> None:
        signal.alarm(1)  # again, where the first one is swallowed
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
