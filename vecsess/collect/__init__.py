"""Rollouts: the loop that asks a policy and steps a session, the batch, and evaluation.

What a PPO update takes from a batch lives here too.
No process and no pipe is known here; a session is what can be stepped.
"""
