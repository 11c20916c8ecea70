"""What workers report beside the slab: failures, warnings, results; untrusted until read here.

`Reports.read` is the one place where what a worker sent becomes checked values, and whatever goes
wrong there is a breach of the protocol: the worker is killed, and lost as any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

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
from vecsess.fleet.held import Held
from vecsess.fleet.worker import Worker
from vecsess.wire.columns import Schema
from vecsess.wire.forms import unpack_piped
from vecsess.wire.leaves import FormError, all_leaves_of, field_name, part_at, told
from vecsess.wire.messages import MAX_SOURCES, Described, Done, Failed, Replayed, Reply
from vecsess.wire.slab import Views
from vecsess.wire.spaces import build_space, check_bytes, is_custom
from vecsess.wire.values import (
    EncodingError,
    FieldCountError,
    Fields,
    FieldTypeError,
    FrameError,
    Plain,
    Space,
    check_objects,
    unpack_value,
)

MAX_TEXT = 1 << 14  # characters; what is longer is cut before it is looked at
MAX_BRIEF = 500
_MAX_WARNINGS = 1000  # that are told in one session
_MAX_SPEC = 1 << 18
OBSERVATION, FINAL, SCHEMA = "observation", "final", "schema"
_ASIDE = ("warning", SCHEMA)  # what is taken as it comes, or only warned of
RESULTS = ("result", "space", "spec", "generator")
_FAILURE = [int, str, str, str, str]

_BREACHES: dict[type[FrameError], type[ProtocolError]] = {
    EncodingError: BadEncoding,
    FieldCountError: MissingField,
    FieldTypeError: WrongFieldType,
}


def breach_type(error: FrameError) -> type[ProtocolError]:
    """Returns the class of error that tells what was wrong with a frame."""
    return _BREACHES.get(type(error), ProtocolError)


def printable(text: str, most: int = MAX_TEXT) -> str:
    r"""Returns remote text with control characters escaped, so that it can't drive a terminal.

    Example:
        >>> printable("\x1b[31m" + "red" * 10, 9)
        '\\x1b[31mredr...'
    """
    cut = text[:most]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in cut)
    return cut if len(text) <= most else f"{cut}..."


R = TypeVar("R", bound=Reply)


class Reports:
    """Turns replies into checked values.

    Args:
        space: of one environment's observations.
        views: the fields of all ranges; those of piped leaves hold objects, which are put there.
        held: is told what is made of them.
    """

    def __init__(self, space: Space, views: Views, held: Held) -> None:
        self._held = held
        self._places = {OBSERVATION: views.observations, FINAL: views.finals}
        self.parts = {
            index: (part_at(space, leaf.path), field_name(OBSERVATION, leaf.path))
            for index, leaf in enumerate(all_leaves_of(space))
            if leaf.piped
        }

    def unobserved(self, worker: Worker) -> list[int]:
        """Returns the rows of a worker that have never had an observation that goes by pipe."""
        fields = [
            self._places[OBSERVATION][leaf][worker.index, : worker.rows].tolist()
            for leaf, (space, _) in self.parts.items()
            if not is_custom(space)  # whose values may be None
        ]
        return [row for row in range(worker.rows) if any(field[row] is None for field in fields)]

    def read(self, worker: Worker, reply: Reply, kind: type[R]) -> R:
        """Returns the reply with every value in it decoded and checked.

        Args:
            worker: whose it is.
            reply: as it was decoded.
            kind: what is expected.

        Raises:
            FrameError: it holds what the protocol does not allow.
        """
        if not isinstance(reply, kind):
            raise FrameError(f"expected {kind.__name__}, got {type(reply).__name__}")
        try:
            checked: Fields = {}
            if isinstance(reply, Done | Replayed):
                checked["failures"] = _failures(worker, reply.failures)
            if isinstance(reply, Done):
                checked["values"] = self._values(worker, reply.values)
            elif isinstance(reply, Replayed):
                _check_replay(reply)
            return replace(reply, **checked)
        except FrameError:
            raise
        except Exception as error:  # whatever it tripped over, it came from the worker
            raise FrameError(f"expected values that can be read, got {error!r:.200}") from error

    def _values(self, worker: Worker, entries: list[Plain]) -> list[tuple[int, str, Any]]:
        for entry in entries:
            _require(worker, entry, [int, str, bytes])
        packed = [data for _, _, data in entries]
        check_objects(packed)
        self._held.decoded(worker.index, packed)
        decoded = [(row, what, unpack_value(data)) for row, what, data in entries]
        check_bytes([value for _, what, value in decoded if what == "space"])
        values = [(row, what, _checked(what, value)) for row, what, value in decoded]
        observed = [entry for entry in values if entry[1] in self._places]
        packed = [part for _, _, (_, part) in observed]
        check_objects(packed)
        self._held.decoded(worker.index, packed)
        for row, what, (leaf, packed) in observed:
            if leaf not in self.parts:
                raise FrameError(f"expected a leaf of {list(self.parts)}, got {leaf}")
            space, field = self.parts[leaf]
            try:
                self._places[what][leaf][worker.index, row] = unpack_piped(space, packed, field)
            except FormError as error:
                raise FrameError(f"{field}: {error}") from error
        return [entry for entry in values if entry[1] not in self._places]


def _checked(what: str, value: Plain) -> Plain:
    """Returns what a worker sent under that name, if it is such a thing."""
    match what:
        case "info" | "final_info":
            fits = type(value) is dict
        case "warning":
            fits = type(value) is str
        case "observation" | "final":
            fits = type(value) is list and [type(part) for part in value] == [int, bytes]
        case "schema":
            return Schema(value)
        case "space":
            return build_space(value)
        case "spec":
            return spec_of(value)
        case "generator":
            return _generator(value)
        case _:
            fits = what in ("result", "called")
    if not fits:
        raise FrameError(f"expected a value that is known, got {told(value)} for {told(what)}")
    return value


def _failures(worker: Worker, entries: list[Plain]) -> list[Plain]:
    if len(entries) > 2 * worker.rows:
        raise FrameError(f"expected a failure for each of {worker.rows} rows, got {len(entries)}")
    for entry in entries:
        _require(worker, entry, _FAILURE)
    return [
        [row, *(printable(text, MAX_BRIEF) for text in names), printable(message), printable(trace)]
        for row, *names, message, trace in entries
    ]


def _require(worker: Worker, entry: Plain, shape: list[type]) -> None:
    fits = type(entry) is list and [type(part) for part in entry] == shape
    if not fits or not 0 <= entry[0] < worker.rows:
        names = ", ".join(kind.__name__ for kind in shape)
        raise FrameError(f"expected [{names}] for one of {worker.rows} rows, got {told(entry)}")


def values_of(answers: dict[int, Done], workers: list[Worker]) -> Iterator[tuple[int, str, Any]]:
    """Yields `(env, what, value)` for infos and results: all that the caller is to get."""
    for index, answer in sorted(answers.items()):
        for row, what, value in answer.values:
            if what not in _ASIDE:
                yield workers[index].first_env + row, what, value


def warn_once(answers: dict[int, Done], workers: list[Worker], warned: set[str]) -> None:
    """Warns of what the workers warn of, unless `warned` holds it already.

    Every worker warns once of each thing; the user is warned once for all of them.
    """
    for index, answer in answers.items():
        for row, what, value in answer.values:
            if what == "warning" and len(warned) < _MAX_WARNINGS:
                text = printable(value, MAX_BRIEF)
                if text not in warned:
                    warned.add(text)
                    env = workers[index].first_env + row
                    warnings.warn(f"env {env}: {text}", UserWarning, stacklevel=2)


def failures_of(answers: dict[int, Done], workers: list[Worker]) -> list[VecsessError]:
    """Returns an `EnvError` or `ContractViolation` for each failure that the workers report."""
    errors: list[VecsessError] = []
    for index, answer in sorted(answers.items()):  # they came in whatever order
        for row, kind, name, message, trace in answer.failures:
            where = {"worker": index, "env": workers[index].first_env + row}
            if kind == "form":
                errors.append(ContractViolation(message, field=name, **where))
            else:
                errors.append(env_error(name, message, trace, **where))
    return errors


def start_error(failed: Failed, worker: int, first_env: int, rows: int) -> VecsessError:
    """Returns the error for environments that could not be built, `rows` from the first on."""
    if not 0 <= failed.row < rows:
        what = f"expected a failure of one of its {rows} environments, got one of {failed.row}"
        return ProtocolError(what, worker=worker)
    env = first_env + failed.row
    name, message = printable(failed.type, MAX_BRIEF), printable(failed.message)
    if name.startswith("UnsupportedSpaceError"):
        return SpaceError(message, worker=worker, env=env)
    return env_error(
        name,
        f"{message}{hint_at_envs(name, message)}; nothing was left running (while it was made)",
        printable(failed.traceback),
        worker=worker,
        env=env,
    )


def check_description(worker: Worker, described: Described) -> None:
    """Refuses a description that does not have one entry per row; `agree` looks at the entries."""
    spaces = described.spaces
    pairs = all(entry is None or (type(entry) is list and len(entry) == 2) for entry in spaces)
    if len(spaces) != worker.rows or spaces[0] is None or not pairs:
        raise ProtocolError("expected the spaces of each environment", worker=worker.index)
    if not _are_sources(described.sources):
        raise ProtocolError("expected files with times and size", worker=worker.index)


def _check_replay(reply: Replayed) -> None:
    if len(reply.checksums) % 8:
        raise FrameError("expected checksums of 8 bytes each")
    if not _are_sources(reply.sources):
        raise FrameError("expected files with times and size")


def _are_sources(files: list[Plain]) -> bool:
    shape = [str, int, int, int]
    fit = (type(one) is list and [type(part) for part in one] == shape for one in files)
    return len(files) <= MAX_SOURCES and all(fit)


def spec_of(text: Plain) -> gymnasium.envs.registration.EnvSpec:
    """Returns the spec that a worker told of as JSON; nothing that it names is imported.

    Raises:
        FrameError: it is none.
    """
    if type(text) is not str or len(text) > _MAX_SPEC:
        raise FrameError(f"expected a spec as at most {_MAX_SPEC} characters, got {told(text)}")
    try:
        return gymnasium.envs.registration.EnvSpec.from_json(text)
    except Exception as error:  # whatever it trips over
        raise FrameError(f"expected a spec, got {error!r:.200}") from error


_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
# The numbers of their states: NumPy does not check them, and reads beyond its arrays.
_MOST = {
    "state": (1 << 128) - 1,
    "inc": (1 << 128) - 1,
    "pos": 624,
    "buffer_pos": 4,
    "has_uint32": 1,
    "uinteger": (1 << 32) - 1,
}


def _generator(state: Plain) -> np.random.Generator:
    """Returns a generator in the state that a worker told of."""
    name = state.get("bit_generator") if type(state) is dict else None
    if name not in _BIT_GENERATORS:
        raise FrameError(f"expected the state of a generator, got {told(state)}")
    bit_generator = getattr(np.random, name)()
    if not _is_state(state, bit_generator.state, ""):
        raise FrameError(f"expected a state of {name}, got {told(state)}")
    bit_generator.state = state
    return np.random.Generator(bit_generator)


def _is_state(state: Plain, like: Plain, name: str) -> bool:
    """Whether a state has the parts of another one, in their bounds."""
    if type(state) is not type(like):
        return False
    if type(like) is dict:
        same = state.keys() == like.keys()
        return same and all(_is_state(state[key], like[key], key) for key in like)
    if type(like) is np.ndarray:
        # All zeros stay zeros: no draw would end. An even increment is as bad.
        same = state.dtype == like.dtype and state.shape == like.shape
        return bool(same and (name != "key" or len(like) < 624 or state[1:].any()))
    if name == "inc" and not state & 1:
        return False
    return state == like if type(like) is str else bool(0 <= state <= _MOST[name])
