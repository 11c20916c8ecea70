"""Sessions: a client and its last observation, so that each step is a whole transition."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.envs import CountingEnv, FaultyEnv
from tests.processes import all_gone, processes_below
from vecsess import CheckedSession, Client, Contract, Session
from vecsess.errors import (
    ActionError,
    ClosedError,
    ContractViolation,
    EnvError,
    SpaceError,
    StateError,
)
from vecsess.session.native import DOWN, RIGHT, Cell, GridWorld

pytestmark = pytest.mark.usefixtures("no_process_left")

Counting = partial(CountingEnv, length=3)


def counting() -> Session:
    """Returns a session over a `CountingEnv` in this process, not started."""
    return CheckedSession.from_gymnasium(CountingEnv(length=3))


# --- start ---------------------------------------------------------------------------------------


def test_start_resets_the_client_once() -> None:
    with Client.spawn(Counting) as client:
        session = Session.start(client, 5)
        assert session.observe()[:2].tolist() == [0, 0]
        assert session.client is client
        again = Session.start(client)
        assert again.observe()[0] == 1, "the second episode of the same environment"


def test_on_a_session_start_begins_anew() -> None:
    with counting() as session:
        first = session.start(5)
        session.step_checked(0)
        second = session.start(5)
    assert (first[0], second[0]) == (0, 1), "two episodes"
    assert first[3] == second[3], "of the same seed"


def test_the_seed_of_the_session_is_the_default_of_start() -> None:
    session = CheckedSession.from_gymnasium(CountingEnv(), seed=5)
    with session:
        drawn = [session.start()[3], session.start(5)[3], session.start()[3], session.start(6)[3]]
    assert len(set(drawn[:3])) == 1
    assert drawn[3] != drawn[0]


def test_before_the_start_there_is_nothing() -> None:
    with counting() as session:
        for call in (session.observe, partial(session.step_checked, 0), lambda: session.state):
            with pytest.raises(StateError, match="start"):
                call()


def test_open_is_a_context_manager_that_owns_its_worker() -> None:
    before = processes_below()
    with Session.open("CartPole-v1", seed=3, obs_shape=(4,), n_actions=2) as session:
        env = gymnasium.make("CartPole-v1")
        np.testing.assert_array_equal(session.observe(), env.reset(seed=3)[0])
        env.close()
        workers = processes_below() - before
        assert workers
    assert all_gone(workers, 3.0)


def test_open_closes_when_the_body_raises() -> None:
    with pytest.raises(RuntimeError, match="mine"), Session.open("CartPole-v1") as session:
        raise RuntimeError("mine")
    assert session.client.closed


@pytest.mark.parametrize(
    ("env", "arguments", "error"),
    [
        ("CartPole-v1", {"n_actions": 4}, SpaceError),
        (partial(FaultyEnv, "ValueError", "reset"), {}, EnvError),
        ("CartPole-v1", {"contract": Contract(obs_range=(8, 9))}, ContractViolation),
    ],
)
def test_open_leaves_nothing_behind_where_it_fails(
    env: Any, arguments: dict[str, Any], error: type[Exception]
) -> None:
    before = processes_below()
    with pytest.raises(error):
        Session.open(env, **arguments)
    assert all_gone(processes_below() - before, 3.0)


# --- steps ---------------------------------------------------------------------------------------


def test_a_transition_is_fully_observed() -> None:
    with counting() as session:
        started = session.start(0)
        step = session.step_checked(1)
        assert step.observation.tolist() == started.tolist()
        assert step.next_observation[:3].tolist() == [0, 1, 1]
        assert (step.action, step.reward, step.terminated, step.truncated) == (1, 1.0, False, False)
        assert session.observe().tolist() == step.next_observation.tolist()


@pytest.mark.parametrize("where", ["worker", "here"])
def test_a_done_step_keeps_the_true_last_observation(where: str) -> None:
    client = Client.spawn(Counting) if where == "worker" else Client.in_process(Counting())
    with Session.start(client, 0) as session:
        session.step_checked(0)
        session.step_checked(0)
        last = session.step_checked(1)
        assert last.terminated
        assert last.next_observation[:3].tolist() == [0, 3, 1]
        assert session.observe()[:2].tolist() == [1, 0], "the reset's"
        assert session.step_checked(0).observation[:2].tolist() == [1, 0]


def test_without_a_reset_the_session_stays_at_the_end() -> None:
    with counting() as session:
        session.start(0)
        for _ in range(2):
            session.step_checked(0)
        last = session.step_checked(1, reset_on_done=False)
        assert last.done
        assert session.observe()[:3].tolist() == [0, 3, 1]
        with pytest.raises(StateError, match="the episode has ended"):
            session.step_checked(0)
        assert session.observe()[:3].tolist() == [0, 3, 1], "the refusal changed nothing"
        assert session.reset()[:2].tolist() == [1, 0]


@pytest.mark.parametrize("reset_on_done", [False, True])
@pytest.mark.parametrize("kind", ["client", "env", "gymnasium"])
def test_a_session_is_made_for_one_way_to_end_and_a_call_may_ask_for_the_other(
    kind: str, reset_on_done: bool
) -> None:
    made: dict[str, Any] = {
        "client": lambda: CheckedSession.from_client(
            Client.in_process(Counting()), reset_on_done=reset_on_done
        ),
        "env": lambda: CheckedSession.from_env(GridWorld(1, 4), Contract(), reset_on_done),
        "gymnasium": lambda: CheckedSession.from_gymnasium(Counting(), reset_on_done=reset_on_done),
    }
    with made[kind]() as session:
        for asked in (None, True, False):
            session.start(0)
            last = [session.step_checked(1, asked) for _ in range(3)][-1]
            assert last.done
            stays = np.array_equal(session.observe(), last.next_observation)
            assert stays is not (reset_on_done if asked is None else asked)


def test_sessions_may_follow_each_other_over_one_client() -> None:
    with Client.spawn(Counting) as client:
        first, second = Session.start(client, 0), CheckedSession.from_client(client, 1)
        first.step_checked(0)
        second.start()
        for call in (first.observe, partial(first.step_checked, 0), lambda: first.state):
            with pytest.raises(StateError, match="somebody else"):
                call()
        assert second.step_checked(0).observation[:2].tolist() == [1, 0]
        first.start()
        with pytest.raises(StateError, match="somebody else"):
            second.step_checked(0)
        first.step_checked(0)
        client.step_raw(0)
        with pytest.raises(StateError, match="somebody else"):
            first.observe()
    with pytest.raises(ClosedError):
        second.start()


def test_the_reset_after_a_done_step_goes_on_with_the_stream() -> None:
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=4)
    expected = env.reset()[0]
    env.close()
    with Session.open("CartPole-v1", seed=4) as session:
        while not session.step_checked(0).done:
            pass
        np.testing.assert_array_equal(session.observe(), expected)


def test_a_refused_action_changes_nothing() -> None:
    with counting() as session:
        session.start(0)
        with pytest.raises(ActionError):
            session.step_checked(7)
        assert session.step_checked(1).next_observation[1] == 1


@pytest.mark.parametrize("fault", ["ValueError", "reward None", "observation with NaN"])
def test_after_a_failed_step_only_a_start_goes_on(fault: str) -> None:
    with CheckedSession.from_gymnasium(FaultyEnv(fault, at=1)) as session:
        session.start(0)
        session.step_checked(0)
        with pytest.raises((EnvError, ContractViolation)):
            session.step_checked(0)
        with pytest.raises(StateError, match="start"):
            session.observe()
        with pytest.raises(StateError, match="start"):
            session.step_checked(0)
        session.start(0)
        assert session.step_checked(0).reward == 1.0


def test_after_closing_nothing_works() -> None:
    session = counting()
    session.start(0)
    session.close()
    session.close()
    for call in (session.observe, partial(session.step_checked, 0), session.start, session.reset):
        with pytest.raises(ClosedError):
            call()


def test_a_session_over_a_worker_shows_its_observation_as_its_state() -> None:
    with counting() as session:
        session.start(0)
        first = session.state
        session.step_checked(1)
        assert (first[1], session.state[1]) == (0, 1)


# --- native environments -------------------------------------------------------------------------


def test_a_native_session_shows_the_environments_own_state() -> None:
    with CheckedSession.from_env(GridWorld(2, 3)) as session:
        session.start()
        assert session.state == Cell(0, 0)
        session.step_checked(RIGHT)
        assert session.state == Cell(0, 1, 1)
        session.step_checked(DOWN)
        last = session.step_checked(RIGHT, reset_on_done=False)
        assert last.terminated
        assert session.state == Cell(1, 2, 3)


class SeededWalk(GridWorld):
    """Begins in a row that the seed decides."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.initial_state: Any = self.draw

    def draw(self, seed: int | None) -> Cell:
        return Cell((seed or 0) % 3, 0)


def test_a_native_environment_may_draw_its_start_from_the_seed() -> None:
    with CheckedSession.from_env(SeededWalk(), seed=2) as session:
        rows = []
        for seed in (None, 1, 5):
            session.start(seed)
            rows.append(session.state.row)
    assert rows == [2, 1, 2]


class WildGrid(GridWorld):
    """Breaks the contract, or the form, as the number of its action says."""

    def step(self, state: Cell, action: Any) -> Any:
        cell, reward, terminated, truncated = super().step(state, action)
        wild: list[Any] = [
            (cell, float("nan"), terminated, truncated),
            (cell, "much", terminated, truncated),
            (cell, reward, None, truncated),
            (cell, reward),
        ]
        return wild[action]

    def observe(self, state: Cell) -> Any:
        return super().observe(state)


@pytest.mark.parametrize(
    ("action", "field"), [(0, "reward"), (1, "reward"), (2, "terminated"), (3, "step")]
)
def test_a_native_environment_is_checked_as_all_are(action: int, field: str) -> None:
    with CheckedSession.from_env(WildGrid(2, 2)) as session:
        session.start()
        with pytest.raises(ContractViolation) as caught:
            session.step_checked(action)
        assert caught.value.field == field


def test_the_contract_of_a_native_session_is_the_callers() -> None:
    contract = Contract(reward_range=(0, 1))
    with CheckedSession.from_env(GridWorld(2, 2), contract=contract) as session:
        session.start()
        with pytest.raises(ContractViolation, match=r"\[0, 1\]"):
            session.step_checked(RIGHT)
