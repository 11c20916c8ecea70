"""Checks a batch of actions before any worker is told of it."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from vecsess.contract import Contract
from vecsess.errors import ActionError, ActionTypeError
from vecsess.tree import Tree, leaves, object_array
from vecsess.wire.forms import pack_piped
from vecsess.wire.leaves import FormError, Leaf, all_leaves_of, field_name, part_at, pick, told
from vecsess.wire.spaces import is_custom
from vecsess.wire.values import Array, Given, Space

_OTHERS = "'clip' them, or 'allow' them as Gymnasium's own classes do"
_OTHER_RANGES = ("clip", "allow")
_FALSE, _TRUE = b"\0", b"\1"  # in the bytes of a bool array


class ActionCheck:
    """Turns what a trainer gives into one array per leaf of the action space, or refuses it.

    Args:
        space: one environment's action space.
        n: how many environments there are.
        contract: says what becomes of a Box action outside of its bounds.
    """

    def __init__(self, space: Space, n: int, contract: Contract) -> None:
        self._n = n
        self._leaves = [
            _leaf_check(leaf, part_at(space, leaf.path), n, contract)
            for leaf in all_leaves_of(space)
        ]
        self._single = len(self._leaves) == 1 and not self._leaves[0].leaf.path

    def __call__(self, actions: Tree) -> list[Array]:
        """Returns one array `[N, *leaf]` of the space's dtype per leaf.

        Raises:
            ActionError: too few, too many, of a wrong kind or shape, NaN, or out of range.
        """
        if self._single:
            return [self._leaves[0](actions)]
        checked = []
        for check in self._leaves:
            try:
                part = pick(actions, check.leaf.path)
            except (KeyError, IndexError, TypeError) as error:
                raise ActionError(
                    f"expected a batch of actions with {field_name('actions', check.leaf.path)}, "
                    f"got {type(actions).__name__}; see `action_space` of the session"
                ) from error
            checked.append(check(part))
        return checked


class _LeafCheck:
    """The check of one leaf: count, kind and shape; what a value may be, its subclasses say."""

    def __init__(self, leaf: Leaf, n: int) -> None:
        self.leaf = leaf
        self.shape = (n, *leaf.shape)
        self.field = field_name("actions", leaf.path)

    def __call__(self, actions: Tree) -> Array:
        # The usual case first: exactly what is expected needs no conversion.
        if not (
            type(actions) is np.ndarray
            and actions.dtype == self.leaf.dtype
            and actions.shape == self.shape
        ):
            actions = self._convert(actions)
        return self.check_values(actions)

    def check_values(self, actions: Array) -> Array:
        raise NotImplementedError("check_values(actions [N, *leaf]) -> actions")

    def _convert(self, actions: Tree) -> Array:
        dtype = self.leaf.dtype
        try:
            array = np.asarray(actions)
        except (ValueError, TypeError) as error:
            raise self._error(
                f"expected an array, got {type(actions).__name__}: {error}"
            ) from error
        if array.shape != self.shape:
            kind = ActionError if array.ndim else ActionTypeError
            raise self._error(
                f"expected shape {list(self.shape)}, one action for each environment, "
                f"got {list(array.shape) if array.ndim else told(actions)}",
                error=kind,
            )
        kinds = "fiu" if dtype.kind == "f" else "iu"
        if dtype == np.int8 and isinstance(self, _MultiBinaryCheck):
            kinds += "b"
        if array.dtype.kind not in kinds:
            raise self._error(f"expected {dtype}, got {array.dtype}")
        with np.errstate(over="ignore"):  # what overflows is inf, and refused as such
            cast = array.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(cast, array):
            raise self._error(f"expected {dtype}, got {array.dtype} values that do not fit")
        return cast

    def _error(
        self, message: str, env: int | None = None, error: type[ActionError] = ActionError
    ) -> ActionError:
        return error(message, env=env, field=self.field)

    def refuse(self, bad: Array, actions: Array, expected: str, hint: str = "") -> ActionError:
        """Returns the error for the first environment with a bad action."""
        env = int(np.argwhere(bad)[0][0])
        return self._error(f"expected {expected}, got {actions[env]}{hint}", env)


class _DiscreteCheck(_LeafCheck):
    def __init__(self, leaf: Leaf, n: int, space: spaces.Discrete) -> None:
        super().__init__(leaf, n)
        self._start, self._n = int(space.start), int(space.n)
        self._unsigned = np.dtype(f"u{leaf.dtype.itemsize}")
        self._end = self._unsigned.type(self._n)

    def check_values(self, actions: Array) -> Array:
        shifted = actions - self.leaf.dtype.type(self._start) if self._start else actions
        # One comparison for both bounds: a negative number is a huge one when read as unsigned.
        bad = shifted.view(self._unsigned) >= self._end
        if _TRUE in bad.tobytes():
            bounds = f"{self._start} <= action < {self._start + self._n}"
            raise self.refuse(bad, actions, bounds)
        return actions


class _BoundsCheck(_LeafCheck):
    """Box and MultiDiscrete: each number within bounds."""

    def __init__(self, leaf: Leaf, n: int, low: Array, high: Array, action_range: str) -> None:
        super().__init__(leaf, n)
        self._low, self._high, self._range = low, high, action_range
        bounded = bool(np.isfinite(low).all() and np.isfinite(high).all())
        # Within such bounds there are only finite numbers, so one look is enough.
        self._finite = leaf.dtype.kind != "f" or (bounded and action_range not in _OTHER_RANGES)
        box = leaf.dtype.kind == "f"
        self._hint = f"; Contract(action_range=...) can {_OTHERS}" if box else ""

    def check_values(self, actions: Array) -> Array:
        if not self._finite:
            self._require_finite(actions)
        if self._range == "allow":
            return actions
        if self._range == "clip":
            return np.minimum(np.maximum(actions, self._low), self._high)  # half of np.clip's time
        good = (actions >= self._low) & (actions <= self._high)
        if _FALSE in good.tobytes():
            self._require_finite(actions)
            bounds = f"numbers between {self._low} and {self._high}"
            raise self.refuse(~good, actions, bounds, self._hint)
        return actions

    def _require_finite(self, actions: Array) -> None:
        finite = np.isfinite(actions)
        if _FALSE in finite.tobytes():
            raise self.refuse(~finite, actions, "finite numbers")


class _MultiBinaryCheck(_LeafCheck):
    def check_values(self, actions: Array) -> Array:
        bad = actions.view(np.uint8) > 1 if actions.flags.c_contiguous else (actions & ~1) != 0
        if np.count_nonzero(bad):
            raise self.refuse(bad, actions, "zeros and ones")
        return actions


class _PipedCheck(_LeafCheck):
    """Texts, sequences, graphs, choices and custom spaces: one value for each environment."""

    def __init__(self, leaf: Leaf, n: int, space: Space, action_range: str) -> None:
        super().__init__(leaf, n)
        self._space = space
        # What is in a space of their own only the environments know: `contains` may be a stub.
        self._look = action_range == "raise" and not is_custom(space)

    def __call__(self, actions: Tree) -> Array:
        """Returns `[N]` objects, each the msgpack of one action."""
        sequence = isinstance(actions, tuple | list | np.ndarray)
        if not sequence or len(actions) != self.shape[0]:
            got = len(actions) if sequence else type(actions).__name__
            raise self._error(
                f"expected a tuple of {self.shape[0]}, one action for each environment, got {got}"
            )
        return object_array(self._pack(*pair) for pair in enumerate(actions))

    def _pack(self, env: int, action: Tree) -> bytes:
        try:
            packed = pack_piped(self._space, action, self.field, exact=False, warn=_cast)
        except FormError as error:
            raise self._error(str(error), env) from error
        if any(not np.isfinite(part).all() for part in leaves(action) if _is_float(part)):
            raise self._error(f"expected finite numbers, got {action!r}", env)
        if self._look and not self._space.contains(action):
            raise self._error(f"expected an action in {self._space}, got {action!r}", env)
        return packed


def _is_float(part: Given) -> bool:
    return isinstance(part, np.ndarray | np.generic | float) and np.asarray(part).dtype.kind == "f"


def _cast(text: str) -> None:
    """An action of another width is cast, as those are that go through shared memory."""


def _leaf_check(leaf: Leaf, space: Space, n: int, contract: Contract) -> _LeafCheck:
    if leaf.piped:
        return _PipedCheck(leaf, n, space, contract.action_range)
    match space:
        case spaces.Discrete():
            return _DiscreteCheck(leaf, n, space)
        case spaces.MultiDiscrete():
            last = space.start + space.nvec - 1
            return _BoundsCheck(leaf, n, space.start, last, "raise")
        case spaces.Box():
            return _BoundsCheck(leaf, n, space.low, space.high, contract.action_range)
        case _:
            return _MultiBinaryCheck(leaf, n)
