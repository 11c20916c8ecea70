"""A native environment: a pure object, checked like any other, and trained on without a process."""

import numpy as np

from vecsess import CheckedSession, Contract, collect_rollout, episode_path, episode_return
from vecsess.session.native import DOWN, RIGHT, GridWorld

world = GridWorld(rows=4, columns=5)
contract = Contract(obs_range=(0, 1), reward_range=(-1, 0))


def uniform_logits(observations):  # [rows, 20] -> [rows, 4]
    return np.zeros((len(observations), 4))


def zero_value(observations):  # [rows, 20] -> [rows]
    return np.zeros(len(observations))


# Dynamic programming on the pure object: the best action of each cell.
best = np.zeros((20, 4))
for cell in range(20):
    best[cell, DOWN if cell % 5 == 4 else RIGHT] = 1.0


def greedy_logits(observations):  # [rows, 20] one-hot -> [rows, 4]
    return observations @ best


with CheckedSession.from_env(world, contract, reset_on_done=False) as session:
    rollout = collect_rollout(session, (uniform_logits, zero_value), horizon=256, seed=0)
    print(rollout.observations.shape)  # (256, 1, 20)
    found = episode_return(session, greedy_logits)
    print(found, world.optimal_return(world.initial_state))  # -7.0 -7.0
    path = episode_path(session, greedy_logits)
    print([(cell.row, cell.column) for cell in path][-4:])  # [(0, 4), (1, 4), (2, 4), (3, 4)]
