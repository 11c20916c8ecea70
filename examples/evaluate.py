"""Evaluation: whole episodes, over one session or fairly over many, with a confidence interval."""

import numpy as np

from vecsess import (
    CheckedSession,
    Client,
    Session,
    VecCheckedSession,
    episode_return,
    evaluate,
    mean_episode_return,
)


def predict_logits(observations):  # [rows, 4] -> [rows, 2]
    falling = observations[:, 2] + observations[:, 3]  # angle and angular velocity
    return np.stack([-falling, falling], axis=1)  # push the cart to where the pole falls


# One environment in one worker process.
with Session.open("CartPole-v1", seed=0) as session:
    print(episode_return(session, predict_logits, max_steps=500, seed=0))  # 334.0

# Episode k is seeded with base_seed + k, in a session of its own; all of them over one client.
with Client.spawn("CartPole-v1", n_actions=2) as client:

    def make_session(seed):
        return CheckedSession.from_client(client, seed=seed, reset_on_done=False)

    print(mean_episode_return(make_session, predict_logits, base_seed=0, episodes=3))

# Sixteen environments, each with its share of the episodes, whatever their lengths.
with VecCheckedSession("CartPole-v1", n=16, workers="auto") as vec:
    found = evaluate(vec, predict_logits, episodes=100, seed=0)
low, high = found.interval(0.95)
print(f"{len(found.returns)} episodes, mean {found.mean:.1f}, 95 % in [{low:.1f}, {high:.1f}]")
