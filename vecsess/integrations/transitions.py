"""Transitions as JSON: `{"transitions": [{"obs", "action", "reward", ...}, ...]}`.

What a file holds is checked as strictly as what an environment says: the form against the spaces,
the values against the contract. JSON has no NaN and no infinity, so neither can be saved or loaded.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess import tree
from vecsess.contract import (
    Contract,
    Transition,
    Violation,
    check_flags,
    check_observations,
    check_rewards,
)
from vecsess.errors import ContractViolation
from vecsess.tree import Tree
from vecsess.wire.spaces import Leaf, field_name, leaves_of

# Name in the file -> name in a Transition, in the order in which they are saved.
_NAMES = {
    "obs": "observation",
    "action": "action",
    "reward": "reward",
    "terminated": "terminated",
    "truncated": "truncated",
    "next_obs": "next_observation",
}
_REWARD = Leaf((), (), np.dtype(np.float64), discrete=False)


class TransitionError(ContractViolation):
    """One transition of a file is not what the spaces and the contract ask for.

    Attributes:
        index: its place in the list.
        field: the field of the `Transition`, such as "next_observation".

    Example:
        >>> print(TransitionError(3, "reward", "expected a number, got null"))
        field 'reward': transition 3: expected a number, got null
    """

    def __init__(self, index: int, field: str, message: str) -> None:
        super().__init__(f"transition {index}: {message}", field=field)
        self.index = index


def load_transitions(
    source: str | os.PathLike[str],
    contract: Contract,
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
) -> list[Transition]:
    """Loads transitions, and stops at the first bad one.

    Args:
        source: a path, or the JSON itself: a text that begins with a brace.
        contract: what each transition must satisfy.
        observation_space: of the environment that they come from.
        action_space: of that environment.

    Raises:
        TransitionError: names the index and the field of the first bad transition.
        ContractViolation: the whole is not a JSON object with a list of transitions.

    Example:
        >>> text = (
        ...     '{"transitions": [{"obs": 0, "action": 1, "reward": 1.0, "terminated": false, '
        ...     '"truncated": false, "next_obs": 1}]}'
        ... )
        >>> load_transitions(text, Contract(), spaces.Discrete(2), spaces.Discrete(2))[0].reward
        1.0
    """
    reader = _Reader(contract, observation_space, action_space)
    return [reader.read(index, record) for index, record in enumerate(_records(source))]


def load_transitions_all(
    source: str | os.PathLike[str],
    contract: Contract,
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
) -> list[Transition | TransitionError]:
    """Loads each transition, or the error that says why it is none, in the order of the file.

    Args:
        source: as for `load_transitions`.
        contract: what each transition must satisfy.
        observation_space: of the environment that they come from.
        action_space: of that environment.

    Raises:
        ContractViolation: the whole is not a JSON object with a list of transitions.

    Example:
        >>> space = spaces.Discrete(2)
        >>> print(load_transitions_all('{"transitions": [{}]}', Contract(), space, space)[0])
        field 'observation': transition 0: expected the key "obs", got none of that name
    """
    reader = _Reader(contract, observation_space, action_space)
    results: list[Transition | TransitionError] = []
    for index, record in enumerate(_records(source)):
        try:
            results.append(reader.read(index, record))
        except TransitionError as error:
            results.append(error)
    return results


def dump_transitions(transitions: Iterable[Transition]) -> str:
    """Returns transitions as JSON, one a line; loading it gives the same numbers, bit for bit.

    Raises:
        TransitionError: names the index and the field of a number that is not finite.

    Example:
        >>> step = Transition(np.float32([0.5]), 1, 1.0, np.float32([0.25]), False, False)
        >>> print(dump_transitions([step]))
        {"transitions": [
        {"obs": [0.5], "action": 1, "reward": 1.0, "terminated": false, "truncated": false, \
"next_obs": [0.25]}
        ]}
    """
    lines = [json.dumps(_plain_transition(i, step)) for i, step in enumerate(transitions)]
    body = ",\n".join(lines)
    return f'{{"transitions": [\n{body}\n]}}' if lines else '{"transitions": []}'


def save_transitions(path: str | os.PathLike[str], transitions: Iterable[Transition]) -> None:
    """Writes `dump_transitions(transitions)` to a file.

    Args:
        path: of the file, which is replaced.
        transitions: of one environment each.

    Raises:
        TransitionError: names the index and the field of a number that is not finite.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_transitions(f"{folder}/empty.json", [])
        ...     space = spaces.Discrete(2)
        ...     load_transitions(f"{folder}/empty.json", Contract(), space, space)
        []
    """
    Path(path).write_text(dump_transitions(transitions) + "\n", encoding="utf-8")


def _plain_transition(index: int, transition: Transition) -> dict[str, Any]:
    if transition.valid is not None:
        raise ValueError("expected transitions of one environment, got a batch: pick its rows")
    return {
        name: _plain(getattr(transition, field), index, field) for name, field in _NAMES.items()
    }


def _plain(value: Tree, index: int, field: str) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part, index, f"{field}[{key!r}]") for key, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part, index, f"{field}[{i}]") for i, part in enumerate(value)]
    array = np.asarray(value)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TransitionError(index, field, f"expected finite numbers, got {value}")
    return array.tolist()


def _records(source: str | os.PathLike[str]) -> list[Any]:
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    data = str(source).encode() if is_text else Path(source).read_bytes()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: bad syntax, or bad UTF-8
        raise ContractViolation(f"expected JSON, got {error}", field="transitions") from error
    records = document.get("transitions") if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise ContractViolation(
            f'expected an object with a list "transitions", got {_told(document)}',
            field="transitions",
        )
    return records


class _Reader:
    """Makes transitions of plain data."""

    def __init__(
        self,
        contract: Contract,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
    ) -> None:
        self._contract = contract
        self._observations, self._actions = observation_space, action_space
        paths = [leaf.path for leaf in leaves_of(observation_space)]
        self._paths = {
            field: [field_name(field, path) for path in paths]
            for field in ("observation", "next_observation")
        }

    def read(self, index: int, record: Any) -> Transition:
        try:
            return self._read(record)
        except _FieldError as error:
            raise TransitionError(index, error.field, str(error)) from error

    def _read(self, record: Any) -> Transition:
        if not isinstance(record, dict):
            raise _FieldError("transition", f"expected an object, got {_told(record)}")
        for name, field in _NAMES.items():
            if name not in record:
                raise _FieldError(field, f'expected the key "{name}", got none of that name')
        transition = Transition(
            observation=_value(self._observations, record["obs"], "observation"),
            action=_value(self._actions, record["action"], "action"),
            reward=float(_array(_REWARD, record["reward"], "reward")),
            next_observation=_value(self._observations, record["next_obs"], "next_observation"),
            terminated=_flag(record["terminated"], "terminated"),
            truncated=_flag(record["truncated"], "truncated"),
        )
        self._check(transition)
        return transition

    def _check(self, transition: Transition) -> None:
        """Checks values: done flags, reward, observation, next observation; then the action."""
        contract = self._contract
        flags = np.array([[transition.terminated], [transition.truncated]])
        _refuse(check_flags(contract, *flags))
        _refuse(check_rewards(contract, np.array([transition.reward])))
        for field, paths in self._paths.items():
            leaves = tree.leaves(getattr(transition, field))
            batch = [np.asarray(leaf)[None] for leaf in leaves]
            _refuse(check_observations(contract, batch, paths))
        _check_action(contract, self._actions, transition.action)


class _FieldError(ValueError):
    """What is wrong with a field, before it is known which transition it is in."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _refuse(violation: Violation | None) -> None:
    if violation is not None:
        raise _FieldError(violation.field, violation.message)


def _check_action(contract: Contract, space: gymnasium.Space[Any], action: Tree) -> None:
    # Where out-of-range actions are clipped or allowed, the file holds them as they were chosen.
    if isinstance(space, spaces.Box) and contract.action_range != "raise":
        return
    if not space.contains(action):
        raise _FieldError("action", f"expected an action in {space}, got {action}")


def _value(space: gymnasium.Space[Any], plain: Any, field: str) -> Tree:
    """Returns plain data as a value of the space."""
    match space:
        case spaces.Dict():
            if not isinstance(plain, dict) or plain.keys() != space.spaces.keys():
                keys = list(space.spaces)
                raise _FieldError(field, f"expected an object with {keys}, got {_told(plain)}")
            return {
                key: _value(part, plain[key], f"{field}[{key!r}]")
                for key, part in space.spaces.items()
            }
        case spaces.Tuple():
            if not isinstance(plain, list) or len(plain) != len(space.spaces):
                size = len(space.spaces)
                raise _FieldError(field, f"expected a list of {size}, got {_told(plain)}")
            pairs = zip(space.spaces, plain, strict=True)
            return tuple(_value(part, p, f"{field}[{i}]") for i, (part, p) in enumerate(pairs))
        case _:
            (leaf,) = leaves_of(space)
            array = _array(leaf, plain, field)
            return array[()] if leaf.discrete else array


def _flag(plain: Any, field: str) -> bool:
    if not isinstance(plain, bool):
        raise _FieldError(field, f"expected true or false, got {_told(plain)}")
    return plain


_ACCEPTED: dict[str, tuple[type, ...]] = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (int, float),
}
_WORDS = {"b": "true or false", "i": "an integer", "u": "an integer", "f": "a finite number"}


def _array(leaf: Leaf, plain: Any, field: str) -> NDArray[Any]:
    """Returns nested lists of numbers as an array, without any silent change of a number's kind."""
    numbers: list[Any] = []
    _flatten(plain, leaf.shape, field, numbers)
    kind = leaf.dtype.kind
    for number in numbers:
        # By type, as a bool is an int; and json reads NaN, Infinity and 1e999 as floats.
        infinite = type(number) is float and not math.isfinite(number)
        if type(number) not in _ACCEPTED[kind] or infinite:
            raise _FieldError(field, f"expected {_WORDS[kind]}, got {_told(number)}")
    try:
        with np.errstate(over="raise"):
            wide = np.dtype(np.float64) if kind == "f" else leaf.dtype
            return np.array(numbers, wide).astype(leaf.dtype).reshape(leaf.shape)
    except (OverflowError, FloatingPointError) as error:
        raise _FieldError(field, f"expected numbers that fit {leaf.dtype}: {error}") from error


def _flatten(plain: Any, shape: tuple[int, ...], field: str, numbers: list[Any]) -> None:
    if not shape:
        numbers.append(plain)
        return
    if not isinstance(plain, list) or len(plain) != shape[0]:
        got = f"a list of {len(plain)}" if isinstance(plain, list) else _told(plain)
        raise _FieldError(field, f"expected a list of {shape[0]}, got {got}")
    for part in plain:
        _flatten(part, shape[1:], field, numbers)


def _told(plain: Any) -> str:
    """Returns a value as it stands in the file, shortened."""
    text = json.dumps(plain)
    return text if len(text) <= 80 else text[:77] + "..."
