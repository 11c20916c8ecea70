"""The plain protocols' encodings: one JSON object a line, or msgpack behind its length.

What `env_server` says and is told passes here, over descriptors that `streams` has made private.
"""

from __future__ import annotations

import json
import os
from typing import Any, NoReturn, Protocol

from vecsess.bridge.env_server import EnvServer, Reply
from vecsess.wire.channel import VALUE_BYTES, Channel, EndOfStreamError, frame
from vecsess.wire.values import FrameError, pack_value, unpack_value
from vecsess.workers.outcomes import told


class Transport(Protocol):
    """Requests in, replies out."""

    def receive(self) -> bytes | None:
        """Returns the next request's bytes, without what separates it; None at the end."""
        ...

    def decode(self, data: bytes) -> Any:
        """Returns the request in `data`."""
        ...

    def send(self, reply: Reply) -> None:
        """Sends a reply at once."""
        ...


class JsonLines:
    """One JSON object a line, UTF-8; blank lines are skipped.

    Args:
        read_fd: where requests come from.
        write_fd: where replies go to.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._requests = os.fdopen(read_fd, "rb")
        self._replies = os.fdopen(write_fd, "wb")

    def receive(self) -> bytes | None:  # noqa: D102  # as the protocol says
        for line in self._requests:
            if request := line.strip():
                return request
        return None

    def decode(self, data: bytes) -> Any:  # noqa: D102
        return json.loads(data.decode(), parse_constant=_refuse_constant)

    def send(self, reply: Reply) -> None:  # noqa: D102
        text = json.dumps(reply, separators=(",", ":"), allow_nan=False)
        self._replies.write(text.encode() + b"\n")
        self._replies.flush()


class MsgpackFrames:
    """A msgpack map behind its length (4 bytes, little-endian); empty frames are skipped.

    Args:
        read_fd: where requests come from.
        write_fd: where replies go to.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._channel = Channel(read_fd, write_fd)

    def receive(self) -> bytes | None:  # noqa: D102
        try:
            while not (payload := self._channel.receive(None, VALUE_BYTES)):
                pass
        except EndOfStreamError:
            return None
        except FrameError as error:
            # What follows can't be told apart any more, so this is the end, and the client is told.
            self.send(failure(error))
            return None
        return payload

    def decode(self, data: bytes) -> Any:  # noqa: D102
        return unpack_value(data)

    def send(self, reply: Reply) -> None:  # noqa: D102
        self._channel.send(frame(pack_value(reply)), None)


PROTOCOLS: dict[str, type[JsonLines] | type[MsgpackFrames]] = {
    "jsonl": JsonLines,
    "msgpack": MsgpackFrames,
}


def converse(server: EnvServer, transport: Transport) -> None:
    """Answers requests until one of them is `close`, or until their stream ends."""
    try:
        while not server.closed and (data := transport.receive()) is not None:
            try:
                reply = server.answer(transport.decode(data))
            except Exception as error:
                reply = failure(error)
            transport.send(reply)
    except (BrokenPipeError, EndOfStreamError):
        return  # nobody waits for replies any more


def failure(error: Exception) -> Reply:
    """Returns the reply to a request that could not be carried out."""
    return {"ok": False, "error": f"{type(error).__name__}: {told(error)}"}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


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
