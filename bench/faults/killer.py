"""A process that kills others at a given moment, whatever the manager is doing then."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

_ORDER = struct.Struct("<iq")  # pid, when on the monotonic clock in ns
_REPORT = struct.Struct("<iq")  # pid, when it was killed
_SPIN_NS = 200_000


class Killer:
    """Takes orders and reports, one for each; they are carried out in the order of their coming."""

    def __init__(self, orders: BinaryIO, reports: BinaryIO) -> None:
        self._orders, self._reports = orders, reports
        self.outstanding = 0

    def order(self, pid: int, delay_s: float) -> None:
        """Has a process killed `delay_s` from now."""
        self._orders.write(_ORDER.pack(pid, time.monotonic_ns() + int(delay_s * 1e9)))
        self._orders.flush()
        self.outstanding += 1

    def report(self) -> tuple[int, float]:
        """Waits for the next report: pid, and when it was killed on the monotonic clock."""
        pid, killed_ns = _REPORT.unpack(self._reports.read(_REPORT.size))
        self.outstanding -= 1
        return pid, killed_ns / 1e9


@contextmanager
def killer() -> Iterator[Killer]:
    """Runs the process."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018  # one reason
        yield Killer(process.stdin, process.stdout)  # type: ignore[arg-type]  # both are buffered
        process.stdin.close()


def main() -> None:
    """Carries out orders until there are no more."""
    orders, reports = sys.stdin.buffer, sys.stdout.buffer
    while data := orders.read(_ORDER.size):
        pid, at_ns = _ORDER.unpack(data)
        time.sleep(max(0, at_ns - time.monotonic_ns() - _SPIN_NS) / 1e9)
        while time.monotonic_ns() < at_ns:
            pass
        killed_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        reports.write(_REPORT.pack(pid, killed_ns))
        reports.flush()


if __name__ == "__main__":
    main()
