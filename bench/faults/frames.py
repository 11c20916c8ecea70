"""Mutated frames, fed to all of the manager that reads what workers send.

Runs in a process of its own: one that crashes or takes too much memory is a figure.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from vecsess.errors import VecsessError
from vecsess.fleet.reports import Reports, check_description, failures_of, values_of
from vecsess.fleet.worker import Worker
from vecsess.wire.channel import Channel
from vecsess.wire.messages import (
    REPLIES,
    SERVER_REPLIES,
    Described,
    Done,
    Exited,
    Failed,
    Message,
    Replayed,
    Spawned,
    decode,
    encode,
)
from vecsess.wire.slab import Layout
from vecsess.wire.spaces import build_space, describe
from vecsess.wire.values import FrameError, pack_value

SLOW_S = 1.0  # for one frame of at most a few KB
CAP_BYTES = 64 << 20  # of growth over the whole run
_TIMEOUT_S = 3600.0
_ROWS = 4
_LAYOUT = Layout(spaces.Discrete(2), spaces.Discrete(2), _ROWS)
_REPORTS = Reports(_LAYOUT.observation_space, _LAYOUT.views(bytearray(_LAYOUT.stride_bytes)))


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What came of the frames; `crashes` holds the first few errors that are not ours."""

    frames: int
    accepted: int
    refused: int
    crashes: list[str]
    slow: int
    grown_bytes: int

    @property
    def failures(self) -> int:
        """How many frames did what none may do."""
        return len(self.crashes) + self.slow + (self.grown_bytes > CAP_BYTES)


def feed_elsewhere(count: int, seed: int) -> Fed:
    """Feeds `count` frames in another process."""
    command = [sys.executable, "-m", __name__, str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        crash = f"exit code {done.returncode}: {done.stderr[-500:]}"
        return Fed(frames=count, accepted=0, refused=0, crashes=[crash], slow=0, grown_bytes=0)
    return Fed(**json.loads(done.stdout))


def feed(count: int, seed: int) -> Fed:
    """Feeds `count` mutated frames in this process."""
    rng = random.Random(seed)  # an experiment
    originals = [encode(message) for message in _messages()]
    before = _peak_bytes()
    accepted, refused, slow = 0, 0, 0
    crashes: list[str] = []
    for _ in range(count):
        frame = _mutated(rng.choice(originals), rng, originals)
        began = time.perf_counter()
        try:
            _read(frame)
            accepted += 1
        except (FrameError, VecsessError):
            refused += 1
        except Exception as error:
            if len(crashes) < 10:
                crashes.append(f"{error!r} from {frame[:200]!r}")
        slow += time.perf_counter() - began > SLOW_S
    grown = _peak_bytes() - before
    return Fed(
        frames=count,
        accepted=accepted,
        refused=refused,
        crashes=crashes,
        slow=slow,
        grown_bytes=grown,
    )


def _read(frame: bytes) -> None:
    """Does with a frame all that the manager does, whoever sent it."""
    worker = Worker(0, 0, _ROWS, Channel(-1, -1), -1)
    if frame[1:2] in (b"\x61", b"\x62"):  # the kinds of the fork server
        decode(frame, SERVER_REPLIES)
        return
    reply = decode(frame, REPLIES)
    match _REPORTS.read(worker, reply, type(reply)):
        case Done() as done:
            answers = {0: done}
            failures_of(answers, [worker])
            for _ in values_of(answers, [worker]):
                pass
        case Described() as described:
            check_description(worker, described)
            for entry in described.spaces:
                if entry is not None:
                    build_space(entry[0])
                    build_space(entry[1])


def _messages() -> list[Message]:
    """Returns one of each kind that a manager may be sent, with something of each type in it."""
    box = spaces.Box(-1, 1, (3, 2), np.float32)
    nested = spaces.Dict({"a": box, "b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(4)))})
    pair = [describe(nested), describe(spaces.MultiDiscrete([2, 3]))]
    info = {"text": "é", "array": np.arange(6.0).reshape(2, 3), "scalar": np.int8(3), "t": (1, 2)}
    failure = [1, "raised", "ValueError", "bad", "Traceback"]
    return [
        Described(0, [pair, None, None, pair], '{"id": "X-v0"}', {"a": 30}, "rgb_array", [[], []]),
        Done(7, [[0, "info", pack_value(info)], [3, "final_info", pack_value({})]], [failure]),
        Done(1 << 40, [], []),
        Replayed(9, bytes(range(64)), [failure]),
        Failed(0, 2, "KeyError", "'missing'", "Traceback"),
        Spawned(1, 2, 12345),
        Exited(1, 2, 12345, 9, "last words\n"),
    ]


# --- mutations -----------------------------------------------------------------------------------

_INTERESTING = (
    b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc4\xc5\xc6\xc7\xc8\xc9\xca\xcb\xcf\xd3"
    b"\xd4\xd8\xd9\xda\xdb\xdc\xdd\xde\xdf\xe0\xff"
)


def _flip(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.choice(_INTERESTING)


def _insert(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.randbytes(rng.randrange(1, 9))


def _cut(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + rng.randrange(1, 17)]


def _truncate(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _splice(data: bytearray, rng: random.Random, originals: list[bytes]) -> None:
    other = rng.choice(originals)
    begin = rng.randrange(len(other))
    data[rng.randrange(len(data)) :] = other[begin:]


def _lie_about_length(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    place = rng.randrange(len(data))
    header = rng.choice((b"\xc6", b"\xdb", b"\xdd", b"\xdf", b"\xc9"))
    data[place : place + 5] = header + rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))


def _nest(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.choice((b"\x91", b"\x81", b"\xdc\x00\x01")) * rng.randrange(1, 2000)


_MUTATIONS: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (
    _flip,
    _replace,
    _insert,
    _cut,
    _truncate,
    _splice,
    _lie_about_length,
    _nest,
)


def _mutated(original: bytes, rng: random.Random, originals: list[bytes]) -> bytes:
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if data:
            rng.choices(_MUTATIONS, (8, 8, 3, 3, 2, 2, 3, 1))[0](data, rng, originals)
    return bytes(data)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: list[Any]) -> None:
    """Prints what came of it as JSON."""
    print(json.dumps(asdict(feed(int(arguments[0]), int(arguments[1])))))


if __name__ == "__main__":
    main(sys.argv[1:])
