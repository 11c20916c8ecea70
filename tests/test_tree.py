"""Trees: one structure, walked the same way everywhere."""

import numpy as np
import pytest

from vecsess import tree


def nested(value: float) -> tree.Tree:
    return {"image": np.full((2, 3), value), "body": (np.full(2, value), np.full((), value))}


def test_a_plain_array_is_a_tree_of_one_leaf() -> None:
    array = np.arange(3)
    assert tree.leaves(array) == [pytest.approx(array)]
    assert tree.map_leaves(np.sum, array) == 3


def test_map_leaves_keeps_the_structure_and_pairs_leaves_by_place() -> None:
    result = tree.map_leaves(lambda a, b: float((a + b).max()), nested(1.0), nested(2.0))
    assert result == {"image": 3.0, "body": (3.0, 3.0)}


def test_dicts_are_paired_by_key_whatever_their_order() -> None:
    forwards, backwards = {"a": 1, "b": 2}, {"b": 20, "a": 10}
    assert tree.map_leaves(lambda x, y: x + y, forwards, backwards) == {"a": 11, "b": 22}


def test_leaves_come_from_left_to_right() -> None:
    assert [leaf.shape for leaf in tree.leaves(nested(0.0))] == [(2, 3), (2,), ()]


def test_row_gives_views_into_the_leaves() -> None:
    batch: tree.Tree = {"a": np.zeros((2, 3)), "b": (np.zeros(2),)}
    tree.row(batch, 1)["a"][...] = 5.0
    tree.row(batch, slice(0, 1))["b"][0][...] = 7.0
    assert batch["a"].tolist() == [[0.0] * 3, [5.0] * 3]
    assert batch["b"][0].tolist() == [7.0, 0.0]


def test_copy_into_copies_and_does_not_alias() -> None:
    target, source = nested(0.0), nested(1.0)
    tree.copy_into(target, source)
    source["image"][...] = 9.0
    assert [leaf.max() for leaf in tree.leaves(target)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("source", [np.zeros(3), np.zeros((1, 3)), np.zeros(2, dtype=np.float32)])
def test_copy_into_neither_broadcasts_nor_casts(source: tree.Tree) -> None:
    with pytest.raises(ValueError, match=r"expected an array \[2\] of float64, got"):
        tree.copy_into({"a": np.zeros(2)}, {"a": source})


def test_concatenate_joins_the_first_axis_of_each_leaf() -> None:
    parts = [{"a": np.zeros((1, 2))}, {"a": np.ones((2, 2))}]
    assert tree.concatenate(parts)["a"].tolist() == [[0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"a": 1}, {"b": 1}, r"the keys \['a'\], got \['b'\]"),
        ({"a": 1}, (1,), r"the keys \['a'\], got tuple"),
        ((1, 2), (1,), "length 2, got 1"),
        ((1, 2), {"a": 1}, "length 2, got dict"),
    ],
)
def test_trees_of_other_structure_are_refused(
    one: tree.Tree, other: tree.Tree, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tree.map_leaves(lambda x, _: x, one, other)
