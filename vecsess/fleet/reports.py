"""What workers report beside the slab: failures, warnings, infos; untrusted until read here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from vecsess.errors import (
    BadEncoding,
    ContractViolation,
    MissingField,
    ProtocolError,
    SpaceError,
    VecsessError,
    WrongFieldType,
    env_error,
)
from vecsess.extras import hint_at_envs
from vecsess.fleet.piped_values import FINAL, OBSERVATION
from vecsess.fleet.worker import Worker
from vecsess.wire.messages import Described, Done, Failed
from vecsess.wire.values import (
    EncodingError,
    FieldCountError,
    FieldTypeError,
    FrameError,
    unpack_value,
)

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
    """Yields `(env, what, value)` for all that came beside the slab, but the warnings.

    Raises:
        ProtocolError: an entry that is not `[row, what, msgpack]`.
    """
    for env, what, value in _all_values(answers, workers):
        if what not in ("warning", OBSERVATION, FINAL):
            yield env, what, value


def warn_once(answers: dict[int, Done], workers: list[Worker], warned: set[str]) -> None:
    """Warns of what the workers warn of, unless `warned` holds it already.

    Every worker warns once of each thing; the user is warned once for all of them.

    Raises:
        ProtocolError: an entry that is not `[row, what, msgpack]`.
    """
    for env, what, value in _all_values(answers, workers):
        text = printable(str(value))
        if what == "warning" and text not in warned:
            warned.add(text)
            warnings.warn(f"env {env}: {text}", UserWarning, stacklevel=2)


def _all_values(answers: dict[int, Done], workers: list[Worker]) -> Iterator[tuple[int, str, Any]]:
    for index, answer in sorted(answers.items()):
        worker = workers[index]
        for entry in answer.values:
            _require(worker, entry, _SHAPE)
            row, what, data = entry
            try:
                yield worker.first_env + row, what, unpack_value(data)
            except FrameError as error:
                raise ProtocolError(str(error), worker=index, field=what) from error


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
