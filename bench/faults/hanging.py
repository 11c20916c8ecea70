"""The ways to hang."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

_LONG_S = 1000


def _sleep() -> None:
    time.sleep(_LONG_S)


def _spin() -> None:
    while True:
        pass


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _hold_gil() -> None:
    ctypes.PyDLL(None).sleep(_LONG_S)


HANGS: dict[str, Callable[[], None]] = {
    "sleep": _sleep,
    "spin": _spin,
    "SIGSTOP": _stop,
    "C call holding the GIL": _hold_gil,
}
