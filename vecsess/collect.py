"""Collection: one loop that fills a `Rollout` from whatever steps environments.

The loop is written against `Lockstep`, which a vector session is and which single sessions and
callbacks are adapted to. It asks the policy once a lockstep; the values `V(s_{t+1})` are the
next lockstep's, so that only the last row and the final observations cost a forward pass each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vecsess import tree
from vecsess.policies import Decision, Policy, as_policy
from vecsess.rollout import Episode, Finals, Rollout, StepRows, reuse_or_allocate
from vecsess.sampling import uniform_noise
from vecsess.tree import Tree

# Noise is made for many locksteps at once, as long as it stays small: 1 MiB of float64.
_NOISE_BLOCK = 2**17


class Lockstep(Protocol):
    """What the loop needs of a source of experience; `VecCheckedSession` is one.

    Attributes:
        num_envs: `N`.
        single_action_space: of one environment.
        started: False before the first reset.
        noise_seed: seed of the session's own noise stream.
        noise_counter: number of the next lockstep in that stream.
        episode_returns: `[N]` float64, of the episodes under way.
        episode_lengths: `[N]` int64, of the episodes under way; 0 right after a reset.
    """

    num_envs: int
    single_action_space: gymnasium.Space[Any]
    noise_seed: int
    noise_counter: int
    episode_returns: NDArray[np.float64]
    episode_lengths: NDArray[np.int64]

    @property
    def started(self) -> bool: ...  # noqa: D102  # pragma: no cover

    def start(self, seed: int | None = None) -> Tree:
        """Resets every environment; returns `[N, *obs]`."""
        ...  # pragma: no cover

    def observe(self) -> Tree:
        """Returns what to act on, `[N, *obs]`."""
        ...  # pragma: no cover

    def step_into(self, actions: NDArray[Any], rows: StepRows) -> Finals | None:
        """Steps all with same-step auto-reset, fills `rows`; returns the finals, if any."""
        ...  # pragma: no cover


def fill_rollout(
    source: Lockstep,
    policy: Any,
    horizon: int,
    *,
    seed: int | None = None,
    counter: int | None = None,
    out: Rollout | None = None,
) -> Rollout:
    """The loop behind every level of collection; see `collect_rollout` for the arguments."""
    if horizon <= 0:
        raise ValueError(f"expected a positive horizon (locksteps to collect), got {horizon!r}")
    actor = as_policy(policy, source.single_action_space)
    observations = source.observe() if source.started else source.start(seed)
    _choose_stream(source, seed, counter)
    noise = _noise_stream(source, horizon, actor.noise_size)
    envs = np.arange(source.num_envs)
    start = source.episode_lengths == 0
    decision = actor.act(observations, noise=next(noise), episode_start=start, envs=envs)

    rollout = _rollout_for(source, horizon, observations, decision, out)
    tree.copy_into(tree.row(rollout.observations, 0), observations)
    rollout.episode_start[...] = False
    rollout.episode_start[0] = start
    ended = _Ended(source)
    for t, rows in enumerate(rollout.step_rows()):
        if t:
            decision = actor.act(
                tree.row(rollout.observations, t),
                noise=next(noise),
                episode_start=rollout.episode_start[t],
                envs=envs,
            )
        actions = _store(rollout, t, decision)
        finals = source.step_into(actions, rows)
        source.noise_counter += 1
        ended.count(rows)
        if finals is not None:
            ended.add(t, rows, finals)
            rollout.episode_start[t + 1 : t + 2, finals.envs] = True  # no row after the last
    rollout.counter = source.noise_counter
    _finish(rollout, actor, ended)
    return rollout


def _choose_stream(source: Lockstep, seed: int | None, counter: int | None) -> None:
    if seed is not None:
        source.noise_seed, source.noise_counter = seed, 0
    if counter is not None:
        source.noise_counter = counter


def _noise_stream(source: Lockstep, horizon: int, noise_size: int) -> Iterator[NDArray[np.float64]]:
    """Yields the noise of one lockstep after another, `[N, noise_size]`."""
    seed, counter, envs = source.noise_seed, source.noise_counter, np.arange(source.num_envs)
    block = max(1, _NOISE_BLOCK // max(1, noise_size * len(envs)))
    for begin in range(0, horizon, block):
        steps = min(block, horizon - begin)
        yield from uniform_noise(seed, counter + begin, envs, noise_size, steps)


def _rollout_for(
    source: Lockstep, horizon: int, observations: Tree, decision: Any, out: Rollout | None
) -> Rollout:
    """Returns `out`, or a new rollout, in the dtypes in which the policy answers."""
    if not isinstance(decision, tuple) or len(decision) != 3:
        raise TypeError(
            "expected the policy's act to return (actions, log_probs, values), "
            f"got {type(decision).__name__}"
        )
    _, log_probs, values = map(np.asarray, decision)
    for name, array in (("log_probs", log_probs), ("values", values)):
        if array.dtype.kind != "f":
            raise TypeError(f"expected floating-point {name} from the policy, got {array.dtype}")
    fresh = Rollout.empty(
        horizon,
        source.num_envs,
        tree.row(observations, 0),
        source.single_action_space,
        log_prob_dtype=log_probs.dtype,
        value_dtype=values.dtype,
    )
    rollout = reuse_or_allocate(out, fresh)
    rollout.action_space = source.single_action_space
    return rollout


def _store(rollout: Rollout, t: int, decision: Decision) -> Tree:
    """Stores a decision in row `t`; returns the actions as they were stored."""
    actions, log_probs, values = decision
    row = tree.row(rollout.actions, t)
    if isinstance(row, np.ndarray):
        _put("actions", actions, row)
    else:
        tree.map_leaves(lambda part, given: _put("actions", given, part), row, actions)
    _put("log_probs", log_probs, rollout.log_probs[t])
    _put("values", values, rollout.values[t])
    return row


def _put(name: str, given: Any, row: NDArray[Any]) -> None:
    """Copies what the policy gave, where that is no broadcast and loses nothing."""
    array = np.asarray(given)
    if array.shape != row.shape:
        raise ValueError(
            f"expected {name} of shape {list(row.shape)} from the policy, got {list(array.shape)}"
        )
    if array.dtype != row.dtype and not np.can_cast(array.dtype, row.dtype):
        raise TypeError(
            f"expected {name} of dtype {row.dtype} from the policy, got {array.dtype}: cast it "
            "there, so that log-probabilities are those of the actions that are taken"
        )
    row[...] = array


class _Ended:
    """Keeps the books of episodes: those under way, in the source, and those that ended."""

    def __init__(self, source: Lockstep) -> None:
        self.returns = source.episode_returns
        self.lengths = source.episode_lengths
        self.steps: list[int] = []
        self.finals: list[Finals] = []
        self.episodes: list[Episode] = []

    def count(self, rows: StepRows) -> None:
        self.returns += rows.rewards
        self.lengths += 1

    def add(self, t: int, rows: StepRows, finals: Finals) -> None:
        self.steps.append(t)
        self.finals.append(finals)
        for env in finals.envs.tolist():
            if rows.valid[env]:  # else it did not end, it was lost
                episode = Episode(float(self.returns[env]), int(self.lengths[env]), env, t)
                self.episodes.append(episode)
        self.returns[finals.envs] = 0.0
        self.lengths[finals.envs] = 0


def _finish(rollout: Rollout, actor: Policy, ended: _Ended) -> None:
    """Adds what is known only after the last lockstep."""
    rollout.episodes = ended.episodes
    rollout.next_values[:-1] = rollout.values[1:]
    last = actor.value(rollout.last_observations, envs=np.arange(rollout.num_envs))
    _put("values", last, rollout.next_values[-1])
    counts = [len(finals.envs) for finals in ended.finals]
    rollout.final_steps = np.repeat(np.array(ended.steps, dtype=np.int64), counts)
    if not counts:
        rollout.final_envs = np.zeros(0, dtype=np.int64)
        none = tree.row(rollout.last_observations, slice(0, 0))
        rollout.final_observations = tree.map_leaves(np.copy, none)
        return
    rollout.final_envs = np.concatenate([finals.envs for finals in ended.finals])
    rollout.final_observations = tree.concatenate([finals.observations for finals in ended.finals])
    values = np.empty(len(rollout.final_envs), dtype=rollout.values.dtype)
    given = actor.value(rollout.final_observations, envs=rollout.final_envs)
    _put("values", given, values)
    rollout.next_values[rollout.final_steps, rollout.final_envs] = values
