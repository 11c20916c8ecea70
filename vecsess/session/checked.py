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
from vecsess.session.client import Client, Env
from vecsess.session.native import NativeEnv, NativeHost
from vecsess.tree import Tree, map_leaves
from vecsess.wire.spaces import Space

S = TypeVar("S", bound="CheckedSession")


class CheckedSession(ABC):
    """A session with one environment; derive from it to make a session of your own.

    `vecsess.session.compliance.SessionCompliance` tests whether a session keeps to this.

    Attributes:
        observation_space: of the environment.
        action_space: of the environment.

    Example:
        >>> from vecsess.session.native import GridWorld
        >>> with CheckedSession.from_env(GridWorld(3, 3)) as session:
        ...     observation = session.start()
        ...     session.step_checked(1).reward
        -1.0
    """

    observation_space: Space
    action_space: Space

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
    def step_checked(self, action: Any, reset_on_done: bool = True) -> Transition:
        """Steps once; returns the checked transition.

        Args:
            action: `[*act]`, checked before the environment is told.
            reset_on_done: where the episode ends, begin the next one: `observe` returns its first
                observation then, and the transition's `next_observation` is still the true last
                one. False leaves the episode at its end, where only a start goes on.

        Raises:
            ActionError: not an action of the space; nothing has happened.
            ContractViolation: names the field; start before the next step.
            StateError: it was not started, its episode has ended, or its last call failed.
        """

    @property
    @abstractmethod
    def state(self) -> Any:
        """Where the session is: a value that later steps do not change."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the session owns; a second call does nothing."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def from_client(client: Client, *, seed: int | None = None) -> Session:
        """Returns a session over a client, not started yet.

        Args:
            client: belongs to the session from now on, which closes it.
            seed: what `start` resets with where it is given none.
        """
        return Session(client, seed=seed)

    @staticmethod
    def from_env(
        env: NativeEnv[Any],
        *,
        contract: Contract | None = None,
        seed: int | None = None,
    ) -> Session:
        """Returns a session over a native environment, whose state it shows.

        Args:
            env: a pure object.
            contract: what each transition must satisfy.
            seed: what `start` gives to an `initial_state` that takes one.
        """
        return _NativeSession(NativeHost(env), contract, seed)

    @staticmethod
    def from_gymnasium(
        env: Env,
        *,
        contract: Contract | None = None,
        seed: int | None = None,
    ) -> Session:
        """Returns a session over a Gymnasium environment in this process.

        Args:
            env: belongs to the session from now on, which closes it.
            contract: what each transition must satisfy.
            seed: what `start` resets with where it is given none.
        """
        return Session(Client.in_process(env, contract=contract), seed=seed)


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
        client: belongs to the session, which closes it.
        seed: what `start` resets with where it is given none.

    Example:
        >>> with Session.open("CartPole-v1", seed=0) as session:
        ...     transition = session.step_checked(1)
        >>> transition.next_observation.shape, transition.reward, transition.done
        ((4,), 1.0, False)
    """

    start = _Start()  # a method where it is called on a session

    def __init__(self, client: Client, *, seed: int | None = None) -> None:
        self.client = client
        self.observation_space = client.observation_space
        self.action_space = client.action_space
        self._seed = seed
        self._observation: Tree = None
        self._started = False

    @classmethod
    def open(
        cls,
        env: str | Callable[[], Env],
        *,
        seed: int | None = None,
        obs_shape: Sequence[int] | None = None,
        n_actions: int | None = None,
        contract: Contract | None = None,
        make_kwargs: dict[str, Any] | None = None,
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
        self._started = False
        self._observation = self.client.reset(seed)
        self._started = True
        return _copied(self._observation)

    def observe(self) -> Tree:
        """Returns a copy of the stored observation, `[*obs]`."""
        self._require_started()
        return _copied(self._observation)

    def step_checked(self, action: Any, reset_on_done: bool = True) -> Transition:
        """Steps once; returns the checked transition.

        Args:
            action: `[*act]`, checked before the worker is told.
            reset_on_done: where the episode ends, the stored observation becomes that of the next
                one, while the transition's `next_observation` stays the true last one.
        """
        self._require_started()
        observation = self._observation
        try:
            step = self.client.step_raw(action)
        except (ActionError, StateError):
            raise  # nothing has happened
        except BaseException:
            self._started = False  # only a reset knows where the environment is
            raise
        self._observation = step.observation
        transition = Transition(
            observation,
            action,
            step.reward,
            _copied(step.observation),
            step.terminated,
            step.truncated,
        )
        if transition.done and reset_on_done:
            self.reset()
        return transition

    @property
    def state(self) -> Any:
        """The stored observation; an environment elsewhere does not show its own state."""
        return self.observe()

    def close(self) -> None:
        """Closes the client; a second call does nothing."""
        self._started = False
        self.client.close()

    def _begin(self, seed: int | None = None) -> Tree:
        """Begins anew; returns the observation `[*obs]`."""
        return self.reset(self._seed if seed is None else seed)

    def _require_started(self) -> None:
        if self._started:
            return
        if self.client.closed:
            raise ClosedError("this session was closed; make a new one")
        raise StateError("expected start() first: it was not started, or its last call failed")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r})"


class _NativeSession(Session):
    """A session over a native environment."""

    def __init__(self, host: NativeHost[Any], contract: Contract | None, seed: int | None) -> None:
        super().__init__(Client.in_process(host, contract=contract), seed=seed)
        self._host = host

    @property
    def state(self) -> Any:
        """The native environment's own state."""
        self._require_started()
        return self._host.state


def _copied(tree: Tree) -> Tree:
    return map_leaves(lambda leaf: leaf.copy(), tree)
