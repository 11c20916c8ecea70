"""The reference system's sampler, against numbers that a C program of a few lines gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vecsess import CheckedSession, Client, VecCheckedSession, collect_rollout
from vecsess.collect.policies import CategoricalPolicy
from vecsess.collect.sources import collect_from_client
from vecsess.collect.splitmix import sample_first_above, splitmix64, splitmix_noise
from vecsess.session.native import GridWorld, NativeHost

TOP = 2**64 - 1
# (seed, counter, 32 bits of the draw, the action for probabilities 2/10, 3/10, 5/10)
BY_HAND = [
    (0, 0, 1293516399, 1),  # u = 0.3012: above 0.2, below 0.5
    (0, 1, 1949917470, 1),
    (1, 0, 1949917470, 1),  # of equal seed + counter
    (7, 3, 1828415695, 1),
    (7, 7, 3621169892, 2),  # u = 0.8431
    (0, 18, 774917635, 0),  # u = 0.1804
    (42, 1_000_000, 1440326866, 1),
    (TOP, 1, 1293516399, 1),  # 2**64 is 0
    (TOP, 0, 2996990263, 2),
]
LOGITS = np.log([2.0, 3.0, 5.0])


def test_the_mixing_is_the_published_one() -> None:
    """The first output of Vigna's splitmix64.c for the states 0 and 1234567."""
    assert splitmix64([0, 1234567]).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]


@pytest.mark.parametrize(("seed", "counter", "word", "action"), BY_HAND)
def test_draws_and_actions_worked_out_by_hand(
    seed: int, counter: int, word: int, action: int
) -> None:
    noise = splitmix_noise(seed, counter, [0], 1, steps=1)
    assert noise.tolist() == [[[word / 2**32]]]
    assert sample_first_above(LOGITS[None], noise[0, :, 0]).tolist() == [action]


def test_the_counter_grows_by_one_a_step() -> None:
    together = splitmix_noise(7, 0, [0], 1, steps=12)
    one_by_one = [splitmix_noise(7, t, [0], 1, steps=1)[0] for t in range(12)]
    np.testing.assert_array_equal(together, one_by_one)
    words = [2125188677, 1812646246, 3257676430, 1828415695, 3301321934, 1549403307]
    assert (together[:6, 0, 0] * 2**32).tolist() == words


def test_further_rows_and_columns_are_further_places() -> None:
    words = [[1828415695, 2439229428], [1120922248, 543580652]]
    noise = splitmix_noise(7, 3, [0, 1], 2, steps=1)[0]
    assert (noise * 2**32).tolist() == words


def test_the_action_is_the_first_above_and_else_the_last() -> None:
    assert sample_first_above([[0.0, 0.0]], [0.5]).tolist() == [1], "0.5 is not above 0.5"
    assert sample_first_above([[0.0, -np.inf, 0.0]], [0.5]).tolist() == [2]
    tenths = np.zeros((1, 10))  # ten tenths add up to less than 1
    assert sample_first_above(tenths, [1 - 2**-53]).tolist() == [9]


def uniform_logits(observations: Any) -> Any:
    return np.tile(np.log([1.0, 2.0, 3.0, 4.0]), (len(observations), 1))


def no_value(observations: Any) -> Any:
    return np.zeros(len(observations))


def draws(seed: int, counter: int, steps: int) -> list[int]:
    """Returns the reference's actions, in plain whole numbers and floats."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    units = [mix(mix(seed + counter + t)) % 2**32 / 2**32 for t in range(steps)]
    return [sum(u >= end for end in (0.1, 0.3, 0.6)) for u in units]


def test_a_rollout_of_the_reference_is_repeated_action_by_action() -> None:
    policy = CategoricalPolicy(
        uniform_logits, no_value, spaces.Discrete(4), noise_kind="splitmix64"
    )
    with CheckedSession.from_env(GridWorld(3, 3)) as session:
        first = collect_rollout(session, policy, 100, seed=11)
        second = collect_rollout(session, policy, 28)
    actions = [*first.actions[:, 0].tolist(), *second.actions[:, 0].tolist()]
    assert actions == draws(11, 0, 128)
    assert second.counter == 128
    assert set(actions) == {0, 1, 2, 3}
    with Client.in_process(NativeHost(GridWorld(3, 3))) as client:
        rollout = collect_from_client(client, 0, policy, 50, seed=3, counter=40)
    assert rollout.actions[:, 0].tolist() == draws(3, 40, 50)
    assert rollout.counter == 90
    np.testing.assert_allclose(
        rollout.log_probs[:, 0], np.log((rollout.actions[:, 0] + 1) / 10), rtol=1e-12
    )


def test_each_environment_has_its_own_draws_whatever_the_grouping() -> None:
    policy = CategoricalPolicy(
        lambda observations: np.zeros((len(observations), 2)),
        no_value,
        spaces.Discrete(2),
        noise_kind="splitmix64",
    )
    rollouts = []
    for workers in (0, 2):
        with VecCheckedSession("CartPole-v1", n=3, workers=workers) as vec:
            rollouts.append(collect_rollout(vec, policy, 30, seed=5))
    np.testing.assert_array_equal(rollouts[0].actions, rollouts[1].actions)
    assert len({tuple(column) for column in rollouts[0].actions.T.tolist()}) == 3


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_kind: expected 'uniform' or 'splitmix64'"):
        CategoricalPolicy(uniform_logits, no_value, spaces.Discrete(4), noise_kind="normal")
