"""What a `CheckedSession` promises, as tests that anyone can run over a session of their own."""

from __future__ import annotations

import copy
from abc import abstractmethod

import numpy as np

from vecsess.contract import Contract, Transition
from vecsess.errors import ActionError, ContractViolation, StateError
from vecsess.session.checked import CheckedSession
from vecsess.tree import Tree, leaves, map_leaves
from vecsess.wire.spaces import leaves_of
from vecsess.wire.values import Given, Space

_IMPOSSIBLE = {
    "reward": Contract(reward_range=(1e30, 1e31)),
    "observation": Contract(obs_range=(1e30, 1e31)),
}


class SessionCompliance:
    """Derive a test class from it, and pytest runs every test over your sessions.

    Attributes:
        seed: what episodes are started with.
        max_steps: within how many steps of random actions an episode ends; 0 where none ever does.
        reproducible: whether the same seed gives the same episode.

    Example:
        >>> from vecsess.session.native import GridWorld
        >>> class TestGridWorld(SessionCompliance):
        ...     def make_session(self, contract):
        ...         return CheckedSession.from_env(GridWorld(2, 2), contract=contract)
        >>> TestGridWorld().test_a_step_is_a_whole_transition()
    """

    seed = 7
    max_steps = 1000
    reproducible = True

    @abstractmethod
    def make_session(self, contract: Contract) -> CheckedSession:
        """Returns a new session, not started, that checks this contract."""

    # --- observations ----------------------------------------------------------------------------

    def test_start_returns_what_observe_returns(self) -> None:
        """Both are of the observation space's form, and looking changes nothing."""
        with self._session() as session:
            started = session.start(self.seed)
            _require_form(session.observation_space, started, "start()")
            _require_same(started, session.observe(), "observe() after start()")
            _require_same(started, session.observe(), "observe() the second time")

    def test_observations_are_copies(self) -> None:
        """What a caller does to an observation is seen by nobody else."""
        with self._session() as session:
            started = session.start(self.seed)
            kept = copy.deepcopy(started)
            map_leaves(_spoil, started)
            _require_same(kept, session.observe(), "observe() after start()'s was changed")
            map_leaves(_spoil, session.observe())
            transition = session.step_checked(self._actions(session).sample())
            _require_same(kept, transition.observation, "the transition's observation")
            kept = copy.deepcopy(transition.next_observation)
            map_leaves(_spoil, transition.next_observation)
            if not transition.done:
                _require_same(kept, session.observe(), "observe() after the transition's")

    # --- transitions -----------------------------------------------------------------------------

    def test_a_step_is_a_whole_transition(self) -> None:
        """It begins with what was observed; reward and flags are plain."""
        with self._session() as session:
            seen = session.start(self.seed)
            transition = session.step_checked(self._actions(session).sample())
            assert isinstance(transition, Transition), type(transition)
            _require_same(seen, transition.observation, "the transition's observation")
            _require_form(
                session.observation_space, transition.next_observation, "next_observation"
            )
            assert isinstance(transition.reward, float), type(transition.reward)
            for flag in (transition.terminated, transition.truncated):
                assert isinstance(flag, bool | np.bool_), type(flag)

    def test_each_step_begins_where_the_last_one_ended(self) -> None:
        """Over several episodes, each transition's observation is what `observe` had said."""
        with self._session() as session:
            session.start(self.seed)
            actions = self._actions(session)
            for _ in range(50):
                seen = session.observe()
                transition = session.step_checked(actions.sample(), reset_on_done=True)
                _require_same(seen, transition.observation, "the transition's observation")
                if not transition.done:
                    _require_same(transition.next_observation, session.observe(), "observe()")

    def test_a_later_step_changes_no_earlier_transition(self) -> None:
        """What was given out stays, although many environments reuse their arrays."""
        with self._session() as session:
            session.start(self.seed)
            actions = self._actions(session)
            given = [session.step_checked(actions.sample(), True) for _ in range(5)]
            kept = copy.deepcopy(given)
            for _ in range(5):
                session.step_checked(actions.sample(), True)
            for before, after in zip(kept, given, strict=True):
                _require_same(before.observation, after.observation, "an earlier observation")
                _require_same(
                    before.next_observation, after.next_observation, "an earlier next_observation"
                )

    def test_a_done_step_begins_the_next_episode(self) -> None:
        """The transition keeps the true last observation; `observe` gives the new one."""
        with self._session() as session:
            session.start(self.seed)
            actions = self._actions(session)
            last = self._last_step(session, actions)
            if last is None:
                return
            _require_form(session.observation_space, last.next_observation, "the last observation")
            begun = session.observe()
            following = session.step_checked(actions.sample())
            _require_same(begun, following.observation, "the next episode's first observation")

    def test_a_step_follows_the_sessions_choice(self) -> None:
        """A call that does not say ends as `reset_on_done` does."""
        with self._session() as session:
            session.start(self.seed)
            last = self._last_step(session, self._actions(session), reset_on_done=None)
            if last is None:
                return
            action = self._actions(session).sample()
            if session.reset_on_done:
                begun = session.observe()
                _require_same(begun, session.step_checked(action).observation, "the next episode's")
            else:
                _require_same(last.next_observation, session.observe(), "observe() at the end")
                _require_raises(StateError, session.step_checked, action)

    def test_a_done_step_may_be_left_at_its_end(self) -> None:
        """The last observation is the one that is kept with a reset; only a start goes on."""
        with self._session() as session:
            session.start(self.seed)
            last = self._last_step(session, self._actions(session), reset_on_done=False)
            if last is None:
                return
            _require_same(last.next_observation, session.observe(), "observe() at the end")
            _require_raises(StateError, session.step_checked, self._actions(session).sample())
            session.start(self.seed)
            again = self._last_step(session, self._actions(session))
            if self.reproducible and again is not None:
                _require_same(
                    last.next_observation, again.next_observation, "the last next_observation"
                )

    def test_the_same_seed_gives_the_same_episode(self) -> None:
        """Whether it is the first one of a session or a later one."""
        if not self.reproducible:
            return
        with self._session() as session:
            for first, second in zip(self._episode(session), self._episode(session), strict=True):
                _require_same(first.observation, second.observation, "observation")
                _require_same(first.next_observation, second.next_observation, "next_observation")
                assert first.reward == second.reward, (first.reward, second.reward)
                assert first.done == second.done, (first.done, second.done)

    # --- refusals --------------------------------------------------------------------------------

    def test_there_is_nothing_to_see_before_the_start(self) -> None:
        """Neither an observation nor a step; and a start makes it good."""
        with self._session() as session:
            _require_raises(StateError, session.observe)
            _require_raises(StateError, session.step_checked, self._actions(session).sample())
            session.start(self.seed)
            session.observe()

    def test_a_wrong_action_changes_nothing(self) -> None:
        """It is refused before the environment hears of it."""
        with self._session() as session:
            expected = self._episode(session)[0] if self.reproducible else None
            seen = session.start(self.seed)
            for wrong in (None, "an action", object(), float("nan"), {"not": "an action"}):
                _require_raises(ActionError, session.step_checked, wrong)
                _require_same(seen, session.observe(), f"observe() after the action {wrong!r}")
            transition = session.step_checked(self._actions(session).sample())
            if expected is not None:
                _require_same(
                    expected.next_observation, transition.next_observation, "next_observation"
                )

    def test_a_breach_names_its_field_and_a_start_mends_it(self) -> None:
        """An observation at the start, a reward at a step: each is named."""
        with self.make_session(_IMPOSSIBLE["observation"]) as session:
            error = _require_raises(ContractViolation, session.start, self.seed)
            assert str(error.field).startswith("observation"), error.field
            _require_raises(StateError, session.observe)
        with self.make_session(_IMPOSSIBLE["reward"]) as session:
            session.start(self.seed)
            error = _require_raises(
                ContractViolation, session.step_checked, self._actions(session).sample()
            )
            assert error.field == "reward", error.field
            _require_raises(StateError, session.observe)
            session.start(self.seed)
            session.observe()

    def test_the_reward_is_checked_before_the_next_observation(self) -> None:
        """A step that breaks both is reported for its reward."""
        with self._session() as session:
            started = session.start(self.seed)
            transition = session.step_checked(self._actions(session).sample())
        low, high = _range_of(started)
        following = _range_of(transition.next_observation)
        if low <= following[0] and following[1] <= high:
            return  # this step stays in the first observation's range: nothing to break
        both = Contract(obs_range=(low, high), reward_range=(1e30, 1e31))
        for contract, field in (
            (Contract(obs_range=(low, high)), "next_observation"),
            (both, "reward"),
        ):
            with self.make_session(contract) as session:
                session.start(self.seed)
                error = _require_raises(
                    ContractViolation, session.step_checked, self._actions(session).sample()
                )
                assert str(error.field).startswith(field), error.field

    # --- life ------------------------------------------------------------------------------------

    def test_the_state_can_be_kept(self) -> None:
        """A state that was read does not change with later steps."""
        with self._session() as session:
            session.start(self.seed)
            state = session.state
            kept = copy.deepcopy(state)
            session.step_checked(self._actions(session).sample())
            _require_same(kept, state, "a state that was read before the step")

    def test_closing_twice_is_fine_and_ends_it(self) -> None:
        """Nothing works on a closed session, and it says so."""
        session = self._session()
        session.start(self.seed)
        action = self._actions(session).sample()
        session.close()
        session.close()
        _require_raises(StateError, session.observe)
        _require_raises(StateError, session.step_checked, action)
        _require_raises(StateError, session.start)

    # --- parts -----------------------------------------------------------------------------------

    def _session(self) -> CheckedSession:
        return self.make_session(Contract())

    def _actions(self, session: CheckedSession) -> Space:
        """Returns a copy of the action space that samples the same actions each time."""
        space = copy.deepcopy(session.action_space)
        space.seed(self.seed)
        return space

    def _last_step(
        self, session: CheckedSession, actions: Space, *, reset_on_done: bool | None = True
    ) -> Transition | None:
        """Returns the transition that ends the episode, None where none ever does."""
        for _ in range(self.max_steps):
            transition = session.step_checked(actions.sample(), reset_on_done=reset_on_done)
            if transition.done:
                return transition
        assert not self.max_steps, f"no episode ended within {self.max_steps} steps"
        return None

    def _episode(self, session: CheckedSession, steps: int = 20) -> list[Transition]:
        """Returns the first transitions after a seeded start, at most one episode."""
        session.start(self.seed)
        actions = self._actions(session)
        transitions: list[Transition] = []
        while len(transitions) < steps and not (transitions and transitions[-1].done):
            transitions.append(session.step_checked(actions.sample()))
        return transitions


def _require_form(space: Space, value: Tree, name: str) -> None:
    for leaf, part in zip(leaves_of(space), leaves(value), strict=True):
        array = np.asarray(part)
        expected, got = (leaf.dtype, leaf.shape), (array.dtype, array.shape)
        assert got == expected, f"{name}: expected {expected}, got {got}"


def _require_same(expected: Given, got: Given, name: str) -> None:
    pairs = list(zip(leaves(expected), leaves(got), strict=True))
    same = all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in pairs)
    assert same, f"{name}: expected {expected}, got {got}"


def _require_raises(kind: type[Exception], function: Given, *arguments: Given) -> Given:
    """Returns the error, which must be of this kind."""
    try:
        result = function(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {result!r}")


def _spoil(leaf: Given) -> None:
    if isinstance(leaf, np.ndarray):
        leaf.fill(99)


def _range_of(observation: Tree) -> tuple[float, float]:
    arrays = [np.asarray(leaf) for leaf in leaves(observation)]
    return min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
