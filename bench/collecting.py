"""Collecting as a contender: a rollout of 128 a call, ours against the loop that people write.

All ask the same policy, so what differs is how the batch gets filled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vecsess.bench.cases import Case
from vecsess.bench.contenders import Adapter

HORIZON = 128
_WIDTH = 64


class SmallPolicy:
    """An MLP of two layers of 64 for the actor, as one for the critic, in NumPy; float32.

    Discrete actions are drawn by the inverse of the cumulative probabilities, others by a normal
    distribution around the network's answer.

    Args:
        observation_space: of one environment; what has axes is made flat.
        action_space: Discrete or Box.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        rng = np.random.default_rng(0)
        self._discrete = isinstance(action_space, gym.spaces.Discrete)
        self._shape = () if self._discrete else (action_space.shape or ())
        self._dtype = action_space.dtype
        size = int(action_space.n) if self._discrete else int(np.prod(self._shape))  # type: ignore[attr-defined]
        self.noise_size = 1 if self._discrete else size
        self.noise_kind = "uniform" if self._discrete else "normal"
        inputs = int(np.prod(observation_space.shape or (1,)))
        self._inputs = None if inputs <= _WIDTH else _WIDTH  # of an image only a corner
        inputs = min(inputs, _WIDTH)
        self._actor = _layers(rng, (inputs, _WIDTH, _WIDTH, size))
        self._critic = _layers(rng, (inputs, _WIDTH, _WIDTH, 1))

    def act(
        self, observations: NDArray[Any], *, noise: NDArray[Any], **_: Any
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Turns `observations [rows, *obs]` into actions, log-probabilities and values."""
        flat = self._flat(observations)
        found, values = _forward(self._actor, flat), _forward(self._critic, flat)[:, 0]
        if not self._discrete:
            actions = (found + 0.1 * noise).clip(-1, 1).astype(self._dtype)
            log_probs = -0.5 * np.square(noise).sum(axis=1)
            return actions.reshape(-1, *self._shape), log_probs.astype(np.float32), values
        shifted = np.exp(found - found.max(axis=1, keepdims=True))
        chances = shifted / shifted.sum(axis=1, keepdims=True)
        chosen = (np.cumsum(chances[:, :-1], axis=1) <= noise).sum(axis=1)
        log_probs = np.log(chances[np.arange(len(chosen)), chosen])
        return chosen.astype(np.int64), log_probs, values

    def value(self, observations: NDArray[Any], **_: Any) -> NDArray[np.float32]:
        """Returns the critic's answer, `[rows]`."""
        values: NDArray[np.float32] = _forward(self._critic, self._flat(observations))[:, 0]
        return values

    def _flat(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        flat = np.asarray(observations).reshape(len(observations), -1)
        return flat[:, : self._inputs].astype(np.float32)


class WeightyPolicy(SmallPolicy):
    """The same with weights beside its own, which travel with each rollout.

    Args:
        observation_space: of one environment.
        action_space: likewise.
        extra_bytes: how many.
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], extra_bytes: int
    ) -> None:
        super().__init__(observation_space, action_space)
        self._extra = np.zeros(extra_bytes, np.uint8)


def _layers(rng: np.random.Generator, sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    pairs = itertools.pairwise(sizes)
    return [rng.standard_normal(pair).astype(np.float32) / pair[0] ** 0.5 for pair in pairs]


def _forward(layers: list[NDArray[np.float32]], inputs: NDArray[np.float32]) -> Any:
    for weights in layers[:-1]:
        inputs = np.tanh(inputs @ weights)
    return inputs @ layers[-1]


class RolloutAdapter(Adapter):
    """Has one empty command: the policy chooses the actions."""

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Gives an empty command."""
        return [None]


class UsualLoop(RolloutAdapter):
    """The loop over a vector environment into preallocated `[T, N, ...]` arrays, as in CleanRL."""

    def __init__(self, case: Case, n: int, *, make: Callable[[Case, int], Any]) -> None:
        """Starts what `make` makes, and allocates the batch."""
        self._vec = make(case, n)
        env = case.make()
        space, actions = env.observation_space, env.action_space
        env.close()
        self._policy = SmallPolicy(space, actions)
        self._rng = np.random.default_rng(0)
        self._observations = np.zeros((HORIZON, n, *(space.shape or ())), space.dtype)
        self._actions = np.zeros((HORIZON, n, *(actions.shape or ())), actions.dtype)
        self._log_probs, self._rewards, self._dones, self._values = np.zeros(
            (4, HORIZON, n), np.float32
        )
        self._next_done = np.zeros(n, np.bool_)
        self._n, self.steps_per_call = n, HORIZON * n

    def reset(self) -> None:
        """Resets all, and keeps the first observation."""
        self._next_observation, _ = self._vec.reset()

    def step(self, actions: Any) -> None:
        """Fills the batch once."""
        policy, size = self._policy, (self._n, self._policy.noise_size)
        draw = self._rng.random if policy.noise_kind == "uniform" else self._rng.standard_normal
        for t in range(HORIZON):
            self._observations[t] = self._next_observation
            self._dones[t] = self._next_done
            chosen, log_probs, values = policy.act(
                self._next_observation, noise=draw(size, np.float32)
            )
            self._actions[t], self._log_probs[t], self._values[t] = chosen, log_probs, values
            self._next_observation, rewards, terminated, truncated, _ = self._vec.step(chosen)
            self._rewards[t] = rewards
            self._next_done = np.logical_or(terminated, truncated)
        self._last_values = policy.value(self._next_observation)

    def close(self) -> None:
        """Closes all."""
        self._vec.close()


class CollectAdapter(RolloutAdapter):
    """Ours: `collect_rollout` into the same `Rollout` again and again.

    Args:
        case: what to step.
        n: how many of them.
        workers: as for `VecCheckedSession`.
        policy: made of the two spaces.
        affinity: as for `VecCheckedSession`.
        each: whether each worker has `n` environments, instead of all together.
        how: further arguments of `collect_rollout`, such as `inference="workers"`.
    """

    def __init__(
        self,
        case: Case,
        n: int,
        *,
        workers: int | Literal["auto"] | None,
        policy: Callable[..., Any] = SmallPolicy,
        affinity: Literal["spread"] | None = None,
        each: bool = False,
        **how: Any,
    ) -> None:
        from vecsess import VecCheckedSession

        n = n * workers if each and isinstance(workers, int) else n
        self._vec = VecCheckedSession(case.env, n, workers=workers, affinity=affinity)
        spaces = (self._vec.single_observation_space, self._vec.single_action_space)
        self._policy = policy(*spaces)
        self._how = how
        self._rollout: Any = None
        self.steps_per_call = HORIZON * n

    def reset(self) -> None:
        """Resets all."""
        self._vec.start(seed=0)

    def step(self, actions: Any) -> None:
        """Fills the batch once."""
        from vecsess import collect_rollout

        self._rollout = collect_rollout(
            self._vec, self._policy, HORIZON, out=self._rollout, **self._how
        )

    def close(self) -> None:
        """Closes all."""
        self._vec.close()
