"""What no honest worker says: the protocol's messages, mutated, or with an odd value in a field."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import msgpack
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from vecsess.wire.messages import (
    Collected,
    Described,
    Done,
    Exited,
    Failed,
    Message,
    Replayed,
    Spawned,
)
from vecsess.wire.spaces import describe
from vecsess.wire.values import TUPLE, WIDE_INT, pack_value

FrameOf = Callable[[int], bytes]  # by the number of the command
Path = tuple[Any, ...]  # of keys and positions

_NUMBER = 0xA5C3_5A3C_96E1_1E69  # in place of a command's, until it is known
_NUMBER_BYTES: bytes = msgpack.packb(_NUMBER)


@dataclass(frozen=True)
class _Packed:
    """A value that travels as msgpack in msgpack."""

    value: Any


def messages() -> list[tuple[Message, list[str]]]:
    """Returns some of each kind that a manager may be sent, and who may be sent it."""
    box = spaces.Box(-1, 1, (3, 2), np.float32)
    nested = spaces.Dict({"a": box, "b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(4)))})
    others = spaces.Tuple((spaces.Text(3), spaces.Sequence(box), spaces.OneOf((box, box))))
    pair = [describe(nested), describe(spaces.MultiDiscrete([2, 3]))]
    pairs = [pair, None, None, [describe(nested), describe(spaces.MultiDiscrete([2, 3]))]]
    info = {"text": "é", "array": np.arange(6.0).reshape(2, 3), "scalar": np.int8(3), "t": (1, 2)}
    failure = [1, "raised", "ValueError", "bad", "Traceback"]
    told = {
        "info": info,
        "final_info": {"nested": {"a": 1.5}},
        "warning": "careful",
        "result": [1, "two"],
        "called": None,
        "schema": [["a", "int", "<i8", []], ["b", "dict", [["c", "array", "<f4", [2]]]]],
        "space": describe(others),
        "spec": EnvSpec("X-v0", entry_point="m:X").to_json(),
        "generator": dict(np.random.MT19937(0).state),
    }
    values: list[Any] = [[0, what, _Packed(value)] for what, value in told.items()]
    values.append([1, "observation", _Packed([1, _Packed("abc")])])
    generators = [[None] * 5, [None]]
    spec = EnvSpec("X-v0", entry_point="m:X").to_json()
    fields_of: Any = (
        pairs,
        spec,
        {"render_fps": 30},
        "rgb_array",
        generators,
        [["/a.py", 1, 2, 3]],
    )
    odd_pair = [describe(others), describe(spaces.Graph(box, spaces.Discrete(2)))]
    other: Any = ([odd_pair, None, None, None], "", {}, "", [[None] * 7, [None] * 3], [])
    return [
        (Done(7, values, []), ["session", "reset"]),
        (Done(7, [], [failure, failure]), ["session", "reset"]),
        (Collected(7, values[:4], [failure], 1, ["f", "d"], []), ["rollout", "session"]),
        (Collected(7, [], [], 0, [], ["ValueError", "bad", "Traceback", "1"]), ["rollout"]),
        (Replayed(9, bytes(range(64)), [failure], [["a.py", 1, 2, 3]]), ["replay", "session"]),
        (Described(0, *fields_of), ["handshake"]),
        (Described(0, *other), ["handshake"]),
        (Failed(0, 2, "KeyError", "'missing'", "Traceback"), ["handshake", "session"]),
        (Spawned(1, 2, 12345), ["server"]),
        (Exited(1, 2, 12345, 9, "last words\n"), ["server"]),
    ]


class Liar:
    """Makes frames that are wrong in some way, but answer the right command if they can.

    Args:
        rng: says in which way.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kinds: dict[int, list[_Original]] = {}
        for message, readers in messages():
            self._kinds.setdefault(message.KIND, []).append(_Original.of(message, readers))
        self._packed = [each.packed for kind in self._kinds.values() for each in kind]
        self.kinds = list(self._kinds)

    def lie(self, kind: int) -> tuple[str, FrameOf]:
        """Returns who is to read a frame of some kind, and what makes it."""
        original = self._rng.choice(self._kinds[kind])
        return self._rng.choice(original.readers), partial(self._frame, original)

    def truths(self) -> Iterator[tuple[str, FrameOf]]:
        """Yields what the lies are made of, which is to be taken as it is, as `lie` returns it."""
        for original in (each for kind in self._kinds.values() for each in kind):
            yield original.readers[0], original.frame

    def _frame(self, original: _Original, seq: int) -> bytes:
        if self._rng.random() < 0.5:
            return mutated(original.frame(seq), self._rng, self._packed)
        items = pickle.loads(original.pickled)  # noqa: S301  # it was made here
        if items[1] == _NUMBER:
            items[1] = seq
        _make_odd(items, original.paths, self._rng)
        return _pack(items)


@dataclass(frozen=True)
class _Original:
    """A message as an honest worker sends it, ready to be made wrong many times."""

    readers: list[str]
    packed: bytes
    pickled: bytes  # `[kind, field, ...]`: quicker to load than to copy
    paths: list[Path]  # to each part of it

    def frame(self, seq: int) -> bytes:
        """Returns it as the answer to a command."""
        return self.packed.replace(_NUMBER_BYTES, b"\xcf" + seq.to_bytes(8, "big"))

    @classmethod
    def of(cls, message: Message, readers: list[str]) -> _Original:
        right = replace(message, seq=_NUMBER) if hasattr(message, "seq") else message  # type: ignore[call-arg]
        values = [_ready(getattr(right, field.name)) for field in fields(right)]
        items = [right.KIND, *values]
        return cls(readers, _pack(items), pickle.dumps(items), list(_paths(items)))


def _ready(value: Any) -> Any:
    """Returns a value whose leaves msgpack knows."""
    match value:
        case _Packed():
            return _Packed(_ready(value.value))
        case list():
            return [_ready(part) for part in value]
        case dict():
            return {key: _ready(part) for key, part in value.items()}
        case tuple() | np.ndarray() | np.generic():
            return _extended(value)
        case _:
            return value


def _pack(value: Any) -> bytes:
    return msgpack.packb(value, default=_extended, strict_types=True)  # type: ignore[no-any-return]


def _extended(value: Any) -> Any:
    """Returns what msgpack has no word for; an honest packer refuses some of it."""
    if isinstance(value, _Packed):
        return _pack(value.value)
    if isinstance(value, tuple):
        return msgpack.ExtType(TUPLE, _pack(list(value)))
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return msgpack.ExtType(WIDE_INT, data)
    return msgpack.unpackb(pack_value(value), strict_map_key=False, ext_hook=msgpack.ExtType)


def _odd_values() -> list[Any]:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    wide = [1 << 900, -1, 0, 1 << 63, (1 << 64) - 1, -(1 << 63), 1 << 31, 625, 5]
    return [
        *wide,
        *(None, True, 1.5, float("nan"), float("inf"), 1e308),
        *("", "x", "\x1b[31m\x07", "y" * 100_000, "[" * 50_000, "<f8", "|O", "<U99999999"),
        *(b"", b"\x91" * 1000, b"\xc1", b"\xdf\xff\xff\xff\xff", bytes(16)),
        *([], [[]], [0] * 5000, [{}] * 5000, [-1], [1 << 40] * 8, deep, {}, {"type": "Box"}),
        *({1 << 900: 1}, {(1, 2): 1}, {str(key): key for key in range(2000)}, (1, (2,))),
        *(np.zeros(3), np.zeros((0, 9)), np.array("text"), np.zeros(2, "c16"), np.int8(3)),
        {"type": "MultiBinary", "n": 1 << 40},
        {"type": "Custom", "module": "os", "name": "path", "shape": [], "dtype": "", "state": {}},
        msgpack.ExtType(99, b"abc"),
        msgpack.ExtType(TUPLE, b"\x80"),
    ]


_ODD = [_ready(odd) for odd in _odd_values()]


def _make_odd(items: list[Any], paths: list[Path], rng: random.Random) -> None:
    """Puts odd values into fields, takes some away or repeats them, however deep they lie."""
    chosen = rng.choices(paths, k=rng.choice((1, 1, 2)))
    for container, key in [_place(items, path) for path in chosen]:  # found before any is changed
        if not isinstance(container, list):
            container[key] = rng.choice(_ODD)
        elif key < len(container):
            odd = (
                [rng.choice(_ODD)] if rng.random() < 0.8 else rng.choice(([], [container[key]] * 2))
            )
            container[key : key + 1] = odd


def _place(value: Any, path: Path) -> tuple[Any, Any]:
    """Returns the container where a path ends, and the key there."""
    for key in path[:-1]:
        value = value.value if key is _INSIDE else value[key]
    return value, path[-1]


_INSIDE = object()  # of what travels as msgpack in msgpack


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yields the path to each part of a value."""
    if isinstance(value, _Packed):
        yield from _paths(value.value, (*path, _INSIDE))
    elif isinstance(value, list | dict):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield *path, key
            yield from _paths(value[key], (*path, key))


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


def mutated(original: bytes, rng: random.Random, originals: list[bytes]) -> bytes:
    """Returns bytes of which some were changed, lost or put in, or came from others."""
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if data:
            rng.choices(_MUTATIONS, (8, 8, 3, 3, 2, 2, 3, 1))[0](data, rng, originals)
    return bytes(data)
