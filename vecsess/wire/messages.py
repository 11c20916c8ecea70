"""The protocol on one screen: one frozen dataclass per message, validated on receipt.

A message is a msgpack array `[kind, field, ...]`, its fields in the order below. Every command
carries a sequence number that its reply echoes. What does not fit a field's type is a
`FrameError`, and so is more than `OBJECTS` in one frame; nothing here reads a clock, a pipe or
shared memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import msgpack

from vecsess.wire.channel import HEADER, frame
from vecsess.wire.values import (
    MAX_OBJECTS,
    FieldCountError,
    FieldTypeError,
    FrameError,
    pack_value,
    unpack_value,
)

MAX_SOURCES = 512  # files that a worker tells of


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `KIND` is its first element on the wire, `OBJECTS` the most it may hold."""

    KIND: ClassVar[int]
    OBJECTS: ClassVar[int | None] = 1 << 12


@dataclass(frozen=True, slots=True)
class Command(Message):
    """What the manager sends to a worker; the numbers of its commands grow."""

    OBJECTS: ClassVar[int | None] = None  # the manager is trusted
    seq: int


@dataclass(frozen=True, slots=True)
class Reply(Message):
    """What a worker answers; `seq` is the command's."""

    seq: int


# --- manager to worker: one command at a time, each answered by exactly one reply ----------------


@dataclass(frozen=True, slots=True)
class Start(Command):
    """Build `rows` environments from `source`, the first is `first_env`; answered `Described`."""

    KIND: ClassVar[int] = 1
    first_env: int
    rows: int
    source: bytes  # cloudpickle; the one direction in which code travels
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attach(Command):
    """The slab has its final size now: map it; answered `Done`."""

    KIND: ClassVar[int] = 2
    rows: int
    stride_bytes: int


@dataclass(frozen=True, slots=True)
class Reset(Command):
    """Reset these rows, each with its seed; `options` is a pickle; answered `Done`."""

    KIND: ClassVar[int] = 3
    rows: list[int]
    seeds: list[int | None]
    options: bytes
    infos: int


@dataclass(frozen=True, slots=True)
class Step(Command):
    """Step every row with the actions in the slab; answered `Done`."""

    KIND: ClassVar[int] = 4
    infos: int  # 0 none, 1 final ones only, 2 all


@dataclass(frozen=True, slots=True)
class StepSome(Command):
    """Step only these rows; answered `Done`."""

    KIND: ClassVar[int] = 8
    infos: int
    rows: list[int]


@dataclass(frozen=True, slots=True)
class StepWith(Command):
    """Step these rows with parts of actions that have no place in the slab; answered `Done`."""

    KIND: ClassVar[int] = 9
    infos: int
    rows: list[int]
    actions: list[Any]  # for each such part a list with msgpack for each of `rows`


@dataclass(frozen=True, slots=True)
class Call(Command):
    """`verb` is "call", "get", "set" or "wrapped"; for each row a pickle; answered `Done`."""

    KIND: ClassVar[int] = 5
    rows: list[int]
    verb: str
    name: str
    arguments: list[bytes]


@dataclass(frozen=True, slots=True)
class Replay(Command):
    """Bring one row back: `script` is a list of logged commands; answered `Replayed`."""

    KIND: ClassVar[int] = 6
    row: int
    script: list[Any]
    budget_ms: int  # stop when it has taken longer


@dataclass(frozen=True, slots=True)
class Rollout(Command):
    """Act and step `horizon` times; the policy lies in the broadcast; answered `Collected`."""

    KIND: ClassVar[int] = 10
    horizon: int
    sizes: list[int]  # of the pickle and its buffers
    state: list[Any]  # [shape, dtype] of one row of each array of the policy's state


@dataclass(frozen=True, slots=True)
class Close(Command):
    """Close the environments and end; answered `Done`."""

    KIND: ClassVar[int] = 7


# --- worker to manager ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Described(Reply):
    """What the worker built: one entry a row in `spaces`, plain data as in wire/spaces.py."""

    KIND: ClassVar[int] = 33
    OBJECTS: ClassVar[int | None] = MAX_OBJECTS // 8  # a space takes more than its description
    spaces: list[Any]  # [[observation, action], ...], one pair a row
    spec: str  # EnvSpec as JSON, "" without one
    metadata: dict[str, Any]
    render_mode: str
    generators: list[Any]  # of the first row's spaces, as in wire/generators.py
    sources: list[Any]  # of files that it was read from: path, modified, size, changed; in ns


@dataclass(frozen=True, slots=True)
class Done(Reply):
    """The command was carried out; per row what does not go through the slab."""

    KIND: ClassVar[int] = 34
    OBJECTS: ClassVar[int | None] = MAX_OBJECTS
    values: list[Any]  # [[row, what, msgpack], ...]; what: "info", "final_info", "result", ...
    failures: list[Any]  # [[row, kind, type or field, message, traceback], ...]


@dataclass(frozen=True, slots=True)
class Collected(Done):
    """The rollout was filled, up to where something failed; it lies behind the slab."""

    KIND: ClassVar[int] = 37
    steps: int  # that were completed
    dtypes: list[str]  # of log-probabilities and values, as one character
    trouble: list[str]  # the policy's: type, message, traceback, env; empty where there is none


@dataclass(frozen=True, slots=True)
class Replayed(Reply):
    """The row was replayed, as far as `failures` does not say otherwise."""

    KIND: ClassVar[int] = 35
    checksums: bytes  # 8 for each reset and each step
    failures: list[Any]
    sources: list[Any]  # of files that were read since the last reply that tells of some


@dataclass(frozen=True, slots=True)
class Failed(Reply):
    """The command as a whole failed, for instance the constructor of an environment."""

    KIND: ClassVar[int] = 36
    row: int
    type: str
    message: str
    traceback: str


# --- manager to fork server, over a socket; the first three come with descriptors ----------------


@dataclass(frozen=True, slots=True)
class Prepare(Message):
    """Import these modules."""

    KIND: ClassVar[int] = 65
    modules: list[str]


@dataclass(frozen=True, slots=True)
class Spawn(Message):
    """Start a worker; with it come command pipe, reply pipe, slab and broadcast."""

    KIND: ClassVar[int] = 66
    worker: int
    generation: int
    method: str  # "fork" or "spawn"
    variables: dict[str, Any]  # texts, for its environment


@dataclass(frozen=True, slots=True)
class Kill(Message):
    """End a worker with SIGKILL, its process group and its grandchildren."""

    KIND: ClassVar[int] = 67
    worker: int
    generation: int
    ask_ms: int  # first ask it for its stack, and wait so long for it; 0 does not ask


@dataclass(frozen=True, slots=True)
class Spawned(Message):
    """The worker runs; with it comes its pidfd."""

    KIND: ClassVar[int] = 97
    worker: int
    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited(Message):
    """The worker was reaped, and so were all that it started; `status` as from `os.waitpid`."""

    KIND: ClassVar[int] = 98
    worker: int
    generation: int
    pid: int
    status: int
    stderr: str


# The kind of a replay's failure that is none of the environment's.
OVER_BUDGET = "over budget"
# What the fork server writes to a hung worker's last output before it asks for the stack.
STACK_MARK = "-- its stack, most recent call first:"

COMMANDS: tuple[type[Command], ...] = (
    Start,
    Attach,
    Reset,
    Step,
    StepSome,
    StepWith,
    Call,
    Replay,
    Rollout,
    Close,
)
REPLIES: tuple[type[Reply], ...] = (Described, Done, Collected, Replayed, Failed)
SERVER_COMMANDS = (Prepare, Spawn, Kill)
SERVER_REPLIES = (Spawned, Exited)

_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "int": lambda value: type(value) is int and value.bit_length() <= 64,
    "str": lambda value: type(value) is str,
    "bytes": lambda value: type(value) is bytes,
    "list[Any]": lambda value: type(value) is list,
    "list[bytes]": lambda value: type(value) is list and all(type(x) is bytes for x in value),
    "list[int]": lambda value: type(value) is list and all(type(x) is int for x in value),
    "list[str]": lambda value: type(value) is list and all(type(x) is str for x in value),
    "list[int | None]": lambda value: (
        type(value) is list and all(x is None or type(x) is int for x in value)
    ),
    "dict[str, Any]": lambda value: type(value) is dict and all(type(key) is str for key in value),
}
_KINDS: tuple[type[Message], ...] = (*COMMANDS, *REPLIES, *SERVER_COMMANDS, *SERVER_REPLIES)
_FIELDS = {
    kind.KIND: (kind, [(field.name, str(field.type)) for field in fields(kind)]) for kind in _KINDS
}

M = TypeVar("M", bound=Message)


_NUMBER = struct.Struct(">Q")
_UINT64 = b"\xcf"  # msgpack: eight bytes follow, the first the highest
# The two messages of every step, of one length each, so that a `Struct` does for msgpack: behind
# the head comes the number, as msgpack's unsigned integer of 64 bits, whatever its size.
_STEP = struct.Struct(">2scQB")
_STEP_HEAD: bytes = msgpack.packb((Step.KIND, 0, 0))[:2]  # an array of three, the first the kind
_STEP_FRAME = frame(bytes(_STEP.size))[: HEADER.size] + _STEP_HEAD + _UINT64
_DONE_HEAD: bytes = msgpack.packb((Done.KIND, 0, (), ()))[:2]
_DONE_TAIL: bytes = msgpack.packb(()) * 2  # no values, no failures
_DONE_BYTES = len(_DONE_HEAD + _UINT64 + _DONE_TAIL) + _NUMBER.size
_DONE_FRAME = frame(bytes(_DONE_BYTES))[: HEADER.size] + _DONE_HEAD + _UINT64


def acknowledgement(seq: int) -> bytes:
    """Returns the frame of the plainest reply, `Done` with nothing in it, ready to be compared."""
    return _DONE_FRAME + _NUMBER.pack(seq) + _DONE_TAIL


def step_command(seq: int, infos: int) -> bytes:
    """Returns the frame of a `Step`; the same bytes go to every worker."""
    return _STEP_FRAME + _NUMBER.pack(seq) + bytes((infos,))


def step_numbers(payload: bytes) -> tuple[int, int] | None:
    """Returns `(seq, infos)` of what `step_command` made, None where it is another command.

    The worker's hot path: it may trust the manager, so it looks at no more than the kind.
    """
    if len(payload) != _STEP.size:
        return None
    head, _, seq, infos = _STEP.unpack(payload)
    return (seq, infos) if head == _STEP_HEAD else None


def encode(message: Message) -> bytes:
    """Returns the message as msgpack, without a length prefix."""
    _, names = _FIELDS[message.KIND]
    return pack_value([message.KIND, *(getattr(message, name) for name, _ in names)])


def decode(payload: bytes | memoryview, allowed: tuple[type[M], ...]) -> M:
    """Returns the message in `payload`, every field of the type that its class declares.

    Raises:
        FrameError: not msgpack, not one of the kinds allowed here, or a field of another type.
    """
    kind, names = _FIELDS.get(payload[1] if len(payload) > 1 else 0, (None, []))
    most = Message.OBJECTS if kind is None or kind not in allowed else kind.OBJECTS
    items = unpack_value(payload, max_objects=most)
    if type(items) is not list or not items or type(items[0]) is not int:
        raise FrameError(f"expected an array that begins with a kind, got {type(items).__name__}")
    if kind is None or kind not in allowed or items[0] != kind.KIND:
        told = f"kind {items[0]}" if items[0].bit_length() <= 64 else "a number of many digits"
        raise FrameError(f"expected one of {[k.__name__ for k in allowed]}, got {told}")
    if len(items) != len(names) + 1:
        expected = [name for name, _ in names]
        raise FieldCountError(f"{kind.__name__}: expected {expected}, got {len(items) - 1} fields")
    for value, (name, annotation) in zip(items[1:], names, strict=True):
        if not _CHECKS[annotation](value):
            got = "one of more than 64 bits" if type(value) is int else type(value).__name__
            raise FieldTypeError(f"{kind.__name__}.{name}: expected {annotation}, got {got}")
    return kind(*items[1:])
