"""What may cross the boundary from an environment into a batch: pure NumPy, no process, no clock.

*Form* (type, shape, dtype) is checked where a value enters the slab, in wire/spaces.py. *Value* is
checked here, on the manager's private copy, a whole batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from vecsess.tree import Tree, leaves
from vecsess.wire.leaves import TRY_LENIENT
from vecsess.wire.values import Array, Given

Range = tuple[float, float]

_NUMBERS, _NONE = (np.ndarray, np.generic, float), np.zeros(0)
_FALSE = b"\0"  # in the bytes of a bool array: a search there is quicker than any sum


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """What a transition must satisfy before a trainer sees it.

    Attributes:
        check_obs_finite: every number of an observation is finite.
        check_reward_finite: every reward is finite.
        obs_range: closed interval for every number of an observation, in which NaN never is; None
            for any.
        reward_range: closed interval for every reward, likewise; None for any.
        require_exclusive_done_flags: a step never ends as terminated and truncated at once.
        action_range: what to do with a Box action outside of its bounds: "raise" an `ActionError`,
            "clip" it, or "allow" it, as Gymnasium's own vector environments do.
        dtype: "cast" observations of another dtype of the same kind, and bools for integers, with
            one warning, or demand the "exact" one.
        form: "strict", or "lenient" for what Gymnasium's own classes take and is common:
            observations as lists, integers for floats, extra keys of a dict, infinity in
            observations, bool rewards, 0 and 1 as done flags.

    Example:
        >>> Contract(reward_range=(-1.0, 1.0)).reward_range
        (-1.0, 1.0)
    """

    check_obs_finite: bool = True
    check_reward_finite: bool = True
    obs_range: Range | None = None
    reward_range: Range | None = None
    require_exclusive_done_flags: bool = False
    action_range: Literal["raise", "clip", "allow"] = "raise"
    dtype: Literal["cast", "exact"] = "cast"
    form: Literal["strict", "lenient"] = "strict"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("action_range", ("raise", "clip", "allow")),
            ("dtype", ("cast", "exact")),
            ("form", ("strict", "lenient")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"Contract.{name}: expected one of {allowed}, got {getattr(self, name)!r}"
                )
        for name in ("obs_range", "reward_range"):
            bounds = getattr(self, name)
            if bounds is not None and not _is_range(bounds):
                raise ValueError(f"Contract.{name}: expected (low, high), got {bounds!r}")


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of one environment, or of a batch of them with a leading axis N.

    Attributes:
        observation: tree of `[*obs]` or `[N, *obs]`, before the step.
        action: what was done.
        reward: float, or `[N]` float64.
        next_observation: the true one after the step, before any auto-reset.
        terminated: bool, or `[N]` bool: the task came to its end.
        truncated: bool, or `[N]` bool: the episode was cut off.
        valid: None for a single step; `[N]` bool, False where no transition took place because
            the environment was lost.

    Example:
        >>> Transition(0, 1, 1.0, 2, terminated=False, truncated=True).done
        True
    """

    observation: Tree
    action: Tree
    reward: Given
    next_observation: Tree
    terminated: Given
    truncated: Given
    valid: Given = None

    @property
    def done(self) -> Given:
        """Whether the episode ended, either way."""
        return self.terminated | self.truncated


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one environment's row of a batch."""

    env: int
    field: str
    message: str


def check_flags(contract: Contract, terminated: Array, truncated: Array) -> Violation | None:
    """Returns the first row whose done flags break the contract; both `[N]` bool."""
    if contract.require_exclusive_done_flags:
        both = terminated & truncated
        if np.count_nonzero(both):
            env = int(both.argmax())
            return Violation(env, "terminated", "expected at most one done flag, got both")
    return None


def check_rewards(contract: Contract, rewards: Array) -> Violation | None:
    """Returns the first row whose reward breaks the contract; `rewards [N]` float64."""
    return _check(contract.check_reward_finite, contract.reward_range, rewards, "reward")


def check_observations(
    contract: Contract, arrays: list[Array], fields: list[str]
) -> Violation | None:
    """Returns the first row whose observation breaks the contract; each leaf `[N, *leaf]`."""
    for leaf, field in zip(arrays, fields, strict=True):
        lenient = contract.form == "lenient"
        look = partial(_check, contract.check_obs_finite, contract.obs_range, leaf, field)
        violation = look(lenient)
        if violation is not None:
            hint = "" if look(True) else TRY_LENIENT
            return replace(violation, message=violation.message + hint)
    return None


class ValueCheck:
    """The contract's look at each step of a session, a quick one where nothing is wrong.

    Args:
        contract: what a transition must satisfy.
        fields: how errors name the leaves of an observation.
    """

    def __init__(self, contract: Contract, fields: list[str]) -> None:
        self._contract, self._fields = contract, fields
        bounds = contract.obs_range is not None or contract.reward_range is not None
        # Without these a step whose numbers are all finite is as it should be.
        self._demanding = bounds or contract.require_exclusive_done_flags
        self._finite_observations = contract.check_obs_finite
        self._finite_rewards = contract.check_reward_finite

    def step(
        self, rewards: Array, terminated: Array, truncated: Array, arrays: list[Array]
    ) -> Violation | None:
        """Returns the first breach of a step: of flags, reward, or an observation.

        Args:
            rewards: `[N]` float64.
            terminated: `[N]` bool.
            truncated: `[N]` bool.
            arrays: the leaves of the observations, each `[N, *leaf]`.
        """
        if self.passes(rewards, arrays):
            return None
        contract = self._contract
        return (
            check_flags(contract, terminated, truncated)
            or check_rewards(contract, rewards)
            or check_observations(contract, arrays, self._fields)
        )

    def passes(self, rewards: Array | None, arrays: list[Array]) -> bool:
        """Whether nothing can be wrong with steps, however many; False says: look closer.

        Args:
            rewards: of any shape.
            arrays: the leaves of their observations.
        """
        if self._demanding:
            return False
        if rewards is not None and self._finite_rewards and not _all_finite(rewards):
            return False
        if self._finite_observations:
            for leaf in arrays:
                kind = leaf.dtype.kind
                if kind == "O" or (kind == "f" and not _all_finite(leaf)):
                    return False
        return True

    def observations(self, arrays: list[Array]) -> Violation | None:
        """Returns the first breach of observations; each leaf `[N, *leaf]`."""
        if self.passes(None, arrays):
            return None
        return check_observations(self._contract, arrays, self._fields)


def _is_range(bounds: Given) -> bool:
    try:
        low, high = bounds
        return bool(-np.inf <= low <= high <= np.inf)
    except (TypeError, ValueError):
        return False


def _check(
    finite: bool, bounds: Range | None, array: Array, field: str, lenient: bool = False
) -> Violation | None:
    if finite and array.dtype.kind == "f" and not _all_finite(array):
        bad = np.isnan(array) if lenient else ~np.isfinite(array)
        if np.count_nonzero(bad):
            return _first(bad, array, field, "a finite number")
    if array.dtype.kind == "O":
        return _check_objects(finite, bounds, array, field, lenient)
    if bounds is not None and array.size:
        low, high = bounds
        outside = ~((array >= low) & (array <= high))  # written so that NaN is outside
        if np.count_nonzero(outside):
            return _first(outside, array, field, f"a number in [{low}, {high}]")
    return None


def _check_objects(
    finite: bool, bounds: Range | None, rows: Array, field: str, lenient: bool
) -> Violation | None:
    """Looks at the floats of values without a fixed shape: sequences, graphs, choices."""
    for env, value in enumerate(rows):
        for part in leaves(value):
            numbers = np.asarray(part) if isinstance(part, _NUMBERS) else _NONE
            if numbers.dtype.kind == "f":
                violation = _check(finite, bounds, numbers.reshape(1, -1), field, lenient)
                if violation is not None:
                    return replace(violation, env=env)
    return None


def _all_finite(array: Array) -> bool:
    # Not `.all()`: for a batch of usual size that costs more than the look at the numbers.
    return _FALSE not in np.isfinite(array).tobytes()


def _first(bad: Array, array: Array, field: str, expected: str) -> Violation:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    place = f" at {list(index[1:])}" if len(index) > 1 else ""
    return Violation(index[0], field, f"expected {expected}, got {array[index]}{place}")


@dataclass(slots=True)
class StepRows:
    """Where one lockstep writes what it brings: views into the caller's arrays.

    Attributes:
        next_observations: tree of `[N, *obs]`: what to act on next, after a done step the reset's.
        rewards: `[N]` float64.
        terminated: `[N]` bool.
        truncated: `[N]` bool.
        valid: `[N]` bool; False where the environment was lost and no transition took place.

    Example:
        >>> flags = np.zeros((3, 2), dtype=bool)
        >>> rows = StepRows(np.zeros((2, 4)), np.zeros(2), *flags)
        >>> rows.valid.shape
        (2,)
    """

    next_observations: Tree
    rewards: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Finals:
    """The true last observations of the environments whose episode ended in a lockstep.

    Attributes:
        envs: `[K]` int64, ascending.
        observations: tree of `[K, *obs]`.

    Example:
        >>> Finals(np.array([3]), np.zeros((1, 4))).envs.tolist()
        [3]
    """

    envs: npt.NDArray[np.int64]
    observations: Tree
