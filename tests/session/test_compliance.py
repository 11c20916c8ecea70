"""Every kind of session keeps to the same promises, and the promises can be broken."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import CountingEnv
from vecsess.contract import Contract, Transition
from vecsess.errors import StateError
from vecsess.session.checked import CheckedSession
from vecsess.session.client import Client
from vecsess.session.compliance import SessionCompliance
from vecsess.session.native import GridWorld
from vecsess.tree import Tree


class TestOverAWorker(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_client(Client.spawn("CartPole-v1", contract=contract))


class TestOverAWorkerWithReusedBuffers(SessionCompliance):
    """The random number in its observation comes from the seed, the episode's number does not."""

    reproducible = False

    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_client(Client.spawn(CountingEnv, contract=contract))


class TestOverAnEnvironmentInThisProcess(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_gymnasium(gymnasium.make("CartPole-v1"), contract=contract)


class TestOverContinuousActions(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_gymnasium(gymnasium.make("Pendulum-v1"), contract=contract)


class TestOverTupleObservations(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_gymnasium(gymnasium.make("Blackjack-v1"), contract=contract)


class NestedEnv(gymnasium.Env[Any, Any]):
    """Observations that are dicts, of two dtypes."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {"place": spaces.Box(-9, 9, (2,), np.float64), "lamp": spaces.MultiBinary(3)}
        )
        self.action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._look(), float(action[0]), False, self.steps == 6, {}

    def _look(self) -> Any:
        lamp = np.array([1, 0, 1], np.int8)
        return {"place": self.np_random.uniform(-1, 1, 2) + self.steps, "lamp": lamp}


class TestOverNestedSpaces(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_gymnasium(NestedEnv(), contract=contract)


class TestOverANestedWorker(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_client(Client.spawn(NestedEnv, contract=contract))


class TestOverANativeEnvironment(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_env(GridWorld(3, 3, max_steps=30), contract=contract)


class TestOverASessionThatStaysAtTheEnd(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return CheckedSession.from_env(GridWorld(3, 3, max_steps=30), contract, False)


class OwnSession(CheckedSession):
    """A session as a user may write it: around another one."""

    def __init__(self, contract: Contract) -> None:
        self.inner = CheckedSession.from_env(GridWorld(2, 3), contract=contract)
        self.observation_space = self.inner.observation_space
        self.action_space = self.inner.action_space

    def start(self, seed: int | None = None) -> Tree:
        return self.inner.start(seed)

    def observe(self) -> Tree:
        return self.inner.observe()

    def step_checked(self, action: Any, reset_on_done: bool | None = None) -> Transition:
        return self.inner.step_checked(action, reset_on_done)

    @property
    def state(self) -> Any:
        return self.inner.state

    def close(self) -> None:
        self.inner.close()


class TestOverASessionOfOnesOwn(SessionCompliance):
    def make_session(self, contract: Contract) -> CheckedSession:
        return OwnSession(contract)


# --- what the tests notice -----------------------------------------------------------------------


class Sharing(OwnSession):
    """Gives out the array that it keeps."""

    def start(self, seed: int | None = None) -> Tree:
        super().start(seed)
        return self.inner._observation  # the fault itself

    def observe(self) -> Tree:
        return self.inner._observation


class Stopping(OwnSession):
    """Stays at the end of an episode."""

    def step_checked(self, action: Any, reset_on_done: bool | None = None) -> Transition:
        return super().step_checked(action, reset_on_done=False)


class Deaf(OwnSession):
    """Does not know its own choice."""

    reset_on_done = False


class Late(OwnSession):
    """Gives the observation after the step for the one before it."""

    def step_checked(self, action: Any, reset_on_done: bool | None = None) -> Transition:
        step = super().step_checked(action, reset_on_done)
        return dataclasses.replace(step, observation=self.observe())


class Forgetting(OwnSession):
    """Gives the reset's observation for the true last one."""

    def step_checked(self, action: Any, reset_on_done: bool | None = None) -> Transition:
        step = super().step_checked(action, reset_on_done)
        return dataclasses.replace(step, next_observation=self.observe())


class Unchecked(OwnSession):
    """Checks nothing."""

    def __init__(self, contract: Contract) -> None:
        del contract
        super().__init__(Contract(check_obs_finite=False, check_reward_finite=False))


class Forgiving(OwnSession):
    """Takes what is no action for another one."""

    def step_checked(self, action: Any, reset_on_done: bool | None = None) -> Transition:
        return super().step_checked(action if isinstance(action, np.integer) else 0, reset_on_done)


class Undying(OwnSession):
    """Goes on after it was closed."""

    def close(self) -> None:
        """The fault itself."""


@pytest.mark.parametrize(
    ("faulty", "test"),
    [
        (Sharing, "test_observations_are_copies"),
        (Stopping, "test_a_done_step_begins_the_next_episode"),
        (Deaf, "test_a_step_follows_the_sessions_choice"),
        (Late, "test_each_step_begins_where_the_last_one_ended"),
        (Forgetting, "test_a_done_step_may_be_left_at_its_end"),
        (Unchecked, "test_a_breach_names_its_field_and_a_start_mends_it"),
        (Forgiving, "test_a_wrong_action_changes_nothing"),
        (Undying, "test_closing_twice_is_fine_and_ends_it"),
    ],
)
def test_a_faulty_session_does_not_pass(faulty: type[OwnSession], test: str) -> None:
    opened: list[OwnSession] = []

    class Compliance(SessionCompliance):
        def make_session(self, contract: Contract) -> CheckedSession:
            opened.append(faulty(contract))
            return opened[-1]

    # Stopping fails by the session's own error, all others by the test's verdict.
    with pytest.raises(StateError if faulty is Stopping else AssertionError):
        getattr(Compliance(), test)()
    for session in opened:
        session.inner.close()
