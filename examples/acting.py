"""The agent as a policy for `collect_rollout`.

For 16 rows of four numbers a call into PyTorch takes far longer than its sums. So an agent without
convolutions and LSTM acts in NumPy, on copies of its parameters that are made for each rollout.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scaling import Moments
from torch import nn

from vecsess.collect.sampling import categorical_log_prob, sample_with_log_prob

CELLS = 128  # of the LSTM
LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)
Array = NDArray[Any]


class Player:
    """The agent as a policy, with the LSTM's state of each environment.

    Args:
        agent: what learns.
        n: how many environments.
        act_rows: how many rows each call gets, so that it gives the same bits wherever it acts;
            None for as many as there are environments.
        greedy: takes the likeliest action, or the mean.
    """

    def __init__(self, agent: Any, n: int, *, act_rows: int | None = None, greedy: bool = False):
        self.agent, self.greedy, self.act_rows = agent, greedy, act_rows or n
        self.discrete, self.shape, self.first = agent.discrete, agent.shape, agent.first
        self.noise_size = 1 if agent.discrete else agent.size
        self.noise_kind = "uniform" if agent.discrete else "normal"
        self.state = torch.zeros(2, -(-n // self.act_rows) * self.act_rows, CELLS)
        if agent.lstm is not None:  # who has these is asked for final values in their own step
            self.get_state, self.set_state = self._state_of, self._put_state
        self.begin()

    def begin(self) -> None:
        """Takes the agent as it is now, for a rollout."""
        agent = self.agent
        self.heads = None if agent.shared else Heads(agent)
        self.normal = None if agent.discrete else Normal(agent.log_std.detach().numpy())

    def __getstate__(self) -> dict[str, Any]:
        """What acts in NumPy leaves the agent behind."""
        return self.__dict__ | ({} if self.heads is None else {"agent": None})

    def act(self, observations: Any, *, noise: Any, episode_start: Any, envs: Any) -> Any:
        if self.heads is None:
            heads, values = self._torch_heads(observations, episode_start, envs)
        else:
            heads, values = self.heads(observations)
        return *self._choose(heads, noise), values

    @torch.no_grad()
    def _torch_heads(
        self, observations: Array, episode_start: Array, envs: Array
    ) -> tuple[Array, Array]:
        features = self.agent.encode(torch.from_numpy(observations))
        if self.agent.lstm is not None:
            start, before = torch.from_numpy(episode_start), self.state[:, envs]
            features, self.state[:, envs] = self.agent.recur(features, before, start)
        return self.agent.actor(features).numpy(), self.agent.critic(features)[:, 0].numpy()

    def _choose(self, heads: Array, noise: Array) -> tuple[Array, Array]:
        """Returns actions `[rows, *act]` and their log-probabilities `[rows]`."""
        if self.normal is not None:
            actions = heads if self.greedy else self.normal.sample(heads, noise)
            log_probs = self.normal.log_prob(heads, actions)
            return actions.reshape(-1, *self.shape), log_probs
        if self.greedy:
            actions = heads.argmax(-1)
            return actions + self.first, categorical_log_prob(heads, actions)
        actions, log_probs = sample_with_log_prob(heads, noise[:, 0])
        return actions + self.first, log_probs

    @torch.no_grad()
    def value(self, observations: Any, *, envs: Any) -> Array:
        if self.heads is not None:
            return self.heads(observations)[1]
        features = self.agent.encode(torch.from_numpy(observations))
        if self.agent.lstm is not None:
            start = torch.zeros(len(features), dtype=bool)
            features, _ = self.agent.recur(features, self.state[:, envs], start)
        return self.agent.critic(features)[:, 0].numpy()

    def _state_of(self, envs: Any) -> Array:
        return self.state[:, envs].transpose(0, 1).numpy()

    def _put_state(self, envs: Any, state: Array) -> None:
        self.state[:, envs] = torch.tensor(state).transpose(0, 1)


class Heads:
    """Actor and critic that share no layers, each of linear layers with tanh between them.

    Both go through each of their layers in one call.

    Args:
        agent: its `actor` gives `[rows, A]`; its `critic` `[rows, 1]`, through layers of the same
            sizes before the last; its `scale` is what observations go through first.
    """

    def __init__(self, agent: Any):
        pairs = zip(agent.actor, agent.critic, strict=True)
        self._layers = [_side_by_side(*pair) for pair in pairs if isinstance(pair[0], nn.Linear)]
        self._scale = None
        if isinstance(agent.scale, Moments):
            self._scale = agent.scale.mean.numpy().copy(), agent.scale.std.numpy()

    def __call__(self, observations: Array) -> tuple[Array, Array]:
        """Returns logits or means `[rows, A]`, and values `[rows]`, float32."""
        rows = observations
        if self._scale is not None:
            mean, std = self._scale
            rows = np.minimum(np.maximum((rows - mean) / std, -10), 10)
        rows = rows.reshape(len(rows), -1).astype(np.float32, copy=False)
        *hidden, (weights, biases) = self._layers
        for inner, shift in hidden:
            rows = rows @ inner
            rows += shift
            np.tanh(rows, out=rows)
        heads, values = rows @ weights + biases
        return heads, values[:, 0]


def _side_by_side(actor: nn.Linear, critic: nn.Linear) -> tuple[Array, Array]:
    """Returns weights `[2, inputs, outputs]` and biases `[2, 1, outputs]` of two layers.

    Where the critic has fewer outputs, the others are 0.
    """
    weights = np.zeros((2, actor.in_features, actor.out_features), np.float32)
    biases = np.zeros((2, 1, actor.out_features), np.float32)
    for index, layer in enumerate((actor, critic)):
        weights[index, :, : layer.out_features] = layer.weight.detach().numpy().T
        biases[index, 0, : layer.out_features] = layer.bias.detach().numpy()
    return weights, biases


class Normal:
    """Independent normal distributions.

    Args:
        log_std: `[A]` float32.
    """

    def __init__(self, log_std: Array):
        self._std = np.exp(log_std)
        self._halves = np.full(len(log_std), -0.5, np.float32)
        self._offset = log_std.sum() + len(log_std) * np.float32(LOG_SQRT_TAU)

    def sample(self, means: Array, noise: Array) -> Array:
        """Returns `[rows, A]` float32, made from standard normal noise."""
        return (means + self._std * noise).astype(np.float32)

    def log_prob(self, means: Array, actions: Array) -> Array:
        """Returns `log pi(actions)` `[rows]`."""
        scaled = (actions - means) / self._std
        scaled *= scaled
        return scaled @ self._halves - self._offset
