"""One environment behind the vector session's wire and checks: the session's lower half.

A client is a vector session of one, in a worker process or in the trainer's, without auto-reset.
What is checked, and how a worker is watched, is written there and not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gymnasium import spaces

from vecsess.contract import Contract
from vecsess.errors import SpaceError, StateError
from vecsess.fleet.worker import Timeouts
from vecsess.session.vector import VecCheckedSession
from vecsess.tree import Tree, leaves
from vecsess.wire.spaces import assemble, leaves_of
from vecsess.wire.values import Env, Fields, Given, Space


class Step(NamedTuple):
    """What one step gave: `observation [*obs]`, reward and flags, all checked."""

    observation: Tree
    reward: float
    terminated: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class EnvDescription:
    """What an environment says of itself in the handshake.

    Attributes:
        observation_space: of the environment.
        action_space: of the environment.
        n_actions: how many there are, where they are Discrete, else None.
        obs_shape: where an observation is one array, else None.
        obs_dtype: of that array, such as "float32", else None.
    """

    observation_space: Space
    action_space: Space
    n_actions: int | None
    obs_shape: tuple[int, ...] | None
    obs_dtype: str | None

    @classmethod
    def of(cls, observation_space: Space, action_space: Space) -> EnvDescription:
        """Returns the description of these spaces."""
        discrete = isinstance(action_space, spaces.Discrete)
        n_actions = int(action_space.n) if discrete else None  # type: ignore[attr-defined]
        first = next(leaves_of(observation_space), None)
        if first is None or first.path:
            return cls(observation_space, action_space, n_actions, None, None)
        return cls(observation_space, action_space, n_actions, first.shape, str(first.dtype))


class Client:
    """One environment in one worker process; whatever comes from it is checked.

    Made by `spawn`, or by `in_process`. It does exactly what it is told: nothing is reset but by
    `reset`. `Session` adds the last observation, so that a step gives a whole transition.

    Args:
        vec: a vector session of one environment, with auto-reset disabled.

    Attributes:
        moves: how often the environment was reset or stepped, so that one of several sessions
            over the client notices another's.

    Example:
        >>> with Client.spawn("CartPole-v1", obs_shape=(4,), n_actions=2) as client:
        ...     observation = client.reset(seed=0)
        ...     client.step_raw(1).reward
        1.0
    """

    def __init__(self, vec: VecCheckedSession) -> None:
        self._vec = vec
        self.moves = 0
        self._resets_first = "expected reset() first: it has not been reset yet"
        self._description = EnvDescription.of(vec.single_observation_space, vec.single_action_space)

    @classmethod
    def spawn(
        cls,
        env: str | Callable[[], Env],
        *,
        obs_shape: Sequence[int] | None = None,
        n_actions: int | None = None,
        contract: Contract | None = None,
        make_kwargs: Fields | None = None,
        timeouts: Timeouts | None = None,
    ) -> Client:
        """Starts a worker process with one environment, and compares it with what is expected.

        Args:
            env: an id (also `module:EnvId`), or a zero-argument callable that returns an
                environment.
            obs_shape: what the caller expects of an observation; None for any.
            n_actions: how many Discrete actions the caller expects; None for any action space.
            contract: what each value must satisfy.
            make_kwargs: arguments for `gymnasium.make`, where `env` is an id.
            timeouts: how long each call of the environment may take.

        Raises:
            SpaceError: the environment is not what was expected; its worker was ended.
            EnvError: the environment could not be made; also the builtin exception it raised.
            SpawnError: the worker could not be started.
        """
        if not isinstance(env, str) and not callable(env):
            raise TypeError(
                f"env: expected an id or a callable, got {type(env).__name__}; an environment "
                "that exists already can be used in this process: CheckedSession.from_gymnasium"
            )
        vec = VecCheckedSession(
            env,
            1,
            make_kwargs=make_kwargs,
            workers=1,
            contract=contract,
            timeouts=timeouts,
            **_RAW,
        )
        client = cls(vec)
        try:
            client._expect(obs_shape, n_actions)
        except SpaceError:
            client.close()
            raise
        return client

    @classmethod
    def in_process(cls, env: Env, *, contract: Contract | None = None) -> Client:
        """Returns a client for an environment in this process: same checks, no protection.

        Args:
            env: belongs to the client from now on, which closes it.
            contract: what each value must satisfy.
        """
        return cls(VecCheckedSession(lambda: env, 1, workers=0, contract=contract, **_RAW))

    def _expect(self, obs_shape: Sequence[int] | None, n_actions: int | None) -> None:
        """Compares the handshake with what the caller expects."""
        told = self._description
        if n_actions is not None and told.n_actions != n_actions:
            raise SpaceError(
                f"expected n_actions={n_actions}, got {_found(told.n_actions, told.action_space)}; "
                "the worker was ended",
                field="n_actions",
            )
        if obs_shape is not None and told.obs_shape != tuple(obs_shape):
            raise SpaceError(
                f"expected obs_shape={tuple(obs_shape)}, got "
                f"{_found(told.obs_shape, told.observation_space)}; the worker was ended",
                field="obs_shape",
            )

    # --- requests --------------------------------------------------------------------------------

    def describe(self) -> EnvDescription:
        """Returns what the environment said of itself in the handshake."""
        return self._description

    @property
    def observation_space(self) -> Space:
        """The environment's observation space."""
        return self._description.observation_space

    @property
    def action_space(self) -> Space:
        """The environment's action space."""
        return self._description.action_space

    def reset(self, seed: int | None = None) -> Tree:
        """Resets the environment; returns the observation `[*obs]`.

        Raises:
            EnvError: the environment raised; it can be reset again.
            ContractViolation: the observation is not of its space's form, or breaks the contract.
            WorkerDied: end of stream: the worker ended; the next reset starts another.
            WorkerTimeout: no answer within `timeouts.reset_s`.
            ProtocolError: an answer that can't be read; its subclasses say in what way.
        """
        self._resets_first = "expected reset() first: its last call failed"
        self.moves += 1
        observations, _ = self._vec.reset(seed=seed)
        self._resets_first = ""
        return self._only(observations)

    def step_raw(self, action: Tree) -> Step:
        """Steps the environment; nothing is reset where that ends the episode.

        Args:
            action: checked against the action space before the worker is told.

        Raises:
            ActionError: no action of that space; nothing has happened.
            StateError: the episode has ended, or there was no reset.
            EnvError: the environment raised; reset it before the next step.
            ContractViolation: a flag, the reward or the observation breaks the contract.
            WorkerDied: end of stream: the worker ended; `reset` starts another.
            WorkerTimeout: no answer within `timeouts.step_s`.
            ProtocolError: an answer that can't be read; its subclasses say in what way.
        """
        if self._resets_first and not self.closed:
            raise StateError(self._resets_first)
        batch = self._vec.step(_batch_of_one(self.action_space, action))
        self.moves += 1
        observations, rewards, terminated, truncated, _ = batch
        step = Step(
            self._only(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0])
        )
        if step.terminated or step.truncated:
            self._resets_first = "expected reset() first: the episode has ended"
        return step

    def _only(self, observations: Tree) -> Tree:
        """Returns the one observation of a batch, as the environment's space has it."""
        space = self.observation_space
        parts = zip(leaves_of(space), leaves(observations), strict=True)
        return assemble(space, iter([a[0] if part.discrete else a[0, ...] for part, a in parts]))

    # --- life ------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._vec.closed)

    def close(self) -> None:
        """Ends the worker, by force where it does not end in time; a second call does nothing."""
        self._vec.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.observation_space} -> {self.action_space})"


# A client raises what a vector session could repair: its caller has one environment to look after.
_RAW: Fields = {"autoreset_mode": "disabled", "on_crash": "raise"}


def _found(value: Given, space: Space) -> str:
    return f"{value} from the environment" if value is not None else f"{space}, which has none"


def _batch_of_one(space: Space, action: Tree) -> Given:
    """Returns `action` with a leading axis of 1; what does not fit, the check will name."""
    if isinstance(space, spaces.Dict) and isinstance(action, dict):
        parts = space.spaces.items()
        return {key: _batch_of_one(part, action[key]) for key, part in parts if key in action}
    if isinstance(space, spaces.Tuple) and isinstance(action, tuple):
        return tuple(_batch_of_one(*pair) for pair in zip(space.spaces, action, strict=False))
    return [action] if not isinstance(space, spaces.Dict | spaces.Tuple) else action
