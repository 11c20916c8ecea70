"""What workers report beside the slab: failures, warnings, results; untrusted until read here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from vecsess.errors import (
    BadEncoding,
    ContractViolation,
    MissingField,
    ProtocolError,
    SpaceError,
    VecsessError,
    WrongFieldType,
    env_error,
    hint_at_envs,
)
from vecsess.fleet.worker import Worker
from vecsess.wire.forms import unpack_piped
from vecsess.wire.leaves import FormError, Space, all_leaves_of, field_name, part_at
from vecsess.wire.messages import Described, Done, Failed
from vecsess.wire.slab import Views
from vecsess.wire.spaces import build_space
from vecsess.wire.values import (
    EncodingError,
    FieldCountError,
    FieldTypeError,
    FrameError,
    unpack_value,
)

OBSERVATION, FINAL, SCHEMA = "observation", "final", "schema"
_ASIDE = ("warning", OBSERVATION, FINAL, SCHEMA)  # what is taken as it comes, or only warned of
_SHAPE = (int, str, bytes)
_FAILURE = (int, str, str, str, str)


_BREACHES: dict[type[FrameError], type[ProtocolError]] = {
    EncodingError: BadEncoding,
    FieldCountError: MissingField,
    FieldTypeError: WrongFieldType,
}


def breach_type(error: FrameError) -> type[ProtocolError]:
    """Returns the class of error that tells what was wrong with a frame."""
    return _BREACHES.get(type(error), ProtocolError)


def printable(text: str) -> str:
    """Returns remote text with control characters escaped, so that it can't drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def values_of(answers: dict[int, Done], workers: list[Worker]) -> Iterator[tuple[int, str, Any]]:
    """Yields `(env, what, value)` for infos and results: all that the caller is to get.

    Raises:
        ProtocolError: an entry that is not `[row, what, msgpack]`.
    """
    for worker, row, what, data in _entries(answers, workers):
        if what not in _ASIDE:
            yield worker.first_env + row, what, _value(worker, what, data)


def warn_once(answers: dict[int, Done], workers: list[Worker], warned: set[str]) -> None:
    """Warns of what the workers warn of, unless `warned` holds it already.

    Every worker warns once of each thing; the user is warned once for all of them.

    Raises:
        ProtocolError: an entry that is not `[row, what, msgpack]`.
    """
    for worker, row, what, data in _entries(answers, workers):
        if what != "warning":
            continue
        text = printable(str(_value(worker, what, data)))
        if text not in warned:
            warned.add(text)
            warnings.warn(f"env {worker.first_env + row}: {text}", UserWarning, stacklevel=2)


def _entries(
    answers: dict[int, Done], workers: list[Worker]
) -> Iterator[tuple[Worker, int, str, bytes]]:
    for index, answer in sorted(answers.items()):
        worker = workers[index]
        for entry in answer.values:
            _require(worker, entry, _SHAPE)
            row, what, data = entry
            yield worker, row, what, data


def _value(worker: Worker, what: str, data: bytes) -> Any:
    try:
        return unpack_value(data)
    except FrameError as error:
        raise ProtocolError(str(error), worker=worker.index, field=what) from error


def failures_of(answers: dict[int, Done], workers: list[Worker]) -> list[VecsessError]:
    """Returns an `EnvError` or `ContractViolation` for each failure that the workers report."""
    errors: list[VecsessError] = []
    for index, answer in sorted(answers.items()):  # they came in whatever order
        worker = workers[index]
        for entry in answer.failures:
            _require(worker, entry, _FAILURE)
            row, kind, name, message, trace = entry
            where = {"worker": index, "env": worker.first_env + row}
            if kind == "form":
                errors.append(ContractViolation(printable(message), field=printable(name), **where))
            else:
                errors.append(env_error(name, printable(message), printable(trace), **where))
    return errors


def start_error(failed: Failed, worker: int, first_env: int) -> VecsessError:
    """Returns the error for environments that could not be built."""
    env = first_env + failed.row
    if failed.type.startswith("UnsupportedSpaceError"):
        return SpaceError(printable(failed.message), worker=worker, env=env)
    hint = hint_at_envs(failed.type, failed.message)
    text = f"{printable(failed.message)}{hint}; nothing was left running"
    return env_error(
        failed.type,
        f"{text} (while it was made)",
        printable(failed.traceback),
        worker=worker,
        env=env,
    )


def check_description(worker: Worker, described: Described) -> None:
    """Refuses a description that does not have one entry per row."""
    spaces = described.spaces
    pairs = all(entry is None or (type(entry) is list and len(entry) == 2) for entry in spaces)
    if len(spaces) != worker.rows or spaces[0] is None or not pairs:
        raise ProtocolError("expected the spaces of each environment", worker=worker.index)


def _require(worker: Worker, entry: Any, shape: tuple[type, ...]) -> None:
    fits = type(entry) is list and tuple(type(part) for part in entry) == shape
    if not fits or not 0 <= entry[0] < worker.rows:
        raise ProtocolError(f"expected {shape} for one of its rows", worker=worker.index)


_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def result_of(what: str, value: Any, env: int) -> Any:
    """Returns a result of a call.

    Args:
        what: "result" for plain data, "space", "spec" or "generator" for what was told as such.
        value: as the worker sent it: untrusted.
        env: whose it is.

    Raises:
        ProtocolError: it is not what it is said to be.
    """
    try:
        match what:
            case "space":
                return build_space(value)
            case "spec":
                return gymnasium.envs.registration.EnvSpec.from_json(value)
            case "generator":
                return _generator(value)
            case "result":
                return value
    except (FrameError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"expected a {what}, got {error}", env=env) from error
    raise ProtocolError(f"expected the result of a call, got {what!r}", env=env)


def _generator(state: dict[str, Any]) -> np.random.Generator:
    """Returns a generator in the state that a worker told of."""
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"an unknown bit generator {name!r}")
    bit_generator = getattr(np.random, name)()
    bit_generator.state = state
    return np.random.Generator(bit_generator)


class PipedValues:
    """The parts of an observation that have no fixed shape.

    Args:
        space: of one environment's observations.
        views: the fields of all ranges; those of piped leaves hold objects.
    """

    def __init__(self, space: Space, views: Views) -> None:
        self._places = {OBSERVATION: views.observations, FINAL: views.finals}
        self._parts = {
            index: (part_at(space, leaf.path), field_name(OBSERVATION, leaf.path))
            for index, leaf in enumerate(all_leaves_of(space))
            if leaf.piped
        }

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self, worker: Worker, reply: Done) -> None:
        """Takes what a worker sent with its reply.

        Raises:
            FrameError: not a value of the space.
        """
        for entry in reply.values:
            if type(entry) is list and len(entry) == 3 and entry[1] in self._places:
                self._take(worker, *entry)

    def _take(self, worker: Worker, row: Any, what: str, data: Any) -> None:
        pair = unpack_value(data) if type(data) is bytes else None
        fits = type(row) is int and 0 <= row < worker.rows
        if not fits or type(pair) is not list or [type(part) for part in pair] != [int, bytes]:
            raise FrameError(f"expected {what} as [row, [leaf, value]]")
        leaf, packed = pair
        if leaf not in self._parts:
            raise FrameError(f"expected a leaf of {list(self._parts)}, got {leaf}")
        space, field = self._parts[leaf]
        try:
            value = unpack_piped(space, packed, field)
        except FormError as error:
            raise FrameError(f"{field}: {error}") from error
        self._places[what][leaf][worker.index, row] = value
