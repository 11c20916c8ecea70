"""An environment that reaches for what belongs to the protocol: the reply pipe and the slab."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from gymnasium import spaces

from tests.envs import CountingEnv
from vecsess.wire.slab import LINE, RUNNING
from vecsess.wire.values import WIDE_INT, pack_value


def reply_fd() -> int:
    """Returns the end of the reply pipe: the only pipe beyond stderr that can be written."""
    for fd in range(3, 64):
        try:
            is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        except OSError:
            continue
        if is_pipe and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            return fd
    raise RuntimeError("no reply pipe found")


def slab_fd() -> int:
    """Returns the memfd that is this worker's range."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the folder's own descriptor has gone by now
            if "memfd:vecsess" in str(link.readlink()):
                return int(link.name)
    raise RuntimeError("no slab found")


def send(payload: bytes) -> None:
    os.write(reply_fd(), struct.pack("<I", len(payload)) + payload)


def answer(*items: Any) -> Callable[[], None]:
    return lambda: send(msgpack.packb(items))


def command_number() -> int:
    """Returns the number of the command that is being carried out, as soon as it is told."""
    fd, until = slab_fd(), time.monotonic() + 10
    while time.monotonic() < until:
        words = os.pread(fd, 2 * LINE, 0)
        number, answered = (
            struct.unpack_from("<Q", words)[0],
            struct.unpack_from("<Q", words, LINE)[0],
        )
        if number > answered:
            return int(number)
    raise TimeoutError("the manager never told the number of its command")


def done(values: Any = (), failures: Any = ()) -> Callable[[], None]:
    """Answers the command that is being carried out; the worker's own reply comes too late."""

    def deed() -> None:
        send(pack_value([DONE, command_number(), list(values), list(failures)]))

    return deed


def told(what: str, value: Any) -> Callable[[], None]:
    return done([[0, what, pack_value(value)]])


def cut_the_slab() -> None:
    """A success would end the trainer with SIGBUS at its next look."""
    fd = slab_fd()
    os.ftruncate(fd, 1 << 30)  # it may grow: the manager maps what it has measured out itself
    for size in (0, 1 << 12):
        try:
            os.ftruncate(fd, size)
        except PermissionError:
            continue
        raise AssertionError("the slab could be cut")
    raise KeyError("it was sealed")


def scribble() -> None:
    """Fills the range with what no environment would write, hints included."""
    fd = slab_fd()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long]
    size = os.fstat(fd).st_size
    libc.pwrite(fd, b"\xff" * size, size, 0)


def for_ever(deed: Callable[[], object], pause_s: float = 0.0) -> Callable[[], None]:
    """Does it until the process is killed."""

    def deeds() -> None:
        while True:
            deed()
            time.sleep(pause_s)

    return deeds


def move_on() -> None:
    """Tells of another environment that is running, and of a reset, in turns."""
    for place in (0, 1, -1):
        os.pwrite(slab_fd(), struct.pack("<q", place), RUNNING * LINE)


def drip() -> None:
    """Writes a long frame, byte by byte."""
    os.write(reply_fd(), struct.pack("<I", 60_000))
    for_ever(lambda: os.write(reply_fd(), b"\x00"), 0.03)()


def answer_ahead() -> None:
    """Answers the next commands before they are given."""
    number = command_number()
    for ahead in range(1, 4):
        send(pack_value([DONE, number + ahead, [], []]))


def stale() -> None:
    send(pack_value([DONE, command_number() - 1, [], []]))


def collected(
    steps: int, dtypes: list[str], trouble: Any = (), failures: Any = ()
) -> Callable[[], None]:
    """Answers a rollout; in any other command it is a breach."""

    def deed() -> None:
        answered = [COLLECTED, command_number(), [], list(failures), steps, dtypes, list(trouble)]
        send(pack_value(answered))

    return deed


DONE, COLLECTED = 34, 37
FAILURE = [0, "raised", "KeyError", "", ""]
ENDLESS: dict[str, Callable[[], object]] = {
    "move on for ever": for_ever(move_on),
    "drip": drip,
    "stale replies": for_ever(stale, 0.03),
    "a flood of stale replies": for_ever(stale),
}
COLLIDING = [
    msgpack.ExtType(WIDE_INT, (key * ((1 << 61) - 1)).to_bytes(12, "little"))
    for key in range(1, 1000)
]
COLLIDING_MAP = msgpack.packb(dict.fromkeys(COLLIDING))
BEYOND: dict[str, Any] = {**np.random.MT19937(0).state}
BEYOND["state"] = {**BEYOND["state"], "pos": 1 << 40}
ODD_ANSWERS: dict[str, Callable[[], object]] = {
    "an info that is a number": told("info", 5),
    "an info that is none": told("info", None),
    "a final info that is a list": told("final_info", [1]),
    "a warning that is a number": told("warning", 1 << 900),
    "a value of no name": told("nonsense", 1),
    "a space that is none": told("space", {"type": "Box"}),
    "a spec that is a number": told("spec", "5"),
    "a row of many digits": done([[1 << 900, "info", b"\x80"]]),
    "a failure that is text": done((), ["raised"]),
    "a failure of another's row": done((), [[1, "raised", "KeyError", "", ""]]),
    "many failures": done((), [[0, "raised", "KeyError", "", ""]] * 9),
    "many objects": done([[0, "info", msgpack.packb({"a": [{}] * (1 << 21)})]]),
    "keys of one hash": done([[0, "info", COLLIDING_MAP]]),
    "a generator beyond its arrays": told("generator", BEYOND),
}
ODD_ROLLOUTS: dict[str, Callable[[], object]] = {
    "more steps than there are": collected(7, ["f", "f"]),
    "steps below none": collected(-1, ["f", "f"]),
    "fewer steps, and no reason": collected(2, ["f", "f"]),
    "all steps too early": collected(6, ["f", "f"]),
    "other dtypes than the others": collected(6, ["d", "d"]),
    "other dtypes, and few steps": collected(2, ["e", "d"], (), [FAILURE]),
    "dtypes of no step": collected(0, ["d", "d"], (), [FAILURE]),
    "one dtype of no step": collected(0, ["f"], (), [FAILURE]),
    "objects": collected(6, ["O", "f"]),
    "half a trouble": collected(2, ["f", "f"], ["ValueError", "bad"]),
    "another reply": done(),
}
DEEDS: dict[str, Callable[[], object]] = {
    "garbage": lambda: send(b"\xc1" * 40),
    "no frame at all": lambda: os.write(reply_fd(), b"\xff" * 400),
    "a frame that is too long": lambda: os.write(reply_fd(), b"\xff\xff\xff\x7f"),
    "a reply of the future": answer(DONE, 1 << 40, [], []),
    "a reply of another kind": answer(36, 1 << 40, 0, "", "", ""),
    "a command": answer(4, 1, 0),
    "a field of another type": answer(DONE, "one", [], []),
    "code": lambda: send(b"cos\nsystem\n(S'echo owned > owned'\ntR."),
    "cut the slab": cut_the_slab,
    "scribble": scribble,
    "hang up": lambda: os.close(reply_fd()),
    "answer ahead": answer_ahead,
    **ENDLESS,
    **ODD_ANSWERS,
    **ODD_ROLLOUTS,
}


class HostileEnv(CountingEnv):
    """Does one of its deeds in its second step, or when it is closed."""

    def __init__(self, deed: str, *, at_close: bool = False) -> None:
        super().__init__(length=1000)
        self.deed, self.at_close = deed, at_close

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.steps == 2 and not self.at_close:
            DEEDS[self.deed]()
        return result

    def close(self) -> None:
        if self.at_close:
            DEEDS[self.deed]()


class SilentEnv(CountingEnv):
    """Shows texts, and answers its first reset by itself, with nothing."""

    def __init__(self, *, silent: bool) -> None:
        super().__init__()
        self.observation_space, self._silent = spaces.Text(9), silent

    def reset(self, **arguments: Any) -> Any:
        super().reset(**arguments)
        if self._silent:
            done()()
        return "begun", {}
