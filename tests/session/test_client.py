"""A client: one environment in one worker process, everything from it checked."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import CountingEnv, FaultyEnv
from tests.processes import all_gone, processes_below
from vecsess import Client, Contract, Timeouts
from vecsess.errors import (
    ActionError,
    ClosedError,
    ContractViolation,
    EnvError,
    SpaceError,
    StateError,
    VecsessError,
)

pytestmark = pytest.mark.usefixtures("no_process_left")


# --- the handshake -------------------------------------------------------------------------------


def test_describe_says_what_the_environment_is() -> None:
    with Client.spawn("CartPole-v1") as client:
        told = client.describe()
    assert (told.n_actions, told.obs_shape, told.obs_dtype) == (2, (4,), "float32")
    env = gymnasium.make("CartPole-v1")
    assert told.observation_space == env.observation_space
    assert told.action_space == env.action_space
    env.close()


def test_describe_leaves_out_what_there_is_not() -> None:
    with Client.spawn("Blackjack-v1") as blackjack, Client.spawn("Pendulum-v1") as pendulum:
        assert blackjack.describe().obs_shape is None
        assert blackjack.describe().obs_dtype is None
        assert pendulum.describe().n_actions is None


def test_what_is_expected_is_found() -> None:
    with Client.spawn("CartPole-v1", obs_shape=[4], n_actions=2) as client:
        assert client.reset(seed=0).shape == (4,)


@pytest.mark.parametrize(
    ("env_id", "expected", "field", "both"),
    [
        ("CartPole-v1", {"n_actions": 3}, "n_actions", ("n_actions=3", "got 2")),
        ("CartPole-v1", {"obs_shape": (5,)}, "obs_shape", ("obs_shape=(5,)", "got (4,)")),
        ("Pendulum-v1", {"n_actions": 2}, "n_actions", ("n_actions=2", "got Box(-2.0, 2.0")),
        ("Blackjack-v1", {"obs_shape": (3,)}, "obs_shape", ("obs_shape=(3,)", "got Tuple(")),
    ],
)
def test_a_mismatch_ends_the_worker_and_names_both_sides(
    env_id: str, expected: dict[str, Any], field: str, both: tuple[str, str]
) -> None:
    before = processes_below()
    with pytest.raises(SpaceError) as caught:
        Client.spawn(env_id, **expected)
    assert all_gone(processes_below() - before, 3.0)
    assert caught.value.field == field
    for side in both:
        assert side in str(caught.value)


def test_make_kwargs_reach_the_environment() -> None:
    with Client.spawn("FrozenLake-v1", make_kwargs={"map_name": "8x8"}) as client:
        assert client.observation_space == spaces.Discrete(64)


def test_an_environment_that_cannot_be_made_is_its_own_error() -> None:
    with pytest.raises(EnvError, match="NoSuchEnv"):
        Client.spawn("NoSuchEnv-v0")


def test_an_environment_that_exists_already_is_referred_to_the_right_door() -> None:
    env: Any = gymnasium.make("CartPole-v1")
    with pytest.raises(TypeError, match="from_gymnasium"):
        Client.spawn(env)
    env.close()


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "Taxi-v4", "Blackjack-v1", "MountainCarContinuous-v0"]
)
def test_it_gives_what_the_bare_environment_gives(env_id: str) -> None:
    env = gymnasium.make(env_id)
    env.action_space.seed(1)
    with Client.spawn(env_id) as client:
        seed: int | None = 11
        for _ in range(3):
            same(client.reset(seed), env.reset(seed=seed)[0])
            seed = None
            for _ in range(40):
                action = env.action_space.sample()
                observation, reward, terminated, truncated, _ = env.step(action)
                step = client.step_raw(action)
                same(step.observation, observation)
                assert step[1:] == (reward, terminated, truncated)
                if terminated or truncated:
                    break
    env.close()


def same(one: Any, other: Any) -> None:
    """Asserts equal values, and equal types where the environment gives arrays."""
    if isinstance(one, tuple):
        for parts in zip(one, other, strict=True):
            same(*parts)
    elif isinstance(other, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def test_nothing_is_reset_but_on_request() -> None:
    with Client.spawn(partial(CountingEnv, length=2)) as client:
        assert client.reset(seed=0)[:2].tolist() == [0, 0]
        client.step_raw(0)
        last = client.step_raw(1)
        assert last.terminated
        assert last.observation[:3].tolist() == [0, 2, 1]
        with pytest.raises(StateError, match="the episode has ended"):
            client.step_raw(0)
        assert client.reset()[:2].tolist() == [1, 0]


def test_a_step_before_the_first_reset_is_refused() -> None:
    with Client.spawn("CartPole-v1") as client, pytest.raises(StateError, match="reset"):
        client.step_raw(0)


@pytest.mark.parametrize("action", [2, -1, 0.0, None, "0", [0], np.float32(1), True])
def test_a_wrong_action_is_refused_and_changes_nothing(action: Any) -> None:
    with Client.spawn("CartPole-v1") as client:
        client.reset(seed=0)
        with pytest.raises(ActionError):
            client.step_raw(action)
        step = client.step_raw(1)
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    same(step.observation, env.step(1)[0])
    env.close()


def test_what_was_given_out_stays() -> None:
    with Client.spawn(CountingEnv) as client:
        first = client.reset(seed=0)
        kept = first.copy()
        second = client.step_raw(1).observation
        client.step_raw(1)
    assert first.tolist() == kept.tolist()
    assert second[1] == 1
    first[:] = second[:] = -1  # and it is the caller's to change


# --- the contract --------------------------------------------------------------------------------


class BreakingEnv(CountingEnv):
    """Breaks as much of the contract as the number of its action says."""

    def __init__(self) -> None:
        super().__init__(action_space=spaces.Discrete(4))

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        if action >= 1:
            observation = np.full(4, 50.0, np.float32)
        if action >= 2:
            reward = 50.0
        return observation, reward, action >= 3, action >= 3, info


@pytest.mark.parametrize(
    ("action", "field"), [(1, "next_observation"), (2, "reward"), (3, "terminated")]
)
def test_checks_run_in_order_flags_then_reward_then_observation(action: int, field: str) -> None:
    contract = Contract(
        require_exclusive_done_flags=True, reward_range=(-1, 1), obs_range=(-10, 10)
    )
    with Client.spawn(BreakingEnv, contract=contract) as client:
        client.reset(seed=0)
        client.step_raw(0)
        with pytest.raises(ContractViolation) as caught:
            client.step_raw(action)
        assert caught.value.field == field


def test_the_first_observation_is_checked_too() -> None:
    contract = Contract(obs_range=(5, 6))
    with Client.spawn(CountingEnv, contract=contract) as client:
        with pytest.raises(ContractViolation) as caught:
            client.reset(seed=0)
        assert caught.value.field == "observation"


# --- ends ----------------------------------------------------------------------------------------


def test_it_closes_when_the_body_raises() -> None:
    before = processes_below()
    with pytest.raises(RuntimeError, match="mine"), Client.spawn("CartPole-v1") as client:
        raise RuntimeError("mine")
    assert client.closed
    assert all_gone(processes_below() - before, 3.0)


def test_closing_twice_is_fine_and_ends_it() -> None:
    client = Client.spawn("CartPole-v1")
    client.reset()
    client.close()
    client.close()
    with pytest.raises(ClosedError):
        client.reset()
    with pytest.raises(ClosedError):
        client.step_raw(0)


def test_closing_waits_for_the_worker() -> None:
    before = processes_below()
    client = Client.spawn("CartPole-v1")
    workers = processes_below() - before
    assert workers
    client.close()
    assert not processes_below() & workers, "gone when close returns"


@pytest.mark.parametrize("fault", ["SIGKILL", "sleep"])
def test_a_client_whose_worker_was_lost_can_be_closed(fault: str) -> None:
    timeouts = Timeouts(step_s=0.3)
    client = Client.spawn(partial(FaultyEnv, fault), timeouts=timeouts)
    client.reset()
    with pytest.raises(VecsessError):
        client.step_raw(0)
    client.close()
    assert client.closed


# --- in this process -----------------------------------------------------------------------------


def test_in_process_the_same_checks_hold() -> None:
    env = BreakingEnv()
    with Client.in_process(env, contract=Contract(reward_range=(-1, 1))) as client:
        client.reset(seed=0)
        with pytest.raises(ContractViolation, match="reward"):
            client.step_raw(2)


def test_in_process_the_environment_is_the_callers_own_object() -> None:
    env = CountingEnv()
    with Client.in_process(env) as client:
        client.reset(seed=0)
        client.step_raw(1)
        assert env.steps == 1
