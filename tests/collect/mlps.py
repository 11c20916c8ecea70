"""Policies of matrix products, whose last bits depend on how many rows they are given at once."""

from __future__ import annotations

from typing import Any

import numpy as np


class Mlp:
    """Two layers of float32; decides for `actions` discrete actions from `size` numbers."""

    noise_size = 1

    def __init__(self, size: int, actions: int, hidden: int = 64, act_rows: int | None = None):
        rng = np.random.default_rng(3)
        shapes = ((size, hidden), (hidden, hidden), (hidden, actions), (hidden, 1))
        self.weights = [rng.standard_normal(shape).astype(np.float32) * 0.3 for shape in shapes]
        if act_rows is not None:
            self.act_rows = act_rows
        self.seen: list[int] = []

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        self.seen.append(len(observations))
        hidden = self._hidden(observations)
        logits = hidden @ self.weights[2]
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = weights / weights.sum(axis=1, keepdims=True)
        actions = (noise >= np.cumsum(shares, axis=1)).sum(axis=1).clip(max=shares.shape[1] - 1)
        chosen = np.log(shares[np.arange(len(actions)), actions])
        return actions, chosen, (hidden @ self.weights[3])[:, 0]

    def value(self, observations: Any, *, envs: Any) -> Any:
        return (self._hidden(observations) @ self.weights[3])[:, 0]

    def _hidden(self, observations: Any) -> Any:
        flat = np.asarray(observations, np.float32).reshape(len(observations), -1)
        return np.tanh(np.tanh(flat @ self.weights[0]) @ self.weights[1])


class Recurrent(Mlp):
    """Adds up what it has seen of each episode, and decides by that; grows with its environments.

    What it keeps is cleared at each `episode_start`, and moves with `get_state` and `set_state`.
    """

    def __init__(self, size: int, actions: int, envs: int, act_rows: int | None = None):
        super().__init__(size, actions, act_rows=act_rows)
        self.sums = np.zeros((envs, size), np.float32)
        self.steps = np.zeros(envs, np.int64)

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        self.sums[envs[episode_start]], self.steps[envs[episode_start]] = 0.0, 0
        self.sums[envs] = 0.5 * self.sums[envs] + observations
        self.steps[envs] += 1
        past = self.sums[envs] + self.steps[envs, None]
        return super().act(past, noise=noise, episode_start=episode_start, envs=envs)

    def value(self, observations: Any, *, envs: Any) -> Any:
        return super().value(0.5 * self.sums[envs] + observations, envs=envs)

    def get_state(self, envs: Any) -> Any:
        return {"sums": self.sums[envs], "steps": self.steps[envs]}

    def set_state(self, envs: Any, state: Any) -> None:
        self.sums[envs], self.steps[envs] = state["sums"], state["steps"]
