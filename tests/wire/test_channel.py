"""Frames over pipes: whole or not at all, never longer than allowed, never waited for too long."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecsess.wire.channel import (
    CONTROL_BYTES,
    HEADER,
    Channel,
    DeadlineError,
    EndOfStreamError,
    frame,
)
from vecsess.wire.values import FrameError


def soon() -> float:
    return time.monotonic() + 0.05


class Ends:
    """A channel like the manager's, and the bare other ends of its two pipes."""

    def __init__(self) -> None:
        read_fd, self.feed_fd = os.pipe()
        self.drain_fd, write_fd = os.pipe()
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)
        self.channel = Channel(read_fd, write_fd)

    def feed(self, data: bytes) -> None:
        assert os.write(self.feed_fd, data) == len(data)

    def hang_up(self) -> None:
        for name in ("feed_fd", "drain_fd"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.hang_up()
    made.channel.close()


class TestReceive:
    def test_a_frame_may_come_in_pieces(self, ends: Ends) -> None:
        for byte in frame(b"in pieces")[:-1]:
            ends.feed(bytes([byte]))
            assert ends.channel.receive_ready() is None
        ends.feed(b"s")
        assert ends.channel.receive_ready() == b"in pieces"

    def test_several_may_come_at_once(self, ends: Ends) -> None:
        ends.feed(frame(b"one") + frame(b"") + frame(b"three")[:5])
        assert ends.channel.receive(soon()) == b"one"
        assert ends.channel.receive_ready() == b""
        assert ends.channel.receive_ready() is None
        ends.feed(frame(b"three")[5:])
        assert ends.channel.receive(soon()) == b"three"

    @pytest.mark.parametrize("sent", [b"", b"\x05", frame(b"half a frame")[:9]])
    def test_what_does_not_come_is_not_waited_for_too_long(self, ends: Ends, sent: bytes) -> None:
        if sent:
            ends.feed(sent)
        with pytest.raises(DeadlineError):
            ends.channel.receive(soon())

    def test_nothing_is_lost_by_a_missed_deadline(self, ends: Ends) -> None:
        whole = frame(b"slow but sure")
        ends.feed(whole[:7])
        with pytest.raises(DeadlineError):
            ends.channel.receive(soon())
        ends.feed(whole[7:])
        assert ends.channel.receive(soon()) == b"slow but sure"

    @pytest.mark.parametrize("sent", [b"", frame(b"half a frame")[:9]])
    def test_the_end_of_the_stream_is_told(self, ends: Ends, sent: bytes) -> None:
        if sent:
            ends.feed(sent)
        ends.hang_up()
        with pytest.raises(EndOfStreamError):
            ends.channel.receive(soon())
        with pytest.raises(EndOfStreamError):
            ends.channel.receive_ready()

    def test_what_came_before_the_end_is_still_given(self, ends: Ends) -> None:
        ends.feed(frame(b"last words"))
        ends.hang_up()
        assert ends.channel.receive(soon()) == b"last words"

    @pytest.mark.parametrize("length", [CONTROL_BYTES + 1, 1 << 31, (1 << 32) - 1])
    def test_a_frame_that_is_too_long_is_refused_at_its_header(
        self, ends: Ends, length: int
    ) -> None:
        ends.feed(HEADER.pack(length))
        with pytest.raises(FrameError, match=f"at most {CONTROL_BYTES} bytes, got {length}"):
            ends.channel.receive(soon())
        with pytest.raises(FrameError):
            ends.channel.receive_ready()

    def test_the_limit_is_the_receivers(self, ends: Ends) -> None:
        ends.feed(frame(b"12345678"))
        with pytest.raises(FrameError):
            ends.channel.receive(soon(), max_bytes=7)
        assert ends.channel.receive(soon(), max_bytes=8) == b"12345678"


class TestTakeExactly:
    def test_what_is_expected_is_taken(self, ends: Ends) -> None:
        ends.feed(frame(b"done"))
        assert ends.channel.take_exactly(frame(b"done"))
        assert ends.channel.receive_ready() is None

    def test_nothing_has_come(self, ends: Ends) -> None:
        assert not ends.channel.take_exactly(frame(b"done"))

    @pytest.mark.parametrize(
        "sent", [frame(b"else"), frame(b"done") + frame(b"more"), frame(b"done")[:-1], b"\0"]
    )
    def test_anything_else_is_kept_for_receive(self, ends: Ends, sent: bytes) -> None:
        ends.feed(sent)
        assert not ends.channel.take_exactly(frame(b"done"))
        assert not ends.channel.take_exactly(frame(b"done"))
        rest = frame(b"done")[len(sent) :] if len(sent) < 8 else b""
        if sent == b"\0":
            rest = b"\0\0\0"
        if rest:
            ends.feed(rest)
        expected = {b"\0": b"", frame(b"else"): b"else"}.get(sent, b"done")
        assert ends.channel.receive(soon()) == expected

    def test_the_end_of_the_stream_is_told(self, ends: Ends) -> None:
        ends.hang_up()
        with pytest.raises(EndOfStreamError):
            ends.channel.take_exactly(frame(b"done"))


class TestSend:
    def test_a_frame_that_fills_the_pipe_waits_for_a_reader(self, ends: Ends) -> None:
        data = frame(bytes(range(256)) * 4096)
        received = bytearray()

        def drain() -> None:
            while len(received) < len(data):
                received.extend(os.read(ends.drain_fd, 1 << 16))

        thread = threading.Thread(target=drain)
        thread.start()
        ends.channel.send(data, time.monotonic() + 30)
        thread.join(30)
        assert received == data

    def test_a_reader_that_never_reads_is_not_waited_for_too_long(self, ends: Ends) -> None:
        with pytest.raises(DeadlineError):
            ends.channel.send(frame(bytes(1 << 20)), soon())

    def test_nobody_reads_any_more(self, ends: Ends) -> None:
        ends.hang_up()
        with pytest.raises(EndOfStreamError):
            ends.channel.send(frame(b"hello"), soon())
        with pytest.raises(EndOfStreamError):
            ends.channel.send_at_once(frame(b"hello"))

    def test_at_once_means_whole_or_not_at_all(self, ends: Ends) -> None:
        data = frame(b"x" * 1000)
        sent = 0
        while ends.channel.send_at_once(data):
            sent += 1
        received = 0
        while select.select([ends.drain_fd], [], [], 0)[0]:
            received += len(os.read(ends.drain_fd, 1 << 16))
        assert received == sent * len(data) > 0

    def test_what_a_pipe_could_tear_apart_is_not_sent_at_once(self, ends: Ends) -> None:
        assert not ends.channel.send_at_once(bytes(select.PIPE_BUF + 1))
        assert not select.select([ends.drain_fd], [], [], 0)[0]


def test_closing_twice_closes_no_descriptor_of_another(ends: Ends) -> None:
    ends.channel.close()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    ends.channel.close()
    for fd in others:
        os.close(fd)  # raises where it was closed already


@given(st.lists(st.binary(max_size=300), max_size=8), st.randoms(use_true_random=False))
def test_however_frames_are_cut_they_come_whole_and_in_order(
    payloads: list[bytes], rng: random.Random
) -> None:
    stream = b"".join(map(frame, payloads))
    ends = Ends()
    received: list[bytes] = []
    try:
        while stream or len(received) < len(payloads):
            cut = rng.randint(1, 100)
            if stream:
                ends.feed(stream[:cut])
                stream = stream[cut:]
            while (payload := ends.channel.receive_ready()) is not None:
                received.append(payload)
    finally:
        ends.hang_up()
        ends.channel.close()
    assert received == payloads
