"""The sums of a collection, whole rollouts and one that was interrupted."""

from __future__ import annotations

import numpy as np

from vecsess import VecCheckedSession, collect_rollout
from vecsess.cli.tally import Tally
from vecsess.collect.policies import RandomPolicy

N, HORIZON = 3, 50


def test_an_interrupted_rollout_counts_as_far_as_it_came() -> None:
    with VecCheckedSession("CartPole-v1", n=N, workers=0) as vec:
        policy = RandomPolicy(vec.single_action_space)
        first = collect_rollout(vec, policy, HORIZON, seed=0)
        returns, lengths = vec.episode_returns.copy(), vec.episode_lengths.copy()
        second = collect_rollout(vec, policy, HORIZON)
    whole, part = Tally(N), Tally(N)
    for tally in (whole, part):
        tally.add(first)
    whole.add(second)
    part.add_part(second, HORIZON, returns, lengths)
    assert part.returns == whole.returns
    assert part.lengths == whole.lengths
    assert part.ended_at == whole.ended_at
    assert (part.steps, part.rollouts) == (whole.steps, 1)


def test_a_rollout_that_was_interrupted_at_once_adds_nothing() -> None:
    with VecCheckedSession("CartPole-v1", n=N, workers=0) as vec:
        rollout = collect_rollout(vec, RandomPolicy(vec.single_action_space), HORIZON, seed=0)
    tally = Tally(N)
    tally.add_part(rollout, 0, np.zeros(N), np.zeros(N, np.int64))
    assert (tally.steps, tally.rollouts, tally.returns, tally.invalid) == (0, 0, [], 0)


def test_the_rate_is_of_all_steps() -> None:
    tally = Tally(N)
    assert tally.steps_per_s == 0
    assert tally.recent_return is None
    tally.reach(10)
    assert tally.steps == 10 * N
    assert tally.steps_per_s == tally.steps / tally.elapsed_s
