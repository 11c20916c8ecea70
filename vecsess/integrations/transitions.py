"""Transitions as JSON: `{"meta": {...}, "transitions": [{"obs", "action", "reward", ...}, ...]}`.

What a file holds is checked as strictly as what an environment says: the form against the spaces,
the values against the contract, in the order action, done flags, reward, observation, next
observation. JSON has no NaN and no infinity, so neither can be saved or loaded. A whole number may
be written `1.0`, since some languages write all of them so; true and false are no numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from gymnasium import spaces

from vecsess import tree
from vecsess.collect.rollout import Rollout
from vecsess.contract import (
    Contract,
    Transition,
    Violation,
    check_flags,
    check_observations,
    check_rewards,
)
from vecsess.errors import ContractViolation
from vecsess.integrations.json_values import (
    flag_from,
    in_short,
    number_from,
    require_plain,
    value_from,
)
from vecsess.tree import Tree
from vecsess.wire.leaves import FormError, all_leaves_of, field_name
from vecsess.wire.values import Fields, Given, Space

# Name in the file -> name in a Transition, in the order in which they are saved.
_NAMES = {
    "obs": "observation",
    "action": "action",
    "reward": "reward",
    "terminated": "terminated",
    "truncated": "truncated",
    "next_obs": "next_observation",
}


class TransitionError(ContractViolation):
    """One transition of a file is not what the spaces and the contract ask for.

    Attributes:
        index: its place in the list.
        field: the field of the `Transition`, such as "next_observation".
        reason: what was expected, and what came.

    Example:
        >>> print(TransitionError(3, "reward", "expected a number, got null"))
        field 'reward': transition 3: expected a number, got null
    """

    def __init__(self, index: int, field: str, message: str) -> None:
        super().__init__(f"transition {index}: {message}", field=field)
        self.index, self.reason = index, message


def load_transitions(
    source: str | os.PathLike[str],
    contract: Contract,
    observation_space: Space,
    action_space: Space,
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
        SpaceError: a space of values that have no form in JSON.

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
    observation_space: Space,
    action_space: Space,
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


def dump_transitions(transitions: Iterable[Transition], meta: Fields | None = None) -> str:
    """Returns transitions as JSON, one a line; loading it gives the same numbers, bit for bit.

    Args:
        transitions: of one environment each.
        meta: plain data to keep with them, such as `env_id`, `seed` and `steps`.

    Raises:
        TransitionError: names the index and the field of what JSON can't hold.

    Example:
        >>> step = Transition(np.float32([0.5]), 1, 1.0, np.float32([0.25]), False, False)
        >>> print(dump_transitions([step]))
        {"transitions": [
        {"obs": [0.5], "action": 1, "reward": 1.0, "terminated": false, "truncated": false, \
"next_obs": [0.25]}
        ]}
    """
    lines = [json.dumps(_plain_transition(i, step)) for i, step in enumerate(transitions)]
    head = "" if meta is None else f'"meta": {json.dumps(meta, allow_nan=False)}, '
    body = "\n" + ",\n".join(lines) + "\n" if lines else ""
    return f'{{{head}"transitions": [{body}]}}'


def save_transitions(
    path: str | os.PathLike[str],
    transitions: Iterable[Transition],
    meta: Fields | None = None,
) -> None:
    """Writes `dump_transitions(transitions, meta)` to a file, which is replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_transitions(f"{folder}/empty.json", [], {"env_id": "CartPole-v1"})
        ...     space = spaces.Discrete(2)
        ...     load_transitions(f"{folder}/empty.json", Contract(), space, space)
        []
    """
    Path(path).write_text(dump_transitions(transitions, meta) + "\n", encoding="utf-8")


def transitions_of(rollout: Rollout) -> Iterator[Transition]:
    """Yields the transitions of a rollout, one environment after another, each in order of time.

    A row that a lost environment left is no transition, and is left out.

    Example:
        >>> rollout = Rollout.empty(3, 2, spaces.Discrete(2), spaces.Discrete(2))
        >>> rollout.valid[...] = [[True, True], [True, False], [True, True]]
        >>> len(list(transitions_of(rollout)))
        5
    """
    ends = zip(rollout.final_steps.tolist(), rollout.final_envs.tolist(), strict=True)
    finals = {end: index for index, end in enumerate(ends)}
    for env, t in np.argwhere(rollout.valid.T).tolist():
        if (t, env) in finals:
            following = tree.row(rollout.final_observations, finals[t, env])
        elif t + 1 < rollout.horizon:
            following = tree.row(rollout.observations, (t + 1, env))
        else:
            following = tree.row(rollout.last_observations, env)
        yield Transition(
            observation=tree.row(rollout.observations, (t, env)),
            action=tree.row(rollout.actions, (t, env)),
            reward=float(rollout.rewards[t, env]),
            next_observation=following,
            terminated=bool(rollout.terminated[t, env]),
            truncated=bool(rollout.truncated[t, env]),
        )


def _plain_transition(index: int, transition: Transition) -> Fields:
    if transition.valid is not None:
        raise ValueError("expected transitions of one environment, got a batch: pick its rows")
    return {
        name: _plain(getattr(transition, field), index, field) for name, field in _NAMES.items()
    }


def _plain(value: Tree, index: int, field: str) -> Given:
    if isinstance(value, dict):
        return {key: _plain(part, index, f"{field}[{key!r}]") for key, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part, index, f"{field}[{i}]") for i, part in enumerate(value)]
    array = np.asarray(value)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TransitionError(index, field, f"expected finite numbers, got {value}")
    if array.dtype.kind not in "biufU":
        raise TransitionError(index, field, f"expected numbers or a text, got {type(value)}")
    return array.tolist()


def _records(source: str | os.PathLike[str]) -> list[Given]:
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    data = str(source).encode() if is_text else Path(source).read_bytes()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: bad syntax, or bad UTF-8
        raise ContractViolation(f"expected JSON, got {error}", field="transitions") from error
    records = document.get("transitions") if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise ContractViolation(
            f'expected an object with a list "transitions", got {in_short(document)}',
            field="transitions",
        )
    return records


class _Reader:
    """Makes transitions of plain data."""

    def __init__(
        self,
        contract: Contract,
        observation_space: Space,
        action_space: Space,
    ) -> None:
        self._contract = contract
        self._observations, self._actions = observation_space, action_space
        for space in (observation_space, action_space):
            require_plain(space)
        self._paths = [leaf.path for leaf in all_leaves_of(observation_space)]

    def read(self, index: int, record: Given) -> Transition:
        try:
            return self._read(record)
        except FormError as error:
            raise TransitionError(index, error.field, str(error)) from error

    def _read(self, record: Given) -> Transition:
        """Reads and checks one field after another: the order is the reference system's."""
        if not isinstance(record, dict):
            raise FormError("transition", f"expected an object, got {in_short(record)}")
        for name, field in _NAMES.items():
            if name not in record:
                raise FormError(field, f'expected the key "{name}", got none of that name')
        action = self._action(record["action"])
        flags = [flag_from(record[name], name) for name in ("terminated", "truncated")]
        _refuse(check_flags(self._contract, *np.array(flags)[:, None]))
        reward = number_from(record["reward"], "reward")
        _refuse(check_rewards(self._contract, np.array([reward])))
        observation = self._observation(record["obs"], "observation")
        following = self._observation(record["next_obs"], "next_observation")
        return Transition(observation, action, reward, following, *flags)

    def _action(self, plain: Given) -> Tree:
        space = self._actions
        action = value_from(space, plain, "action")
        # Where out-of-range actions are clipped or allowed, the file holds what was chosen.
        free = isinstance(space, spaces.Box) and self._contract.action_range != "raise"
        if not free and not space.contains(action):
            raise FormError("action", f"expected an action in {space}, got {action}")
        return action

    def _observation(self, plain: Given, field: str) -> Tree:
        observation = value_from(self._observations, plain, field)
        batch = [np.asarray(leaf)[None] for leaf in tree.leaves(observation)]
        names = [field_name(field, path) for path in self._paths]
        _refuse(check_observations(self._contract, batch, names))
        return observation


def _refuse(violation: Violation | None) -> None:
    if violation is not None:
        raise FormError(violation.field, violation.message)
