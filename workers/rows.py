"""The rows of the slab that one worker reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gymnasium import spaces

from vecsess.wire.forms import unpack_piped
from vecsess.wire.leaves import Leaf, all_leaves_of
from vecsess.wire.slab import Views
from vecsess.wire.values import Array, Env, Given, Space
from vecsess.workers.episodes import RngRecord

Reader = Callable[[int], Any]

# Of these a batch of actions is one array, and a row of it an action, as Gymnasium has it.
_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class Rows:
    """One range's fields, each in the form that is quickest to use for single rows.

    Args:
        views: the fields of one range.
        action_space: of the environments.
    """

    def __init__(self, views: Views, action_space: Space) -> None:
        # Memoryviews, the quickest for single numbers; what they hold has no type of its own.
        self.running: Given = views.running.data
        self.rewards: Given = views.rewards[0].data
        self.terminated: Given = views.terminated[0].data
        self.truncated: Given = views.truncated[0].data
        self.flags = views.flags[0]
        self.rng = [RngRecord(words) for words in views.rng[0]]
        self._array = views.actions[0][0] if isinstance(action_space, _ARRAYS) else None
        self._read = _action_reader(views, action_space)
        # What to call the functions of `stepper` with, for all rows. An array's is a copy:
        # environments keep their last action, and the slab is written again.
        self.actions = self._all_rows if self._array is None else self._array.copy

    def _all_rows(self) -> Iterable[Given]:
        return range(len(self.rewards))

    def actions_of(self, only: list[int]) -> Iterable[Given]:
        """Returns what `actions` returns, but of some rows."""
        return only if self._array is None else self._array[only]

    def stepper(self, env: Env) -> Callable[[Any], Any]:
        """Returns `env.step`; where actions are read one by one, a function that takes the row."""
        if self._array is not None:
            return env.step
        step, read = env.step, self._read
        return lambda row: step(read(row))

    def settle(self, row: int) -> None:
        """Writes what goes with a reset's observation: no reward, not done."""
        self.rewards[row] = 0.0
        self.flags[row] = 0


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
