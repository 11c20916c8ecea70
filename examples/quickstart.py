"""The quick start of the README: one PPO batch from 16 worker processes."""

import numpy as np

from vecsess import VecCheckedSession, collect_rollout


def predict_logits(observations):  # [16, 4] -> [16, 2]
    falling = 10 * (observations[:, 2] + observations[:, 3])  # angle and angular velocity
    return np.stack([-falling, falling], axis=1)  # push the cart to where the pole falls


def predict_value(observations):  # [16, 4] -> [16]
    return np.zeros(len(observations))


with VecCheckedSession("CartPole-v1", n=16) as vec:
    rollout = collect_rollout(vec, (predict_logits, predict_value), horizon=128, seed=0)

print(rollout.observations.shape)  # (128, 16, 4)
print(rollout.advantages(gamma=0.99, lam=0.95).shape)  # (128, 16)
