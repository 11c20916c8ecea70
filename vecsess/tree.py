"""Observations as trees: an array, or dicts and tuples of trees, as Dict and Tuple spaces give.

Only structure lives here. A function that gets several trees wants the same keys and lengths in
each; what the leaves hold is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vecsess.wire.values import Array, Given

# An observation's nesting is known when the environment is, not before. So to a type checker it is
# all three at once: it knows their methods and no others, and a policy may be written for any.
if TYPE_CHECKING:

    class ArrayDictTuple(  # type: ignore[misc]  # nothing can be all three: there is none of it
        np.ndarray[Any, np.dtype[Any]], dict[str, Any], tuple[Any, ...]
    ):
        """What a session gives: an array, or dicts and tuples of such."""
else:
    ArrayDictTuple = Any

Tree: TypeAlias = ArrayDictTuple | Any  # `Any`: what was computed from it is one, too


def map_leaves(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Applies `function` to each leaf of `tree`, with the leaves at the same place in `others`.

    Args:
        function: takes one leaf of each tree.
        tree: an array, or nested dicts and tuples of arrays.
        others: trees of the same structure.

    Returns:
        The results, in the structure of `tree`.

    Raises:
        ValueError: where a tree of `others` has other keys, or another length.

    Example:
        >>> map_leaves(lambda leaf: leaf.shape, {"image": np.zeros((4, 4)), "speed": np.zeros(2)})
        {'image': (4, 4), 'speed': (2,)}
    """
    if isinstance(tree, np.ndarray):
        return function(tree, *others)
    if isinstance(tree, dict):
        _same_keys(tree, others)
        return {key: map_leaves(function, tree[key], *(o[key] for o in others)) for key in tree}
    if isinstance(tree, tuple):
        _same_length(tree, others)
        return tuple(map_leaves(function, *parts) for parts in zip(tree, *others, strict=True))
    return function(tree, *others)


def leaves(tree: Tree) -> list[Given]:
    """Returns the leaves of `tree`, from left to right.

    Example:
        >>> leaves(({"a": 1, "b": 2}, 3))
        [1, 2, 3]
    """
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in leaves(branch)]
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree]


def row(tree: Tree, index: Given) -> Tree:
    """Returns `leaf[index]` of each leaf: views, where the index is a number or a slice.

    Example:
        >>> row({"speed": np.array([3.0, 4.0])}, 1)
        {'speed': np.float64(4.0)}
    """
    if isinstance(tree, np.ndarray):
        return tree[index]
    return map_leaves(lambda leaf: leaf[index], tree)


def copy_into(target: Tree, source: Tree) -> None:
    """Copies each leaf of `source` over the array at the same place in `target`.

    Raises:
        ValueError: another shape or dtype: nothing is broadcast, nothing is cast.

    Example:
        >>> target = (np.zeros(2), np.zeros(1))
        >>> copy_into(target, (np.ones(2), np.array([7.0])))
        >>> target
        (array([1., 1.]), array([7.]))
    """
    map_leaves(_copy_leaf, target, source)


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Joins trees of one structure along the first axis of their leaves.

    Example:
        >>> concatenate([{"speed": np.zeros(1)}, {"speed": np.ones(2)}])
        {'speed': array([0., 1., 1.])}
    """
    return map_leaves(lambda *parts: np.concatenate(parts), *trees)


def object_array(values: Iterable[Given]) -> Array:
    """Returns an array `[N]` of objects; NumPy alone would look into tuples and lists.

    Example:
        >>> object_array([(1, 2), (3, 4)]).shape
        (2,)
    """
    found = list(values)
    array = np.empty(len(found), dtype=object)
    for index, value in enumerate(found):
        array[index] = value
    return array


def _copy_leaf(target: Array, source: Given) -> None:
    array = np.asarray(source)
    if array.shape != target.shape or array.dtype != target.dtype:
        raise ValueError(
            f"expected an array {list(target.shape)} of {target.dtype}, "
            f"got {list(array.shape)} of {array.dtype}"
        )
    target[...] = array


def _same_keys(tree: dict[Any, Tree], others: tuple[Tree, ...]) -> None:
    for other in others:
        if not isinstance(other, dict) or other.keys() != tree.keys():
            keys = list(other) if isinstance(other, dict) else type(other).__name__
            raise ValueError(f"expected a dict with the keys {list(tree)}, got {keys}")


def _same_length(tree: tuple[Tree, ...], others: tuple[Tree, ...]) -> None:
    for other in others:
        if not isinstance(other, tuple) or len(other) != len(tree):
            length = f"{len(other)}" if isinstance(other, tuple) else type(other).__name__
            raise ValueError(f"expected a tuple of length {len(tree)}, got {length}")
