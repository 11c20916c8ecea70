"""Rollouts as tensors: the same memory, and minibatches of the valid rows alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.train.extras import NEEDS
from vecsess import Rollout

torch = pytest.importorskip("torch", reason=NEEDS)

T, N = 6, 4


@pytest.fixture
def rollout() -> Rollout:
    """A rollout of which each row can be told from the others, and three rows are invalid."""
    rng = np.random.default_rng(0)
    space = spaces.Dict(
        {"image": spaces.Box(0, 255, (2, 2), np.uint8), "speed": spaces.Box(-1, 1, (1,))}
    )
    rollout = Rollout.empty(T, N, space, spaces.Discrete(5))
    rollout.values[:] = np.arange(T * N).reshape(T, N)
    rollout.observations["speed"][..., 0] = rollout.values
    rollout.rewards[:] = rng.normal(size=(T, N))
    rollout.next_values[:] = rng.normal(size=(T, N))
    rollout.actions[:] = rng.integers(5, size=(T, N))
    rollout.valid[:] = True
    rollout.valid[[1, 3, 3], [0, 2, 3]] = False
    return rollout


def test_tensors_share_the_rollouts_memory(rollout: Rollout) -> None:
    tensors = rollout.to_torch("cpu")
    pairs: list[tuple[Any, Any]] = [
        (tensors.observations["image"], rollout.observations["image"]),
        (tensors.observations["speed"], rollout.observations["speed"]),
        (tensors.last_observations["speed"], rollout.last_observations["speed"]),
    ]
    names = ["actions", "log_probs", "rewards", "terminated", "truncated", "values"]
    names += ["next_values", "valid", "episode_start"]
    pairs += [(getattr(tensors, name), getattr(rollout, name)) for name in names]
    for tensor, array in pairs:
        assert tensor.data_ptr() == array.ctypes.data
        assert tuple(tensor.shape) == array.shape
        assert tensor.numpy().dtype == array.dtype


def test_advantages_and_returns_are_the_rollouts(rollout: Rollout) -> None:
    tensors = rollout.to_torch(gamma=0.9, lam=0.7)
    np.testing.assert_array_equal(tensors.advantages.numpy(), rollout.advantages(0.9, 0.7))
    np.testing.assert_array_equal(tensors.returns.numpy(), rollout.returns(0.9, 0.7))


def test_minibatches_hold_each_valid_row_once(rollout: Rollout) -> None:
    parts = list(rollout.to_torch().minibatches(8, np.random.default_rng(0)))
    assert [len(part.values) for part in parts] == [8, 8, 5]
    seen = Counter(value for part in parts for value in part.values.tolist())
    assert seen == Counter(rollout.values[rollout.valid].tolist())


def test_the_fields_of_a_minibatch_belong_together(rollout: Rollout) -> None:
    actions = dict(zip(rollout.values.flat, rollout.actions.flat, strict=True))
    returns = dict(zip(rollout.values.flat, rollout.returns().flat, strict=True))
    for part in rollout.to_torch().minibatches(8, np.random.default_rng(1)):
        values = part.values.tolist()
        assert part.observations["speed"][:, 0].tolist() == values
        assert part.actions.tolist() == [actions[value] for value in values]
        assert part.returns.tolist() == pytest.approx([returns[value] for value in values])


def test_the_seed_decides_the_order(rollout: Rollout) -> None:
    def order(seed: int) -> list[float]:
        parts = rollout.to_torch().minibatches(8, np.random.default_rng(seed))
        return [value for part in parts for value in part.values.tolist()]

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_tensors_have_the_same_rows_as_the_framework_free_batch(rollout: Rollout) -> None:
    parts = rollout.to_torch().minibatches(8, np.random.default_rng(5))
    batch = rollout.to_actor_critic_batch()
    for part, plain in zip(parts, batch.minibatches(8, np.random.default_rng(5)), strict=True):
        np.testing.assert_array_equal(part.returns.numpy(), plain.value_targets)


def test_sequences_of_some_environments_leave_out_invalid_rows(rollout: Rollout) -> None:
    envs = torch.tensor([2, 0])
    part = rollout.to_torch().of_envs(envs)
    expected = rollout.values[:, [2, 0]][rollout.valid[:, [2, 0]]]
    assert part.values.tolist() == expected.tolist()


def test_another_device_gets_a_copy(rollout: Rollout) -> None:
    tensors = rollout.to_torch("meta")
    assert tensors.values.device.type == "meta"
    assert tensors.observations["image"].shape == (T, N, 2, 2)
