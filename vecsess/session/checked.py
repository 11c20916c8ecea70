"""Single sessions: one environment whose every step is a whole, checked transition.

`CheckedSession` is what collection and evaluation are written against; `Session` is the one over a
client, and a client is a vector session of one. So there is one set of checks, wherever an
environment lives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, overload

from vecsess.contract import Contract, Transition
from vecsess.errors import ActionError, ClosedError, StateError
from vecsess.fleet.worker import Timeouts
from vecsess.session.client import Client
from vecsess.session.native import NativeEnv, NativeHost
from vecsess.tree import Tree, map_leaves
from vecsess.wire.values import Env, Fields, Given, Space

S = TypeVar("S", bound="CheckedSession")


class CheckedSession(ABC):
    """A session with one environment; derive from it to make a session of your own.

    `vecsess.session.compliance.SessionCompliance` tests whether a session keeps to this.

    Attributes:
        observation_space: of the environment.
        action_space: of the environment.
        reset_on_done: what a step does at the end of an episode where its call does not say.

    Example:
        >>> from vecsess.session.native import GridWorld
        >>> with CheckedSession.from_env(GridWorld(3, 3)) as session:
        ...     observation = session.start()
        ...     session.step_checked(1).reward
        -1.0
    """

    observation_space: Space
    action_space: Space
    reset_on_done: bool = True

    @abstractmethod
    def start(self, seed: int | None = None) -> Tree:
        """Begins anew; returns the observation `[*obs]`, a copy of the caller's own."""

    @abstractmethod
    def observe(self) -> Tree:
        """Returns the observation to act on, `[*obs]`, a copy of the caller's own.

        Raises:
            StateError: it was not started, or its last call failed.
        """

    @abstractmethod
    def step_checked(self, action: Tree, reset_on_done: bool | None = None) -> Transition:
        """Steps once; returns the checked transition.

        Args:
            action: `[*act]`, checked before the environment is told.
            reset_on_done: where the episode ends, begin the next one: `observe` returns its first
                observation then, and the transition's `next_observation` is still the true last
                one. False leaves the episode at its end, where only a start goes on. None does
                what the session was made for, its `reset_on_done`.

        Raises:
            ActionError: not an action of the space; nothing has happened.
            ContractViolation: names the field; start before the next step.
            StateError: it was not started, its episode has ended, or its last call failed.
        """

    @property
    @abstractmethod
    def state(self) -> Given:
        """Where the session is: a value that later steps do not change."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the session owns; a second call does nothing."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def from_client(client: Client, seed: int | None = None, reset_on_done: bool = True) -> Session:
        """Returns a session over a client, not started yet.

        Any number of sessions may follow each other over one client: the last one that started
        goes on, and an earlier one asks for a start. Who shares a client closes that, and none
        of its sessions, since a session's `close` closes the client.

        Args:
            client: what is stepped.
            seed: what `start` resets with where it is given none.
            reset_on_done: whether a step that ends the episode begins the next one.
        """
        return Session(client, seed=seed, reset_on_done=reset_on_done)

    @staticmethod
    def from_env(
        env: NativeEnv[Any],
        contract: Contract | None = None,
        reset_on_done: bool = True,
        *,
        seed: int | None = None,
    ) -> Session:
        """Returns a session over a native environment, whose state it shows.

        Args:
            env: a pure object.
            contract: what each transition must satisfy.
            reset_on_done: whether a step that ends the episode begins the next one.
            seed: what `start` gives to an `initial_state` that takes one.
        """
        return _NativeSession(NativeHost(env), contract, seed, reset_on_done)

    @staticmethod
    def from_gymnasium(
        env: Env,
        contract: Contract | None = None,
        reset_on_done: bool = True,
        *,
        seed: int | None = None,
    ) -> Session:
        """Returns a session over a Gymnasium environment in this process.

        Args:
            env: belongs to the session from now on, which closes it.
            contract: what each transition must satisfy.
            reset_on_done: whether a step that ends the episode begins the next one.
            seed: what `start` resets with where it is given none.
        """
        client = Client.in_process(env, contract=contract)
        return Session(client, seed=seed, reset_on_done=reset_on_done)


class _Starter(Protocol):
    def __call__(self, seed: int | None = None) -> Tree: ...


class _Opener(Protocol):
    def __call__(self, client: Client, seed: int | None = None) -> Session: ...


def _opener(kind: type[Session]) -> _Opener:
    def start(client: Client, seed: int | None = None) -> Session:
        """Resets the client once; returns the session that begins there."""
        session = kind(client)
        session.reset(seed)
        return session

    return start


class _Start:
    """`Session.start(client, seed)` makes a started session, `session.start(seed)` restarts one."""

    @overload
    def __get__(self, session: None, kind: type[Session]) -> _Opener: ...
    @overload
    def __get__(self, session: Session, kind: type[Session]) -> _Starter: ...
    def __get__(self, session: Session | None, kind: type[Session]) -> Callable[..., Any]:
        return _opener(kind) if session is None else session._begin  # its own


class Session(CheckedSession):
    """A client and its last observation, which make each step a whole transition.

    `Session.start(client, seed)` returns a started session, `Session.open(env)` one with a worker
    of its own. On a session, `start(seed)` begins anew.

    Args:
        client: what is stepped; the session's `close` closes it.
        seed: what `start` resets with where it is given none.
        reset_on_done: whether a step that ends the episode begins the next one.

    Example:
        >>> with Session.open("CartPole-v1", seed=0) as session:
        ...     transition = session.step_checked(1)
        >>> transition.next_observation.shape, transition.reward, transition.done
        ((4,), 1.0, False)
    """

    start = _Start()  # a method where it is called on a session

    def __init__(
        self, client: Client, *, seed: int | None = None, reset_on_done: bool = True
    ) -> None:
        self.client = client
        self.reset_on_done = reset_on_done
        self.observation_space = client.observation_space
        self.action_space = client.action_space
        self._seed = seed
        self._observation: Tree = None
        self._moves: int | None = None  # of the client when this session last heard of it

    @classmethod
    def open(
        cls,
        env: str | Callable[[], Env],
        *,
        seed: int | None = None,
        obs_shape: Sequence[int] | None = None,
        n_actions: int | None = None,
        contract: Contract | None = None,
        make_kwargs: Fields | None = None,
        timeouts: Timeouts | None = None,
    ) -> Session:
        """Spawns a client and starts a session on it; use it in a `with`, which closes both.

        Args:
            env: as for `Client.spawn`, like all others.
            seed: of the first reset.
            obs_shape: what the caller expects.
            n_actions: what the caller expects.
            contract: what each transition must satisfy.
            make_kwargs: arguments for `gymnasium.make`.
            timeouts: how long each call of the environment may take.
        """
        client = Client.spawn(
            env,
            obs_shape=obs_shape,
            n_actions=n_actions,
            contract=contract,
            make_kwargs=make_kwargs,
            timeouts=timeouts,
        )
        try:
            return cls.start(client, seed)
        except BaseException:
            client.close()
            raise

    def reset(self, seed: int | None = None) -> Tree:
        """Resets the environment, and stores and returns the observation `[*obs]`.

        Args:
            seed: None goes on with the environment's own stream.
        """
        self._moves = None
        self._observation = self.client.reset(seed)
        self._moves = self.client.moves
        return _copied(self._observation)

    def observe(self) -> Tree:
        """Returns a copy of the stored observation, `[*obs]`."""
        self._require_started()
        return _copied(self._observation)

    def step_checked(self, action: Tree, reset_on_done: bool | None = None) -> Transition:
        """Steps once; returns the checked transition.

        Args:
            action: `[*act]`, checked before the worker is told.
            reset_on_done: where the episode ends, the stored observation becomes that of the next
                one, while the transition's `next_observation` stays the true last one. None does
                what the session was made for.
        """
        self._require_started()
        observation = self._observation
        try:
            step = self.client.step_raw(action)
        except (ActionError, StateError):
            raise  # nothing has happened
        except BaseException:
            self._moves = None  # only a reset knows where the environment is
            raise
        self._observation, self._moves = step.observation, self.client.moves
        transition = Transition(
            observation,
            action,
            step.reward,
            _copied(step.observation),
            step.terminated,
            step.truncated,
        )
        if transition.done and (self.reset_on_done if reset_on_done is None else reset_on_done):
            self.reset()
        return transition

    @property
    def state(self) -> Given:
        """The stored observation; an environment elsewhere does not show its own state."""
        return self.observe()

    def close(self) -> None:
        """Closes the client; a second call does nothing."""
        self._moves = None
        self.client.close()

    def _begin(self, seed: int | None = None) -> Tree:
        """Begins anew; returns the observation `[*obs]`."""
        return self.reset(self._seed if seed is None else seed)

    def _require_started(self) -> None:
        if self.client.closed:
            raise ClosedError("this session was closed, or its client was; make a new one")
        if self._moves is None:
            raise StateError("expected start() first: it was not started, or its last call failed")
        if self._moves != self.client.moves:
            raise StateError(
                "expected start() first: its client was reset or stepped since by somebody else, "
                "such as another session over it"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r})"


class _NativeSession(Session):
    """A session over a native environment."""

    def __init__(
        self,
        host: NativeHost[Any],
        contract: Contract | None,
        seed: int | None,
        reset_on_done: bool,
    ) -> None:
        client = Client.in_process(host, contract=contract)
        super().__init__(client, seed=seed, reset_on_done=reset_on_done)
        self._host = host

    @property
    def state(self) -> Given:
        """The native environment's own state."""
        self._require_started()
        return self._host.state


def _copied(tree: Tree) -> Tree:
    return map_leaves(lambda leaf: leaf.copy(), tree)
