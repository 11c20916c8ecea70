"""Evaluation: returns of whole episodes, over a single session or fairly over a vector one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from vecsess import tree
from vecsess.collect.books import restart
from vecsess.collect.policies import (
    AnyPolicy,
    CategoricalPolicy,
    Decision,
    Policy,
    Predictor,
    as_policy,
)
from vecsess.collect.rollout import Episode, Rollout
from vecsess.collect.sources import books_of, collect_rollout
from vecsess.contract import Transition
from vecsess.errors import VecsessError
from vecsess.session.checked import CheckedSession
from vecsess.tree import Tree
from vecsess.wire.values import Array, Given, Space

# Locksteps collected between two looks at what has ended: few enough to waste little at the end.
_BLOCK = 32


def greedy_action(logits: ArrayLike) -> Given:
    """Returns the index of the largest logit, the first of equal ones.

    Args:
        logits: `[A]` or `[..., A]`.

    Returns:
        An int for `[A]`, else `[...]` int64.

    Raises:
        VecsessError: there is a NaN, which is neither larger nor smaller than anything.

    Example:
        >>> greedy_action([0.1, 0.7, 0.2])
        1
    """
    values = np.asarray(logits)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"expected logits [..., A] with A > 0, got shape {list(values.shape)}")
    if np.isnan(values).any():
        raise VecsessError(f"expected logits without NaN, got {values}", field="logits")
    actions = values.argmax(axis=-1)
    return int(actions) if values.ndim == 1 else actions


def episode_return(
    session: CheckedSession,
    predict_logits: Predictor,
    max_steps: int = 1000,
    *,
    seed: int | None = None,
) -> float:
    """Plays one greedy episode from a fresh start; returns its undiscounted return.

    Args:
        session: a `CheckedSession` with Discrete actions.
        predict_logits: takes observations `[1, *obs]`, returns `[1, A]`, as for collection.
        max_steps: where the episode is left, if it has not ended.
        seed: of its start.

    Example:
        >>> from vecsess.session.native import GridWorld
        >>> with CheckedSession.from_env(GridWorld(1, 4)) as session:
        ...     episode_return(session, lambda obs: [[0, 1, 0, 0]])  # always to the right
        -3.0
    """
    steps = _steps(session, predict_logits, session.start(seed), max_steps)
    return sum((float(step.reward) for step in steps), 0.0)


def episode_path(
    session: CheckedSession,
    predict_logits: Predictor,
    max_steps: int = 1000,
    *,
    seed: int | None = None,
) -> list[Given]:
    """Plays one greedy episode; returns the states of the session, that of the start included.

    Args:
        session: a `CheckedSession` with Discrete actions.
        predict_logits: takes observations `[1, *obs]`, returns `[1, A]`.
        max_steps: where the episode is left, if it has not ended.
        seed: of its start.

    Returns:
        `session.state` after the start and after each step: steps + 1 of them. A session that
        resets where an episode ends, as it does by default, is in the next one's first state
        then, and that is the last of the path; with `reset_on_done=False` it is the terminal one.

    Example:
        >>> from vecsess.session.native import GridWorld
        >>> with CheckedSession.from_env(GridWorld(1, 4), reset_on_done=False) as session:
        ...     [cell.column for cell in episode_path(session, lambda obs: [[0, 1, 0, 0]])]
        [0, 1, 2, 3]
    """
    steps = _steps(session, predict_logits, session.start(seed), max_steps)
    return [session.state, *(session.state for _ in steps)]


def mean_episode_return(
    make_session: Callable[[int], CheckedSession],
    predict_logits: Predictor,
    base_seed: int,
    episodes: int,
    max_steps: int = 1000,
    *,
    close_sessions: bool = False,
) -> float:
    """Returns the mean return of greedy episodes, each in the session that is made for it.

    Args:
        make_session: takes a seed and returns a `CheckedSession`, which may ignore it: episode `k`
            is started with `base_seed + k` anyway. The sessions may share one client.
        predict_logits: takes observations `[1, *obs]`, returns `[1, A]`.
        base_seed: seed of the first episode.
        episodes: how many; 0 give 0.0.
        max_steps: where an episode is left, if it has not ended.
        close_sessions: each session owns what it steps: close it after its episode. By default
            nothing is closed: who made a thing closes it.

    Example:
        >>> from vecsess import Client
        >>> def make_session(seed):
        ...     return CheckedSession.from_client(client, seed=seed, reset_on_done=False)
        >>> with Client.spawn("CartPole-v1", n_actions=2) as client:
        ...     mean_episode_return(make_session, lambda obs: [[0, 1]], base_seed=0, episodes=5)
        9.4
    """
    if episodes < 0:
        raise ValueError(f"expected 0 episodes or more, got {episodes}")
    total = 0.0
    for seed in range(base_seed, base_seed + episodes):
        session = make_session(seed)
        with closing(session) if close_sessions else nullcontext():
            total += episode_return(session, predict_logits, max_steps, seed=seed)
    return total / episodes if episodes else 0.0


def _steps(
    session: CheckedSession, predict_logits: Predictor, observation: Tree, max_steps: int
) -> Iterator[Transition]:
    """Yields the transitions of a greedy episode; the session does at its end what it is for."""
    if max_steps < 0:
        raise ValueError(f"expected 0 max_steps or more, got {max_steps}")
    policy = _GreedyPolicy(predict_logits, session.action_space)
    for _ in range(max_steps):
        batch = tree.map_leaves(lambda leaf: np.asarray(leaf)[None], observation)
        action = policy.actions(batch, 1)[0]
        transition = session.step_checked(action)
        yield transition
        if transition.done:
            return
        observation = transition.next_observation


class _GreedyPolicy:
    """Takes the action of the largest logit; its values are 0, since nobody learns from them."""

    noise_size = 0

    def __init__(self, predict_logits: Predictor, action_space: Space) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise TypeError(f"logits decide for Discrete action spaces, got {action_space}")
        self._predict_logits = predict_logits
        self._space = action_space

    def actions(self, observations: Tree, rows: int) -> Array:
        """Returns `[rows]` actions of the space's dtype."""
        logits = np.asarray(self._predict_logits(observations))
        expected = (rows, int(self._space.n))
        if logits.shape != expected:
            raise ValueError(
                f"expected predict_logits to return {list(expected)} ([rows, actions]), "
                f"got {list(logits.shape)}"
            )
        choices: NDArray[np.int64] = greedy_action(logits)
        return (choices + int(self._space.start)).astype(self._space.dtype)

    def act(
        self,
        observations: Tree,
        *,
        noise: NDArray[np.float64],
        episode_start: NDArray[np.bool_],
        envs: NDArray[np.int64],
    ) -> Decision:
        """See `Policy.act`."""
        del noise, episode_start
        zeros = self.value(None, envs=envs)
        return self.actions(observations, len(envs)), zeros, zeros

    def value(self, observations: Tree, *, envs: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Policy.value`."""
        del observations
        return np.zeros(len(envs), dtype=np.float32)


def evaluate(
    session: Given,
    policy: AnyPolicy | Predictor,
    episodes: int,
    *,
    seed: int | None = None,
    greedy: bool = True,
    max_steps: int = 100_000,
) -> Evaluation:
    """Plays whole episodes, without a bias to short ones.

    Counting the first `episodes` that end would prefer environments whose episodes are short. Here
    each environment gets a quota that is fixed before anything is played: `episodes // N`, and one
    more for the first `episodes % N`. What it plays beyond that is not counted. An episode cut
    short by a lost environment is not counted either; the next one takes its place.

    The session is started anew, and its training noise stream goes on undisturbed afterwards.

    Args:
        session: a `VecCheckedSession`, or a `CheckedSession`, which is N = 1.
        policy: `predict_logits` alone, or what `collect_rollout` takes.
        episodes: how many, at least 1.
        seed: of the start, and of the noise.
        greedy: take the action of the largest logit; False samples. A policy with `act` decides
            by itself.
        max_steps: an episode that has not ended by then is an error.

    Raises:
        VecsessError: an episode goes on for more than `max_steps`.

    Example:
        >>> from vecsess import VecCheckedSession
        >>> with VecCheckedSession("CartPole-v1", n=4, workers=0) as vec:
        ...     found = evaluate(vec, lambda obs: obs[:, 2:] * [-1, 0], episodes=10, seed=0)
        >>> len(found.returns), found.envs.tolist()
        (10, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
    """
    if episodes < 1:
        raise ValueError(f"expected 1 episode or more, got {episodes}")
    is_vector = hasattr(session, "num_envs")
    action_space = session.single_action_space if is_vector else session.action_space
    actor = _actor(policy, action_space, greedy)
    num_envs = session.num_envs if is_vector else 1
    each, rest = divmod(episodes, num_envs)
    quotas = [each + (env < rest) for env in range(num_envs)]
    books = books_of(session)
    stream = books.noise_seed, books.noise_counter
    try:
        restart(session, books, seed)
        played = _play(session, actor, quotas, seed, max_steps)
    finally:
        books.noise_seed, books.noise_counter = stream
    return Evaluation(
        np.array([episode.return_ for episode in played]),
        np.array([episode.length for episode in played]),
        np.array([episode.env for episode in played]),
    )


def _actor(policy: Given, action_space: Space, greedy: bool) -> Policy:
    if hasattr(policy, "act"):
        return as_policy(policy, action_space)
    if callable(policy) and not hasattr(policy, "predict_logits"):
        policy = (policy, lambda observations: np.zeros(len(tree.leaves(observations)[0])))
    actor = as_policy(policy, action_space)
    if greedy and isinstance(actor, CategoricalPolicy):
        return _GreedyPolicy(actor.predict_logits, action_space)
    return actor


def _play(
    session: Given, actor: Policy, quotas: list[int], seed: int | None, max_steps: int
) -> list[Episode]:
    """Plays until each environment has met its quota; returns those episodes, by environment."""
    played: list[list[Episode]] = [[] for _ in quotas]
    out: Rollout | None = None
    while waited_for := [env for env, quota in enumerate(quotas) if len(played[env]) < quota]:
        out = collect_rollout(session, actor, _BLOCK, seed=seed if out is None else None, out=out)
        for episode in out.episodes:
            if len(played[episode.env]) < quotas[episode.env]:
                played[episode.env].append(episode)
                _refuse_endless(episode.env, episode.length, max_steps)
        under_way = books_of(session).episode_lengths
        for env in waited_for:
            _refuse_endless(env, int(under_way[env]), max_steps)
    return [episode for of_env in played for episode in of_env]


def _refuse_endless(env: int, length: int, max_steps: int) -> None:
    if length > max_steps:
        raise VecsessError(
            f"expected an episode to end within max_steps={max_steps}, got {length} steps of "
            "one: set max_episode_steps, or wrap it in gymnasium.wrappers.TimeLimit",
            env=env,
        )


@dataclass(frozen=True, eq=False, slots=True)
class Evaluation:
    """What `evaluate` found; entry `k` of each array is episode `k`, sorted by environment.

    Attributes:
        returns: `[E]` float64, undiscounted.
        lengths: `[E]` int64, steps.
        envs: `[E]` int64, which environment played it.

    Example:
        >>> found = Evaluation(np.array([1.0, 3.0]), np.array([5, 7]), np.array([0, 1]))
        >>> found.mean, found.interval(0.5)
        (2.0, (1.0, 3.0))
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    envs: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Returns Student's confidence interval of the mean return.

        It takes the episodes as independent and their mean as nearly normal, which a dozen of
        them usually is; one episode alone says nothing about the spread, and its interval is
        unbounded.

        Args:
            confidence: in (0, 1).
        """
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"expected confidence in (0, 1), got {confidence!r}")
        count = self.returns.size
        if count < 2:
            return -math.inf, math.inf
        error = float(self.returns.std(ddof=1)) / math.sqrt(count)
        half = student_t_quantile(0.5 + confidence / 2, count - 1) * error
        return self.mean - half, self.mean + half


def student_t_quantile(probability: float, degrees: int) -> float:
    """Returns the quantile of Student's t distribution, for probabilities above a half.

    With `x = sqrt(v) tan(a)` the density becomes `cos(a) ** (v - 1)` up to a constant, which is
    smooth, so that Gauss-Legendre quadrature and bisection give it to 10 digits.

    Args:
        probability: in [0.5, 1).
        degrees: of freedom `v`, at least 1.

    Example:
        >>> round(student_t_quantile(0.975, 9), 4)
        2.2622
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2

    def mass(angle: float) -> float:
        cosines = np.cos(angle * (nodes + 1) / 2)
        density = np.exp(log_scale + (degrees - 1) * np.log(cosines))
        return float(angle / 2 * (weights * density).sum())

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < probability - 0.5 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)
