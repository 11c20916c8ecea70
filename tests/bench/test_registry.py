"""The list of contenders: complete, consistent, and chosen by key."""

from __future__ import annotations

import pickle

import pytest

from vecsess.bench import peers, registry
from vecsess.bench.registry import EVERYTHING, choose


def test_every_contender_crosses_processes_by_pickle() -> None:
    for contender in EVERYTHING.values():
        copy = pickle.loads(pickle.dumps(contender))
        assert (copy.key, copy.label) == (contender.key, contender.label)


def test_what_is_asked_for_is_what_is_measured() -> None:
    standard = [registry.BARE]
    assert choose(standard, peers="none") == standard
    assert choose(standard) == [registry.BARE, *registry.PEERS]
    assert [each.key for each in choose(standard, peers="sb3,envpool")] == [
        "bare",
        "sb3",
        "envpool",
    ]
    assert [each.key for each in choose(standard, only="ours-0,async")] == ["ours-0", "async"]


@pytest.mark.parametrize("options", [{"peers": "async"}, {"only": "bare,nobody"}])
def test_an_unknown_key_is_refused_with_the_known_ones(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no contender (async|nobody); there are: .*envpool"):
        choose([registry.BARE], **options)


@pytest.mark.parametrize(
    ("n", "cores", "workers"),
    [(16, 2, [1, 2, 16]), (1, 2, [1]), (5, 2, [1, 5]), (256, 2, [1, 2]), (16, 16, [1, 16])],
)
def test_pufferlib_is_tried_in_the_layouts_that_divide_n(
    n: int, cores: int, workers: list[int]
) -> None:
    layouts = peers.puffer_layouts(n, cores)
    assert [layout.label.partition(", ")[2].split()[0] for layout in layouts] == [
        str(count) for count in workers
    ]
    assert all(layout.layouts is None and layout.settle_s for layout in layouts)
