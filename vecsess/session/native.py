"""Native environments: pure objects in the trainer's process, behind the same checks as others."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import gymnasium

from vecsess.tree import Tree
from vecsess.wire.spaces import FormError, Space

State = TypeVar("State")


class NativeEnv(Protocol[State]):
    """A pure environment: it holds no state, and the same arguments give the same results.

    A state is opaque to everyone else; nothing changes one that was given out. Randomness, where
    there is any, is a part of the state.

    Attributes:
        initial_state: where each episode begins; or a callable that returns that for a seed, which
            is None where nobody asked for one.
        observation_space: of what `observe` returns.
        action_space: of what `step` takes.
    """

    @property
    def initial_state(self) -> State: ...  # noqa: D102  # documented above
    @property
    def observation_space(self) -> Space: ...  # noqa: D102
    @property
    def action_space(self) -> Space: ...  # noqa: D102

    def observe(self, state: State) -> Tree:
        """Returns the observation `[*obs]` of a state."""
        ...

    def step(self, state: State, action: Any) -> tuple[State, float, bool, bool]:
        """Returns the state after the action, the reward, terminated, truncated."""
        ...


class NativeHost(gymnasium.Env[Any, Any], Generic[State]):
    """A native environment and its state, in Gymnasium's shape.

    Args:
        env: the pure object.
    """

    def __init__(self, env: NativeEnv[State]) -> None:
        self._env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.state: Any = None  # until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tree, dict[str, Any]]:
        """Begins an episode."""
        del options  # a pure environment has nowhere to keep them
        super().reset(seed=seed)
        start: Any = self._env.initial_state
        self.state = start(seed) if callable(start) else start
        return self._env.observe(self.state), {}

    def step(self, action: Any) -> tuple[Tree, float, bool, bool, dict[str, Any]]:
        """Steps from the state that is held."""
        result: Any = self._env.step(self.state, action)
        if not isinstance(result, tuple) or len(result) != 4:
            raise FormError(
                "step",
                "expected (state, reward, terminated, truncated), got "
                f"{type(result).__name__} {result!r:.80}",
            )
        self.state, reward, terminated, truncated = result
        return self._env.observe(self.state), reward, terminated, truncated, {}
