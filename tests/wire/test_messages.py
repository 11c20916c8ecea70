"""The protocol: every message comes back, and nothing else is taken for one."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import fields
from typing import Any

import pytest
from gymnasium import spaces

from vecsess.errors import VecsessError
from vecsess.fleet.held import Held
from vecsess.fleet.reports import Reports, check_description, failures_of, values_of
from vecsess.fleet.worker import Worker
from vecsess.wire import messages
from vecsess.wire.channel import HEADER
from vecsess.wire.messages import (
    COMMANDS,
    REPLIES,
    SERVER_COMMANDS,
    SERVER_REPLIES,
    Described,
    Done,
    Failed,
    Message,
    Replayed,
    Step,
    acknowledgement,
    decode,
    encode,
    step_command,
)
from vecsess.wire.slab import Layout
from vecsess.wire.spaces import build_space, describe
from vecsess.wire.values import FieldCountError, FieldTypeError, FrameError, pack_value

KINDS: tuple[type[Message], ...] = (*COMMANDS, *REPLIES, *SERVER_COMMANDS, *SERVER_REPLIES)
RIGHT: dict[str, Any] = {
    "int": 3,
    "str": "text",
    "bytes": b"bytes",
    "list[Any]": [1, "a", None],
    "list[bytes]": [b"a", b""],
    "list[int]": [1, 2],
    "list[str]": ["a", "b"],
    "list[int | None]": [1, None],
    "dict[str, Any]": {"a": 1},
}
ANYTHING: list[Any] = [
    None,
    True,
    0,
    1.5,
    "text",
    b"bytes",
    [],
    [None],
    [1.5],
    ["a"],
    [b"a"],
    [True],
    {},
    {1: 2},
    {"a": 1},
    (1, 2),
]
FITTING: dict[str, Any] = {
    "int": lambda value: type(value) is int,
    "str": lambda value: type(value) is str,
    "bytes": lambda value: type(value) is bytes,
    "list[Any]": lambda value: type(value) is list,
    "list[bytes]": lambda value: value in ([], [b"a"]) and type(value) is list,
    "list[int]": lambda value: type(value) is list and not value,
    "list[str]": lambda value: value in ([], ["a"]) and type(value) is list,
    "list[int | None]": lambda value: value in ([], [None]) and type(value) is list,
    "dict[str, Any]": lambda value: value in ({}, {"a": 1}) and type(value) is dict,
}


def example(kind: type[Message]) -> Message:
    return kind(*(RIGHT[str(field.type)] for field in fields(kind)))


def test_every_kind_has_a_number_of_its_own() -> None:
    declared = [
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Message) and "KIND" in vars(kind)
    ]
    assert set(declared) == set(KINDS)
    assert len({kind.KIND for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
class TestKind:
    def test_it_comes_back(self, kind: type[Message]) -> None:
        message = example(kind)
        assert decode(encode(message), KINDS) == message
        assert decode(memoryview(encode(message)), (kind,)) == message

    def test_it_is_refused_where_it_is_not_allowed(self, kind: type[Message]) -> None:
        others = tuple(other for other in KINDS if other is not kind)
        with pytest.raises(FrameError, match=f"got kind {kind.KIND}"):
            decode(encode(example(kind)), others)

    def test_a_field_of_any_other_type_is_refused(self, kind: type[Message]) -> None:
        names = [(field.name, str(field.type)) for field in fields(kind)]
        right = [RIGHT[annotation] for _, annotation in names]
        for index, (name, annotation) in enumerate(names):
            for value in ANYTHING:
                items = [kind.KIND, *right[:index], value, *right[index + 1 :]]
                if FITTING[annotation](value):
                    assert getattr(decode(pack_value(items), KINDS), name) == value
                else:
                    with pytest.raises(FieldTypeError, match=f"{kind.__name__}.{name}: expected"):
                        decode(pack_value(items), KINDS)

    def test_a_field_too_few_or_too_many_is_refused(self, kind: type[Message]) -> None:
        items = [kind.KIND, *(RIGHT[str(field.type)] for field in fields(kind))]
        for wrong in (items[:-1], [*items, 0], items[:1]):
            with pytest.raises(FieldCountError, match=f"{kind.__name__}: expected"):
                decode(pack_value(wrong), KINDS)


@pytest.mark.parametrize("plain", [None, 34, "34", {}, [], [None], [34.0], [True], ["Done"], [99]])
def test_what_is_no_message_is_refused(plain: Any) -> None:
    with pytest.raises(FrameError, match="expected"):
        decode(pack_value(plain), KINDS)


def test_the_prepared_frames_are_the_messages() -> None:
    for seq in (0, 1, 127, 128, 1 << 20, 1 << 40):
        assert decode(acknowledgement(seq)[HEADER.size :], REPLIES) == Done(seq, [], [])
        assert decode(step_command(seq, 2)[HEADER.size :], COMMANDS) == Step(seq, 2)


# --- mutated frames ------------------------------------------------------------------------------

SPACES = [describe(spaces.Box(0, 1, (3, 2))), describe(spaces.Dict(a=spaces.Discrete(3)))]
REPLY_EXAMPLES: list[Message] = [
    Described(1, [SPACES, None, SPACES], "{}", {"render_fps": 30}, "human", [[None], [None]], []),
    Done(2, [[0, "info", pack_value({"a": 1.5})], [2, "warning", pack_value("x")]], []),
    Done(
        3, [], [[1, "raised", "ValueError(Exception)", "text", "trace"], [0, "form", "r", "", ""]]
    ),
    Replayed(4, b"12345678" * 3, [], [["a.py", 1, 2, 3]]),
    Failed(5, 2, "KeyError", "text", "trace"),
]
ROUNDS = 20_000
LAYOUT = Layout(spaces.Discrete(2), spaces.Discrete(2), 3)
REPORTS = Reports(LAYOUT.observation_space, LAYOUT.views(bytearray(LAYOUT.stride_bytes)), Held())


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with a few of them changed, lost, repeated or put in."""
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(mutated)) if mutated else 0
        match rng.randrange(5):
            case 0 if mutated:
                mutated[place] = rng.randrange(256)
            case 1 if mutated:
                mutated[place] ^= 1 << rng.randrange(8)
            case 2:
                del mutated[place : place + rng.randint(1, 4)]
            case 3:
                mutated[place:place] = rng.randbytes(rng.randint(1, 5))
            case _:
                mutated[place:place] = mutated[place : place + 8]
    return bytes(mutated)


def take(payload: bytes) -> bool:
    """Does what the manager does with a reply; returns whether it was one."""
    worker = Worker(0, 0, 3, None, -1)  # type: ignore[arg-type]  # nothing is sent
    try:
        reply = decode(payload, REPLIES)
        reply = REPORTS.read(worker, reply, type(reply))
        if isinstance(reply, Described):
            check_description(worker, reply)
            for pair in reply.spaces:
                for plain in pair or ():
                    build_space(plain)
        elif isinstance(reply, Done):
            list(values_of({0: reply}, [worker]))
            failures_of({0: reply}, [worker])
    except (FrameError, VecsessError):
        return False
    return True


def test_a_mutated_reply_is_a_reply_or_an_error_of_ours() -> None:
    rng = random.Random(1)
    payloads = [encode(example) for example in REPLY_EXAMPLES]
    taken = sum(take(mutate(rng.choice(payloads), rng)) for _ in range(ROUNDS))
    assert all(map(take, payloads))
    assert 0 < taken < ROUNDS // 2, "some mutations are harmless, most are not"


def test_a_mutated_reply_can_not_take_much_memory() -> None:
    rng = random.Random(2)
    payload = encode(REPLY_EXAMPLES[0])
    tracemalloc.start()
    try:
        for _ in range(2_000):
            take(mutate(payload, rng))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 30
