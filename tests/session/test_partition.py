"""Checkpoints by environment: joined, divided; what is brought back goes on the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vecsess import RandomPolicy, VecCheckedSession, collect_rollout
from vecsess.collect.rollout import Rollout
from vecsess.errors import StateError
from vecsess.session.checkpoint import state_of
from vecsess.session.partition import divide_checkpoint, join_checkpoints
from vecsess.wire.values import pack_value

POLICY = RandomPolicy(spaces.Discrete(2))
STEPS = 400  # of the log, which is kept by 256


def session(n: int = 5, first_env: int = 0) -> VecCheckedSession:
    return VecCheckedSession("CartPole-v1", n, workers=0, first_env=first_env)


def taken(n: int, first_env: int = 0, *, since: int | None = None) -> dict[str, Any]:
    """Returns the checkpoint of some environments after their first steps."""
    with session(n, first_env) as vec:
        vec.start(7)
        collect_rollout(vec, POLICY, STEPS, seed=5)
        return vec.checkpoint(since=since)


def without_first_chunk(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint whose log has forgotten its oldest actions."""
    state = state_of(data)
    del state["engine"]["recovery"]["journal"]["chunks"][0]
    return {**data, "state": pack_value(state)}


def goes_on(data: dict[str, Any], **settings: Any) -> Rollout:
    with VecCheckedSession.restore(data, workers=0, **settings) as vec:
        assert not vec.unrestored
        return collect_rollout(vec, POLICY, 40)


def assert_same(one: Rollout, other: Rollout) -> None:
    for name in ("observations", "actions", "rewards", "truncated", "terminated", "episode_start"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    assert one.episodes == other.episodes


def test_a_checkpoint_of_what_is_new_says_what_it_leaves_out() -> None:
    whole, new = (
        state_of(taken(5, since=since))["engine"]["recovery"]["journal"] for since in (None, 300)
    )
    assert [chunk[0] for chunk in whole["chunks"]] == new["held"] == [0, 1]
    assert [chunk[0] for chunk in new["chunks"]] == [1]


@pytest.mark.parametrize("forget", [list, lambda parts: [parts[0], without_first_chunk(parts[1])]])
def test_joined_parts_are_the_whole(forget: Any) -> None:
    parts = forget([taken(3), taken(2, 3)])
    assert_same(goes_on(join_checkpoints(parts)), goes_on(taken(5)))


def test_a_divided_whole_goes_on_in_parts() -> None:
    whole = taken(5)
    parts = divide_checkpoint(whole, [(0, 1), (1, 4)])
    rollouts = [goes_on(part, first_env=first) for part, first in zip(parts, (0, 1), strict=True)]
    joined = np.concatenate([rollout.observations for rollout in rollouts], axis=1)
    np.testing.assert_array_equal(joined, goes_on(whole).observations)
    assert_same(goes_on(join_checkpoints(parts)), goes_on(whole))


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with session(2) as vec:
        vec.start(7)
        early = vec.checkpoint()
    with pytest.raises(StateError, match="after equally many locksteps, got "):
        join_checkpoints([taken(3), early])
