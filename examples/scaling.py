"""Running normalisation of observations and rewards, as CleanRL does for continuous actions."""

import numpy as np
import torch
from torch import Tensor, nn

from vecsess import Rollout


class Moments(nn.Module):
    """Running mean and variance (Chan et al. 1979), in buffers, so that a checkpoint holds them.

    Args:
        shape: of one row.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    @property
    def std(self) -> Tensor:
        """The standard deviation, never 0."""
        return (self.var + 1e-8).sqrt()

    def update(self, rows: Tensor) -> None:
        """Takes `rows [B, *shape]` into account."""
        rows = rows.double()
        delta, total = rows.mean(0) - self.mean, self.count + len(rows)
        squares = self.var * self.count + rows.var(0, correction=0) * len(rows)
        self.var.copy_((squares + delta**2 * self.count * len(rows) / total) / total)
        self.mean += delta * len(rows) / total
        self.count.copy_(total)

    def forward(self, rows: Tensor) -> Tensor:
        """Returns `rows [..., *shape]` normalised, and clipped to 10 standard deviations."""
        return ((rows - self.mean) / self.std).clamp(-10, 10).float()


class RewardScale(nn.Module):
    """Divides rewards by the standard deviation of the running discounted return.

    Args:
        n: how many environments.
        gamma: discount.
    """

    def __init__(self, n: int, gamma: float):
        super().__init__()
        self.gamma, self.moments = gamma, Moments()
        self.register_buffer("returns", torch.zeros(n, dtype=torch.float64))

    def apply_to(self, rollout: Rollout) -> None:
        """Scales the rewards of a rollout, in place; its episodes keep their true returns."""
        going_on = torch.from_numpy(~(rollout.terminated | rollout.truncated))
        for t, rewards in enumerate(rollout.rewards):
            returns = self.returns * self.gamma + torch.from_numpy(rewards)
            self.moments.update(returns)
            self.returns.copy_(returns * going_on[t])
            rollout.rewards[t] = rewards / self.moments.std.item()
        np.clip(rollout.rewards, -10, 10, out=rollout.rewards)
