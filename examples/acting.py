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

from vecsess.sampling import categorical_log_prob, sample_with_log_prob

CELLS = 128  # of the LSTM
LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)
Array = NDArray[Any]


class Player:
    """The agent as a policy, with the LSTM's state of each environment."""

    def __init__(self, agent: Any, n: int, *, greedy: bool = False):
        self.agent, self.greedy = agent, greedy
        self.noise_size = 1 if agent.discrete else agent.size
        self.noise_kind = "uniform" if agent.discrete else "normal"
        self.state = torch.zeros(2, n, CELLS)
        self.history: list[Tensor] = []  # the state after each step of a rollout
        self.heads = agent.in_numpy or self._torch_heads
        self.log_std = None if agent.discrete else array_of(agent.log_std)

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        heads, values = self.heads(observations, episode_start)
        actions, log_probs = self._choose(heads, noise)
        return actions, log_probs, values

    @torch.no_grad()
    def _torch_heads(self, observations: Array, episode_start: Array) -> tuple[Array, Array]:
        features = self.agent.encode(torch.from_numpy(observations))
        if self.agent.lstm is not None:
            start = torch.from_numpy(episode_start)
            features, self.state = self.agent.recur(features, self.state, start)
            self.history.append(self.state)
        return self.agent.actor(features).numpy(), self.agent.critic(features)[:, 0].numpy()

    def _choose(self, heads: Array, noise: Array) -> tuple[Array, Array]:
        """Returns actions `[rows, *act]` and their log-probabilities `[rows]`."""
        agent = self.agent
        if self.log_std is not None:
            std = np.exp(self.log_std)
            chosen = (heads if self.greedy else heads + std * noise).astype(np.float32)
            log_probs = gaussian_log_prob(chosen, heads, self.log_std, std)
            return chosen.reshape(-1, *agent.shape), log_probs
        if self.greedy:
            actions = heads.argmax(-1)
            return actions + agent.first, categorical_log_prob(heads, actions)
        actions, log_probs = sample_with_log_prob(heads, noise[:, 0])
        return actions + agent.first, log_probs

    @torch.no_grad()
    def value(self, observations: Any, *, envs: Any, state: Tensor | None = None) -> Array:
        if self.agent.in_numpy is not None:
            return self.agent.in_numpy(observations)[1]
        features = self.agent.encode(torch.from_numpy(observations))
        if self.agent.lstm is not None:
            state = self.state[:, envs] if state is None else state
            features, _ = self.agent.recur(features, state, torch.zeros(len(features), dtype=bool))
        return self.agent.critic(features)[:, 0].numpy()


class Heads:
    """Actor and critic that share no layers, each of linear layers with tanh between them.

    Both go through each of their layers in one call.

    Args:
        actor: gives `[rows, A]`.
        critic: gives `[rows, 1]`, through layers of the same sizes before the last.
        scale: what observations go through first.
    """

    def __init__(self, actor: nn.Sequential, critic: nn.Sequential, scale: nn.Module):
        pairs = zip(actor, critic, strict=True)
        self._layers = [side_by_side(*pair) for pair in pairs if isinstance(pair[0], nn.Linear)]
        self._moments = (
            [array_of(scale.mean), array_of(scale.var)] if isinstance(scale, Moments) else []
        )

    def __call__(
        self, observations: Array, episode_start: Array | None = None
    ) -> tuple[Array, Array]:
        """Returns logits or means `[rows, A]`, and values `[rows]`."""
        del episode_start
        rows = observations
        if self._moments:
            mean, variance = self._moments
            rows = (rows - mean) / np.sqrt(variance + 1e-8)
            rows = np.minimum(np.maximum(rows, -10), 10)
        rows = rows.reshape(len(rows), -1).astype(np.float32, copy=False)
        *hidden, (weight, bias) = self._layers
        for inner, shift in hidden:
            rows = rows @ inner
            rows += shift
            np.tanh(rows, out=rows)
        heads, values = rows @ weight + bias
        return heads, values[:, 0]


def side_by_side(actor: nn.Linear, critic: nn.Linear) -> tuple[Array, Array]:
    """Moves the parameters of two layers into one memory, and returns that.

    Returns:
        Weights `[2, inputs, outputs]` and biases `[2, 1, outputs]`; where the critic has fewer
        outputs, the others are 0.
    """
    outputs, inputs = actor.weight.shape
    # In this order a product with few rows takes a third less time than in PyTorch's.
    weights, biases = torch.zeros(2, inputs, outputs), torch.zeros(2, 1, outputs)
    for index, layer in enumerate((actor, critic)):
        parts = weights[index, :, : layer.out_features].T, biases[index, 0, : layer.out_features]
        for parameter, part in zip((layer.weight, layer.bias), parts, strict=True):
            part.copy_(parameter.data)
            parameter.data = part
    return weights.numpy(), biases.numpy()


def gaussian_log_prob(actions: Array, means: Array, log_std: Array, std: Array) -> Array:
    """Returns `log pi(actions)` `[rows]` of independent normal distributions, `[rows, A]` each."""
    scaled = (actions - means) / std
    total = (scaled * scaled).sum(-1)
    return -0.5 * total - (log_std.sum() + len(std) * LOG_SQRT_TAU)


def array_of(tensor: Tensor) -> Array:
    """Returns the tensor's memory as an array."""
    return tensor.detach().numpy()
