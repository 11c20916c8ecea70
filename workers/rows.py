"""The rows of the slab that one worker reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gymnasium import spaces

from vecsess.wire.leaves import Array, Leaf, Space, all_leaves_of
from vecsess.wire.piped import unpack_piped
from vecsess.wire.slab import Views

Reader = Callable[[int], Any]


class Rows:
    """One range's fields, each in the form that is quickest to use for single rows.

    Args:
        views: the fields of one range.
        action_space: of the environments.
    """

    def __init__(self, views: Views, action_space: Space) -> None:
        # Memoryviews, the quickest for single numbers; what they hold has no type of its own.
        self.running: Any = views.running.data
        self.rewards: Any = views.rewards[0].data
        self.terminated: Any = views.terminated[0].data
        self.truncated: Any = views.truncated[0].data
        self.rng = views.rng[0]
        self.actions = _action_reader(views, action_space)

    def settle(self, row: int) -> None:
        """Writes what goes with a reset's observation: no reward, not done."""
        self.rewards[row] = 0.0
        self.terminated[row] = False
        self.truncated[row] = False


def _action_reader(views: Views, space: Space) -> Reader:
    """Returns the function that gives a row's action as Gymnasium's vector environments do."""
    arrays = [array[0] for array in views.actions]
    return _reader(space, zip(all_leaves_of(space), arrays, strict=True))


def _reader(space: Space, leaves: Iterator[tuple[Leaf, Array]]) -> Reader:
    if isinstance(space, spaces.Dict):
        parts = [(key, _reader(part, leaves)) for key, part in space.spaces.items()]
        return lambda row: {key: read(row) for key, read in parts}
    if isinstance(space, spaces.Tuple):
        readers = [_reader(part, leaves) for part in space.spaces]
        return lambda row: tuple([read(row) for read in readers])
    leaf, array = next(leaves)
    if leaf.discrete or (leaf.shape == () and not leaf.piped):
        return array.__getitem__  # a NumPy scalar of the space's dtype
    if leaf.piped:
        return lambda row: unpack_piped(space, array[row], "action")
    # A copy: environments keep their last action, and the slab's row is written again.
    return lambda row: array[row, ...].copy()
