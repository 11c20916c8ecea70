"""Spaces of a user's own class, told of and built again as plain data: no code travels.

The manager takes the class that the worker names only if the trainer has imported it already and
it is a `Space`; then it gets the attributes that are plain data. Where that is impossible a
`CustomSpace` stands for it: values pass, but it can't sample.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from gymnasium import spaces

from vecsess.wire.leaves import Space
from vecsess.wire.values import FrameError, pack_value

_OWN = frozenset({"_shape", "dtype", "_np_random"})  # what `Space.__init__` sets


class CustomSpace(spaces.Space[Any]):
    """Stands for a space whose class the trainer can't build: any plain data is in it.

    Args:
        name: the class in the worker, such as "minigrid.core.mission.MissionSpace".
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def is_np_flattenable(self) -> bool:
        """No: its values have no fixed shape."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        """Can't be done here.

        Raises:
            NotImplementedError: the class is in the worker.
        """
        raise NotImplementedError(
            f"{self} can't sample in the trainer: import {self.name} there, keep its attributes "
            "plain data, or wrap the environment so that it shows a space of Gymnasium's own"
        )

    def contains(self, x: Any) -> bool:
        """Whether `x` is plain data."""
        try:
            pack_value(x)
        except (TypeError, ValueError):
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomSpace) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"CustomSpace({self.name})"


def describe_custom(space: Space) -> dict[str, Any]:
    """Returns name, shape, dtype and the other attributes, None where they are not plain data."""
    if isinstance(space, CustomSpace):
        module, _, name = space.name.rpartition(".")
        return {"module": module, "name": name, "shape": None, "dtype": "", "state": None}
    state: dict[str, Any] | None
    state = {key: value for key, value in vars(space).items() if key not in _OWN}
    try:
        pack_value(state)
    except (TypeError, ValueError):
        state = None
    return {
        "module": type(space).__module__,
        "name": type(space).__qualname__,
        "shape": None if space.shape is None else list(space.shape),
        "dtype": "" if space.dtype is None else np.dtype(space.dtype).str,
        "state": state,
    }


def build_custom(plain: dict[str, Any]) -> Space:
    """Returns the space that `describe_custom` told of, from untrusted plain data.

    Raises:
        FrameError: not such a description.
    """
    module, name, state = plain["module"], plain["name"], plain["state"]
    if type(module) is not str or type(name) is not str:
        raise FrameError("a custom space is named by texts")
    kind = _find(module, name)
    if kind is None or type(state) is not dict or not all(type(key) is str for key in state):
        return CustomSpace(f"{module}.{name}")
    space = kind.__new__(kind)
    spaces.Space.__init__(space, plain["shape"], plain["dtype"] or None)
    vars(space).update({key: part for key, part in state.items() if key not in _OWN})
    return space


def _find(module: str, name: str) -> type[Space] | None:
    """Returns the class if the trainer has it; nothing is imported because a worker says so."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    own = module.partition(".")[0] == "gymnasium"
    is_space = isinstance(found, type) and issubclass(found, spaces.Space)
    return found if is_space and not own else None


def is_custom(space: Space) -> bool:
    """Whether a space is none of Gymnasium's own."""
    return type(space).__module__.partition(".")[0] != "gymnasium"
