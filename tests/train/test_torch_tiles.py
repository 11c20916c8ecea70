"""A network of PyTorch with `act_rows`: the same bits in every grouping, at every pace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.collect.test_paced import assert_same
from tests.train.extras import NEEDS
from vecsess import VecCheckedSession, collect_rollout
from vecsess.collect.acting import acting_of
from vecsess.collect.rollout import Rollout
from vecsess.collect.sampling import sample_with_log_prob

torch: Any = pytest.importorskip("torch", reason=NEEDS)

HOW = {
    "lockstep": {},
    "pipelined": {"pace": "pipelined"},
    "free": {"pace": "free"},
    "workers": {"inference": "workers"},
}


class TorchMlp:
    """Two layers of 64, actor and critic on top; refuses to act with more than one thread."""

    noise_size, act_rows = 1, 8

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        shapes = ((4, 64), (64, 64), (64, 3))
        self.weights = [0.3 * torch.randn(*shape, generator=generator) for shape in shapes]

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        if torch.get_num_threads() != 1:
            raise RuntimeError(f"expected 1 thread, got {torch.get_num_threads()}")
        heads = self._heads(observations)
        return *sample_with_log_prob(heads[:, :2], noise[:, 0]), heads[:, 2]

    def value(self, observations: Any, *, envs: Any) -> Any:
        return self._heads(observations)[:, 2]

    def _heads(self, observations: Any) -> Any:
        hidden, last = torch.from_numpy(np.ascontiguousarray(observations)), self.weights[-1]
        for weights in self.weights[:-1]:
            hidden = torch.tanh(hidden @ weights)
        return (hidden @ last).numpy()


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def collect(n: int, workers: int, **how: Any) -> list[Rollout]:
    """Returns two rollouts, one after the other."""
    with VecCheckedSession("CartPole-v1", n=n, workers=workers, preload=["torch"]) as vec:
        vec.start(7)
        if how.get("inference") == "workers":
            assert acting_of(vec) is not None
        return [collect_rollout(vec, TorchMlp(), 40, seed=seed, **how) for seed in (5, None)]


# 8 divides 16 and its halves; it divides neither 13 nor the parts of three workers.
@pytest.mark.parametrize(("n", "workers"), [(16, 2), (16, 3), (13, 3)])
def test_the_bits_are_those_of_one_process(n: int, workers: int) -> None:
    expected = collect(n, 0)
    for how in HOW.values():
        assert_same(collect(n, workers, **how), expected)


def test_without_a_tile_the_number_of_rows_would_show() -> None:
    observations = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
    mlp, envs = TorchMlp(), np.arange(64)
    alone = [mlp.value(observations[e : e + 1], envs=envs[:1])[0] for e in envs]
    assert not np.array_equal(mlp.value(observations, envs=envs), alone)
