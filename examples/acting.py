"""The agent as a policy for `collect_rollout`.

For 16 rows of four numbers a call into PyTorch takes far longer than its sums. So an agent without
convolutions and LSTM acts in NumPy, on PyTorch's own memory: there is nothing to keep up to date.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scaling import Moments
from torch import Tensor, nn

from vecsess.sampling import categorical_log_prob, normal_noise, sample_categorical

CELLS = 128  # of the LSTM
LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)
Array = NDArray[Any]


class Player:
    """The agent as a policy, with the LSTM's state of each environment."""

    def __init__(self, agent: Any, n: int, *, greedy: bool = False):
        self.agent, self.greedy = agent, greedy
        self.noise_size = 1 if agent.discrete else 2 * math.ceil(agent.size / 2)
        self.state = torch.zeros(2, n, CELLS)
        self.history: list[Tensor] = []  # the state after each step of a rollout
        torch_heads, own = self._torch_heads, (agent.actor, agent.critic, agent.scale)
        self.heads = torch_heads if agent.shared else Heads(*own)
        self.log_std = None if agent.discrete else array_of(agent.log_std)

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        heads, values = self.heads(observations, episode_start)
        actions = self._choose(heads, noise)
        if self.log_std is None:
            return actions, categorical_log_prob(heads, actions - self.agent.first), values
        flat = actions.reshape(len(actions), -1)
        return actions, gaussian_log_prob(heads, self.log_std, flat), values

    @torch.no_grad()
    def _torch_heads(self, observations: Array, episode_start: Array) -> Any:
        features = self.agent.encode(torch.from_numpy(observations))
        if self.agent.lstm is not None:
            start = torch.from_numpy(episode_start)
            features, self.state = self.agent.recur(features, self.state, start)
            self.history.append(self.state)
        return self.agent.actor(features).numpy(), self.agent.critic(features)[:, 0].numpy()

    def _choose(self, heads: Array, noise: Array) -> Array:
        agent = self.agent
        if self.log_std is None:
            chosen = heads.argmax(-1) if self.greedy else sample_categorical(heads, noise[:, 0])
            return chosen + agent.first
        if not self.greedy:
            heads = heads + np.exp(self.log_std) * normal_noise(noise)[:, : agent.size]
        return heads.astype(np.float32).reshape(-1, *agent.shape)

    @torch.no_grad()
    def value(self, observations: Any, *, envs: Any, state: Tensor | None = None) -> Any:
        features = self.agent.encode(torch.from_numpy(observations))
        if self.agent.lstm is not None:
            state = self.state[:, envs] if state is None else state
            features, _ = self.agent.recur(features, state, torch.zeros(len(features), dtype=bool))
        return self.agent.critic(features)[:, 0].numpy()


class Heads:
    """Actor and critic that share no layers, each of linear layers with tanh between them.

    Args:
        actor: gives `[rows, A]`.
        critic: gives `[rows, 1]`.
        scale: what observations go through first.
    """

    def __init__(self, actor: nn.Sequential, critic: nn.Sequential, scale: nn.Module):
        self._actor, self._critic = _layers(actor), _layers(critic)
        self._moments = (
            [array_of(scale.mean), array_of(scale.var)] if isinstance(scale, Moments) else []
        )

    def __call__(self, observations: Array, episode_start: Array) -> tuple[Array, Array]:
        """Returns logits or means `[rows, A]`, and values `[rows]`."""
        rows = observations
        if self._moments:
            mean, variance = self._moments
            rows = ((rows - mean) / np.sqrt(variance + 1e-8)).clip(-10, 10)
        rows = rows.reshape(len(rows), -1).astype(np.float32, copy=False)
        return _forward(self._actor, rows), _forward(self._critic, rows)[:, 0]


def gaussian_log_prob(means: Array, log_std: Array, actions: Array) -> Array:
    """Returns `log pi(actions)` `[rows]` of independent normal distributions, `[rows, A]` each."""
    scaled = (actions - means) * np.exp(-log_std)
    return -(0.5 * scaled**2 + log_std + LOG_SQRT_TAU).sum(-1)


def array_of(tensor: Tensor) -> Array:
    """Returns the tensor's memory as an array."""
    return tensor.detach().numpy()


def _layers(mlp: nn.Sequential) -> list[tuple[Array, Array]]:
    linear = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    return [(array_of(layer.weight).T, array_of(layer.bias)) for layer in linear]


def _forward(layers: list[tuple[Array, Array]], rows: Array) -> Array:
    *hidden, (weight, bias) = layers
    for inner, shift in hidden:
        rows = np.tanh(rows @ inner + shift)
    return rows @ weight + bias
