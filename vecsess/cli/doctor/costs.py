"""What a pipe and a wake-up cost on this machine, measured."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS, REPEATS = 9, 300

_ECHO = "import os\nwhile data := os.read(0, 64): os.write(1, data)"
_FRAME = bytes(16)  # about as long as the command to step, and as the reply to it


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians over rounds.

    Attributes:
        pipe_s: to write a frame into a pipe and read it back, all in one process.
        round_trip_s: to another process, which sleeps in its read, and back.
    """

    pipe_s: float
    round_trip_s: float

    @property
    def wake_up_s(self) -> float:
        """To wake a process that sleeps in a read: half of a round trip, less the pipe itself."""
        return max(0.0, (self.round_trip_s - 2 * self.pipe_s) / 2)


def measure_costs() -> Costs:
    """Measures with one other process, within about a second."""
    command = [sys.executable, "-I", "-S", "-c", _ECHO]
    near_read, near_write = os.pipe()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as echo:
        assert echo.stdin is not None, "it is a pipe"
        assert echo.stdout is not None, "it is a pipe"
        far = _bouncer(echo.stdin.fileno(), echo.stdout.fileno())
        near = _bouncer(near_write, near_read)
        far()  # until it runs
        pipe_s, round_trip_s = zip(*((_time(near), _time(far)) for _ in range(ROUNDS)), strict=True)
        echo.stdin.close()  # its end
    os.close(near_read)
    os.close(near_write)
    return Costs(statistics.median(pipe_s), statistics.median(round_trip_s))


def _bouncer(write_fd: int, read_fd: int) -> Callable[[], None]:
    def bounce() -> None:
        os.write(write_fd, _FRAME)
        os.read(read_fd, 64)

    return bounce


def _time(action: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    for _ in range(REPEATS):
        action()
    return (time.perf_counter() - began_s) / REPEATS
