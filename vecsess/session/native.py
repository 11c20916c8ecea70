"""Native environments: pure objects in the trainer's process, behind the same checks as others."""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from vecsess.tree import Tree
from vecsess.wire.spaces import FormError
from vecsess.wire.values import Env, Fields, Given, Space

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

    def step(self, state: State, action: Tree) -> tuple[State, float, bool, bool]:
        """Returns the state after the action, the reward, terminated, truncated."""
        ...


class NativeHost(Env, Generic[State]):
    """A native environment and its state, in Gymnasium's shape.

    Args:
        env: the pure object.
    """

    def __init__(self, env: NativeEnv[State]) -> None:
        self._env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.state: Given = None  # until the first reset

    def reset(
        self, *, seed: int | None = None, options: Fields | None = None
    ) -> tuple[Tree, Fields]:
        """Begins an episode."""
        del options  # a pure environment has nowhere to keep them
        super().reset(seed=seed)
        start: Given = self._env.initial_state
        self.state = start(seed) if callable(start) else start
        return self._env.observe(self.state), {}

    def step(self, action: Tree) -> tuple[Tree, float, bool, bool, Fields]:
        """Steps from the state that is held."""
        result: Given = self._env.step(self.state, action)
        if not isinstance(result, tuple) or len(result) != 4:
            raise FormError(
                "step",
                "expected (state, reward, terminated, truncated), got "
                f"{type(result).__name__} {result!r:.80}",
            )
        self.state, reward, terminated, truncated = result
        return self._env.observe(self.state), reward, terminated, truncated, {}


UP, RIGHT, DOWN, LEFT = range(4)
_MOVES = {UP: (-1, 0), RIGHT: (0, 1), DOWN: (1, 0), LEFT: (0, -1)}


class Cell(NamedTuple):
    """Where the walker is, and how many steps it has taken."""

    row: int
    column: int
    steps: int = 0


class GridWorld:
    """From the top left cell to the bottom right one, a reward of -1 for each step.

    A pure object: states are values, and `step` returns the next one. A step against the border
    stays where it is. The episode terminates in the last cell, and is truncated after `max_steps`.

    Args:
        rows: at least 1.
        columns: at least 1; the grid has two cells or more.
        max_steps: None never truncates.

    Attributes:
        initial_state: the top left cell.
        observation_space: one-hot over the cells, `[rows * columns]` float32.
        action_space: 0 up, 1 right, 2 down, 3 left.

    Example:
        >>> world = GridWorld(3, 4)
        >>> world.step(world.initial_state, RIGHT)
        (Cell(row=0, column=1, steps=1), -1.0, False, False)
        >>> world.optimal_return(world.initial_state)
        -5.0
    """

    def __init__(self, rows: int = 4, columns: int = 4, max_steps: int | None = None) -> None:
        if rows < 1 or columns < 1 or rows * columns < 2:
            raise ValueError(f"expected a grid of two cells or more, got {rows} x {columns}")
        self.rows, self.columns, self.max_steps = rows, columns, max_steps
        self.initial_state = Cell(0, 0)
        self.observation_space = spaces.Box(0.0, 1.0, (rows * columns,), np.float32)
        self.action_space = spaces.Discrete(4)

    def observe(self, state: Cell) -> npt.NDArray[np.float32]:
        """Returns the one-hot observation `[rows * columns]` float32."""
        observation = np.zeros(self.rows * self.columns, np.float32)
        observation[state.row * self.columns + state.column] = 1.0
        return observation

    def step(self, state: Cell, action: Tree) -> tuple[Cell, float, bool, bool]:
        """Returns the next state, the reward -1, terminated, truncated."""
        down, right = _MOVES[int(action)]
        row = min(max(state.row + down, 0), self.rows - 1)
        column = min(max(state.column + right, 0), self.columns - 1)
        after = Cell(row, column, state.steps + 1)
        terminated = self.distance(after) == 0
        out_of_time = self.max_steps is not None and after.steps >= self.max_steps
        return after, -1.0, terminated, out_of_time and not terminated

    def distance(self, state: Cell) -> int:
        """Returns how many steps the goal is away: the Manhattan distance."""
        return (self.rows - 1 - state.row) + (self.columns - 1 - state.column)

    def optimal_return(self, state: Cell, gamma: float = 1.0) -> float:
        """Returns the best discounted return from a state, truncation left out.

        With `d` steps to go that is `-(1 + gamma + ... + gamma^(d-1))`, which is
        `-(1 - gamma^d) / (1 - gamma)`.
        """
        steps = self.distance(state)
        if gamma == 1.0:
            return -float(steps)
        return -(1.0 - gamma**steps) / (1.0 - gamma)
