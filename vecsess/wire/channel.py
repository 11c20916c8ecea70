"""Length-prefixed frames over a pair of pipes; every wait has a deadline.

The pipes are the truth of the protocol: a row counts only after its reply has come through here.
The manager's ends are non-blocking; a worker's are blocking, since it has nothing else to do.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable
from time import perf_counter_ns

from vecsess.wire.values import FrameError

HEADER = struct.Struct("<I")
CONTROL_BYTES = 1 << 16  # the cap on a frame that carries no values of an environment
COMMAND_BYTES = (1 << 32) - 1  # the cap on a command: what the length can say, for it is trusted
_FIRST_BYTES = 256  # what is asked for first: nearly every frame is short, and a buffer costs
VALUE_BYTES = 1 << 26  # the cap on one that does: infos, rendered frames, results of calls


Announce = Callable[[int], None]


class EndOfStreamError(EOFError):
    """The other side closed its end of the pipe, or died."""


class DeadlineError(TimeoutError):
    """The deadline passed before the frame was through."""


def frame(payload: bytes) -> bytes:
    """Returns the payload behind its length.

    Raises:
        FrameError: it is longer than any frame can be.
    """
    if len(payload) > COMMAND_BYTES:
        raise FrameError(f"expected a frame of at most {COMMAND_BYTES} bytes, got {len(payload)}")
    return HEADER.pack(len(payload)) + payload


class Channel:
    """Frames in, frames out; owns both descriptors.

    Example:
        >>> import os
        >>> read_fd, write_fd = os.pipe()
        >>> with Channel(read_fd, write_fd) as channel:
        ...     channel.send(frame(b"hello"), deadline=None)
        ...     channel.receive(deadline=None)
        b'hello'
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._received = bytearray()
        self._closed = False

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes both ends; a second call does nothing."""
        if not self._closed:
            self._closed = True
            os.close(self.read_fd)
            os.close(self.write_fd)

    def send(self, data: bytes, deadline: float | None) -> None:
        """Writes a whole frame.

        Args:
            data: what `frame` returned.
            deadline: on the clock of `time.monotonic`; None waits for ever.

        Raises:
            EndOfStreamError: nobody reads any more.
            DeadlineError: the other side did not take it in time.
        """
        sent, rest = 0, memoryview(data)  # no copy: what is long takes many writes
        while sent < len(data):
            try:
                sent += os.write(self.write_fd, rest[sent:] if sent else data)
            except BlockingIOError:
                _wait(self.write_fd, select.POLLOUT, deadline)
            except OSError as error:  # a broken pipe, or one that was closed here
                raise EndOfStreamError("nobody reads the pipe any more") from error

    def send_at_once(self, data: bytes) -> bool:
        """Writes a frame of at most `PIPE_BUF` bytes, which is whole or not at all; False if not.

        Raises:
            EndOfStreamError: nobody reads any more.
        """
        if len(data) > select.PIPE_BUF:
            return False
        try:
            os.write(self.write_fd, data)
        except BlockingIOError:
            return False
        except OSError as error:
            raise EndOfStreamError("nobody reads the pipe any more") from error
        return True

    def receive(self, deadline: float | None, max_bytes: int = CONTROL_BYTES) -> bytes:
        """Returns the payload of the next frame.

        Args:
            deadline: on the clock of `time.monotonic`; None waits for ever.
            max_bytes: a longer frame is refused before memory is set aside for it.

        Raises:
            EndOfStreamError: the other side is gone.
            DeadlineError: no whole frame came in time.
            FrameError: the frame says that it is longer than `max_bytes`.
        """
        if not self._received:
            first = self._read() or b""
            # Nearly always one frame, no more and no less.
            size = len(first) - HEADER.size
            if 0 <= size <= max_bytes and HEADER.unpack_from(first)[0] == size:
                return first[HEADER.size :]
            self._received += first
        while (payload := self._take(max_bytes)) is None:
            data = self._read()
            if data is None:
                _wait(self.read_fd, select.POLLIN, deadline)
            else:
                self._received += data
        return payload

    def _take(self, max_bytes: int, announce: Announce | None = None) -> bytes | None:
        """Returns a payload if a whole frame has been received."""
        if len(self._received) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._received)
        if length > max_bytes:
            raise FrameError(f"expected a frame of at most {max_bytes} bytes, got {length}")
        end = HEADER.size + length
        if len(self._received) < end:
            if announce is not None and length > CONTROL_BYTES:
                announce(length)
            return None
        payload = bytes(self._received[HEADER.size : end])
        del self._received[:end]
        return payload

    def _read(self) -> bytes | None:
        """Returns what has come, None where nothing has; waits where the descriptor does."""
        try:
            data = os.read(self.read_fd, CONTROL_BYTES if self._received else _FIRST_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EndOfStreamError("the pipe was closed") from error
        if not data:
            raise EndOfStreamError("the other side closed the pipe")
        return data

    def receive_ready(
        self, max_bytes: int = CONTROL_BYTES, announce: Announce | None = None
    ) -> bytes | None:
        """Returns the payload of the next frame, or None where it is not there yet.

        Args:
            max_bytes: a longer frame is refused.
            announce: told again and again how long a frame is that is long and still to come; what
                it raises leaves the frame where it is.

        Raises:
            EndOfStreamError: the other side is gone.
            FrameError: the frame says that it is longer than `max_bytes`.
        """
        while (payload := self._take(max_bytes, announce)) is None:
            data = self._read()
            if data is None:
                return None
            self._received += data
        return payload

    def take_exactly(self, expected: bytes) -> bool:
        """Takes the next frame if it has come and is `expected`, header included.

        The hot path: one read and one comparison, no decoding. Where it returns False nothing
        was lost; `receive` gives whatever there is.

        Raises:
            EndOfStreamError: the other side is gone.
        """
        if not self._received:
            try:
                data = os.read(self.read_fd, _FIRST_BYTES)
            except BlockingIOError:
                return False
            except OSError as error:
                raise EndOfStreamError("the pipe was closed") from error
            if data == expected:
                return True
            if not data:
                raise EndOfStreamError("the other side closed the pipe")
            self._received += data
        return False


def _wait(fd: int, event: int, deadline: float | None) -> None:
    """Waits until `fd` is ready, or raises `DeadlineError`."""
    poll = select.poll()
    poll.register(fd, event)
    if deadline is None:
        poll.poll()
        return
    remaining_ms = max(0.0, (deadline - time.monotonic()) * 1000)
    if not poll.poll(remaining_ms):
        raise DeadlineError("the deadline passed")


SPIN_NS = 1_000_000  # a worker's budget: what it waits for is the trainer, on another core
MANAGER_SPIN_NS = 350_000  # less, since it spins where a worker may want to run
_CROWDED_NS = 100_000  # a yield that takes so long: somebody else makes good use of this core


class Patience:
    """Decides, for one kind of wait, between spinning and blocking.

    A wait that ends within the budget costs less by spinning with `sched_yield` than by sleeping
    in the kernel and being woken. One that takes longer only burns the core, so after a long wait
    the next is not spun for, until waits are short again. Where another process takes the core as
    soon as it is offered, this one sleeps too: a spinner would get it back in the midst of work.

    Args:
        spin_ns: the budget; 0 never spins, as is right with more processes than cores.

    Attributes:
        spun_ns: how long the last wait span.
    """

    __slots__ = ("_began", "_budget", "spin_ns", "spun_ns")

    def __init__(self, spin_ns: int) -> None:
        self.spin_ns = spin_ns
        self._budget = spin_ns
        self._began = self.spun_ns = 0

    def spin(self, hint: memoryview, seen: int) -> bool:
        """Returns True as soon as `hint[0]` is not `seen`, False when it is better to sleep."""
        now = self._began = perf_counter_ns()
        self.spun_ns = 0
        if hint[0] != seen:
            return True
        if not self._budget:
            return False
        until = now + self._budget
        sched_yield = os.sched_yield
        crowded = False
        while not crowded and hint[0] == seen:
            before = now
            sched_yield()
            now = perf_counter_ns()
            crowded = now > until or now - before > _CROWDED_NS
        self.spun_ns = now - self._began
        return not crowded

    def over(self) -> int:
        """Learns how long the wait took that `spin` began; returns the time, in ns."""
        now = perf_counter_ns()
        self._budget = self.spin_ns if now - self._began < self.spin_ns else 0
        return now
