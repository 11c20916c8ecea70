"""Collecting rollouts: from a vector session, a single session, a client, or callbacks.

Each of them is a source for the one loop in `loop.py`; what differs is where an observation comes
from, never what is done with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import gymnasium
from gymnasium.vector import AutoresetMode

from vecsess.collect.acting import Collected as Collected
from vecsess.collect.acting import Collecting as Collecting
from vecsess.collect.acting import acting_of
from vecsess.collect.books import Books, SingleBooks
from vecsess.collect.loop import fill_rollout
from vecsess.collect.order import Order
from vecsess.collect.paced import PACES, in_parts
from vecsess.collect.paced import Pace as Pace
from vecsess.collect.policies import AnyPolicy
from vecsess.collect.rollout import Rollout
from vecsess.collect.single import SingleLockstep
from vecsess.contract import Transition
from vecsess.errors import StateError
from vecsess.session.checked import CheckedSession, Session
from vecsess.session.client import Client
from vecsess.session.gate import Phase
from vecsess.tree import Tree

S = TypeVar("S")

Inference = Literal["trainer", "workers"]
INFERENCE: tuple[Inference, ...] = get_args(Inference)

_books: weakref.WeakKeyDictionary[Any, SingleBooks] = weakref.WeakKeyDictionary()


def collect_rollout(
    session: Any,
    policy: AnyPolicy,
    horizon: int,
    *,
    seed: int | None = None,
    counter: int | None = None,
    out: Rollout | None = None,
    pace: Pace = "lockstep",
    inference: Inference = "trainer",
) -> Rollout:
    """Collects `horizon` locksteps from a session, which goes on where it is.

    The noise of lockstep `t` is a function of `(seed, counter + t, env)`. So 64 locksteps and then
    64 are the 128 that one call gives, and the grouping of environments makes no difference, bit
    for bit, as long as the policy computes each row by itself.

    Args:
        session: a `VecCheckedSession`, a `CheckedSession`, which collects as N = 1, or anything
            with a `collect` of its own, such as a `RaySession`.
        policy: `(predict_logits, predict_value)` or an object with these methods, for Discrete
            actions; else an object with `act`, `value` and `noise_size` (see `Policy`).
        horizon: `T`, at least 1.
        seed: of the noise, from `counter` 0 unless that is given; where the session was not
            started yet, of its start too. None goes on with the session's own stream.
        counter: number of the first lockstep in the stream. None goes on, or begins at 0 where a
            seed is given.
        out: a rollout of the same layout to fill again, which saves fresh memory.
        pace: "lockstep"; "pipelined", where one half of the workers steps while the policy works
            on the other half, best with `affinity="spread"`; or "free", where each worker goes on
            as soon as its own actions are known. The batch is the same.
        inference: where the policy acts: in the "trainer", or at the "workers", where one command
            has each worker act for its own environments through the whole rollout, at its own
            pace. Its policy must be picklable; see docs/inference.md. The batch is the same.

    Returns:
        The rollout, `[T, N, ...]`; it is `out` where that is given.

    Raises:
        ValueError: a horizon below 1, an `out` that does not fit, an answer of the policy in
            another shape, a kind of noise that there is not.
        TypeError: no policy, or an answer of it in another dtype.
        PolicyError: log-probabilities or values that are not finite; and with "workers", whatever
            goes wrong with it there.
        StateError: a vector session that does not reset in the same step, or whose last call
            failed or is under way: it is never reset unasked.

    Example:
        >>> import numpy as np
        >>> from vecsess import VecCheckedSession
        >>> with VecCheckedSession("CartPole-v1", n=3, workers=0) as vec:
        ...     policy = (lambda obs: np.zeros((len(obs), 2)), lambda obs: np.zeros(len(obs)))
        ...     rollout = collect_rollout(vec, policy, horizon=8, seed=0)
        >>> rollout.observations.shape, rollout.counter
        ((8, 3, 4), 8)
    """
    if hasattr(session, "collect"):
        how: dict[str, str] = {"pace": pace} if pace != "lockstep" else {}
        how |= {"inference": inference} if inference != "trainer" else {}
        found: Rollout = session.collect(
            policy, horizon, seed=seed, counter=counter, out=out, **how
        )
        return found
    if not hasattr(session, "step_into"):
        return collect_from_session(session, policy, horizon, seed=seed, counter=counter, out=out)
    _require_same_step(session)
    _require_whole(session)
    if pace not in PACES:
        raise ValueError(f"pace: expected one of {PACES}, got {pace!r}")
    if inference not in INFERENCE:
        raise ValueError(f"inference: expected one of {INFERENCE}, got {inference!r}")
    books, order = books_of(session), Order(policy, horizon, seed, counter, out)
    try:
        if inference == "workers" and acting_of(session) is not None:
            return Collecting(session, books, order).result()
        in_pieces = None if pace == "lockstep" else partial(in_parts, session, pace)
        return fill_rollout(session, books, order, in_pieces)
    except BaseException:
        _break_off(session)
        raise


def begin_rollout(
    session: Any,
    policy: AnyPolicy,
    horizon: int,
    *,
    seed: int | None = None,
    counter: int | None = None,
    out: Rollout | None = None,
) -> Collecting | Collected:
    """Has the workers begin a rollout with the policy as it is now, and returns at once.

    So a trainer can learn from one batch while the next is collected, always with the weights of
    one update before: the same from run to run. Until its `result()` was taken, the session takes
    no other call but `close`; a state that the policy keeps comes back with it.

    Args:
        session: a `VecCheckedSession`; one whose workers can't act collects before this returns.
        policy: as for `collect_rollout(..., inference="workers")`; it may be changed meanwhile.
        horizon: `T`, at least 1.
        seed: as for `collect_rollout`.
        counter: as for `collect_rollout`.
        out: as for `collect_rollout`; not the batch that is learned from meanwhile.

    Returns:
        A handle, whose `result()` waits and returns the rollout.

    Raises:
        PolicyError: a policy that can't be pickled.

    Example:
        >>> import numpy as np
        >>> from vecsess import VecCheckedSession
        >>> with VecCheckedSession("CartPole-v1", n=3, workers=1) as vec:
        ...     policy = (lambda obs: np.zeros((len(obs), 2)), lambda obs: np.zeros(len(obs)))
        ...     under_way = begin_rollout(vec, policy, horizon=8, seed=0)
        ...     rollout = under_way.result()
        >>> rollout.observations.shape
        (8, 3, 4)
    """
    _require_same_step(session)
    _require_whole(session)
    if acting_of(session) is not None:
        books, order = books_of(session), Order(policy, horizon, seed, counter, out)
        try:
            return Collecting(session, books, order, frozen=True)
        except BaseException:
            _break_off(session)
            raise
    rollout = collect_rollout(session, policy, horizon, seed=seed, counter=counter, out=out)
    return Collected(rollout)


def collect_from_session(
    session: CheckedSession,
    policy: AnyPolicy,
    horizon: int,
    *,
    seed: int | None = None,
    counter: int | None = None,
    out: Rollout | None = None,
    cast_observation: Callable[[Tree], Tree] | None = None,
    cast_reward: Callable[[float], float] | None = None,
) -> Rollout:
    """Collects from a `CheckedSession` as N = 1, so that arrays are `[T, 1, ...]`.

    Args:
        session: goes on where it is; started first where that was not done. A rollout goes on
            over the ends of episodes, whatever the session's own `reset_on_done`.
        policy: as for `collect_rollout`; also its batches have one row.
        horizon: `T`, at least 1.
        seed: as for `collect_rollout`.
        counter: as for `collect_rollout`.
        out: as for `collect_rollout`.
        cast_observation: applied to each observation before policy and batch see it.
        cast_reward: applied to each reward.

    Example:
        >>> import numpy as np
        >>> from vecsess.session.native import GridWorld
        >>> policy = (lambda obs: np.zeros((1, 4)), lambda obs: np.zeros(1))
        >>> with CheckedSession.from_env(GridWorld(2, 3)) as session:
        ...     rollout = collect_from_session(session, policy, horizon=5, seed=0)
        >>> rollout.observations.shape, rollout.rewards[:, 0].tolist()
        ((5, 1, 6), [-1.0, -1.0, -1.0, -1.0, -1.0])
    """

    def step_checked(session: CheckedSession, action: Any) -> tuple[Transition, CheckedSession]:
        return session.step_checked(action, reset_on_done=True), session

    def start(seed: int | None) -> CheckedSession:
        session.start(seed)
        return session

    source = SingleLockstep(
        start,
        lambda session: session.observe(),
        step_checked,
        session.action_space,
        cast_observation=cast_observation,
        cast_reward=cast_reward,
        session=session if _is_started(session) else None,
    )
    return fill_rollout(source, books_of(session), Order(policy, horizon, seed, counter, out))


def collect_from_client(
    client: Client,
    reset_seed: int | None,
    policy: AnyPolicy,
    horizon: int,
    *,
    seed: int | None = None,
    counter: int | None = None,
    out: Rollout | None = None,
    cast_observation: Callable[[Tree], Tree] | None = None,
    cast_reward: Callable[[float], float] | None = None,
) -> Rollout:
    """Starts a `Session` on a client, and collects from it as N = 1.

    Args:
        client: stays open; each call begins with a reset.
        reset_seed: of that reset.
        policy: as for `collect_rollout`.
        horizon: `T`, at least 1.
        seed: of the noise alone.
        counter: as for `collect_rollout`.
        out: as for `collect_rollout`.
        cast_observation: applied to each observation before policy and batch see it.
        cast_reward: applied to each reward.

    Example:
        >>> import numpy as np
        >>> policy = (lambda obs: np.zeros((1, 2)), lambda obs: np.zeros(1))
        >>> with Client.spawn("CartPole-v1") as client:
        ...     rollout = collect_from_client(client, 7, policy, horizon=5, seed=0)
        >>> rollout.observations.shape
        (5, 1, 4)
    """
    session = Session.start(client, reset_seed)
    return collect_from_session(
        session,
        policy,
        horizon,
        seed=seed,
        counter=counter,
        out=out,
        cast_observation=cast_observation,
        cast_reward=cast_reward,
    )


def collect_from_callbacks(
    start: Callable[[], S],
    observe: Callable[[S], Tree],
    step_checked: Callable[[S, Any], tuple[Transition, S]],
    policy: AnyPolicy,
    horizon: int,
    *,
    action_space: gymnasium.Space[Any],
    seed: int | None = None,
    counter: int | None = None,
    out: Rollout | None = None,
    cast_observation: Callable[[Tree], Tree] | None = None,
    cast_reward: Callable[[float], float] | None = None,
) -> Rollout:
    """Collects from three callbacks as N = 1; each call starts a session of its own.

    Args:
        start: returns a session, of any type.
        observe: returns its observation.
        step_checked: returns the transition, and the session after it: reset, where it is done.
        policy: as for `collect_rollout`.
        horizon: `T`, at least 1.
        action_space: of the environment.
        seed: as for `collect_rollout`.
        counter: as for `collect_rollout`.
        out: as for `collect_rollout`.
        cast_observation: applied to each observation before policy and batch see it.
        cast_reward: applied to each reward.

    Example:
        >>> import numpy as np
        >>> def step(count, action):
        ...     seen, after = np.array([count]), np.array([count + 1])
        ...     return Transition(seen, action, 1.0, after, False, False), count + 1
        >>> policy = (lambda obs: np.zeros((1, 2)), lambda obs: np.zeros(1))
        >>> rollout = collect_from_callbacks(
        ...     start=lambda: 0,
        ...     observe=lambda count: np.array([count]),
        ...     step_checked=step,
        ...     policy=policy,
        ...     horizon=3,
        ...     action_space=gymnasium.spaces.Discrete(2),
        ... )
        >>> rollout.observations.tolist()
        [[[0]], [[1]], [[2]]]
    """
    source = SingleLockstep(
        lambda _: start(),
        observe,
        step_checked,
        action_space,
        cast_observation=cast_observation,
        cast_reward=cast_reward,
    )
    return fill_rollout(source, SingleBooks(), Order(policy, horizon, seed, counter, out))


def _is_started(session: CheckedSession) -> bool:
    try:
        session.observe()
    except StateError:
        return False
    return True


def _require_whole(vec: Any) -> None:
    """Refuses a session in the middle of something, which a reset would silently throw away."""
    engine = getattr(vec, "engine", None)  # a source of one's own has none
    if engine is not None and engine.gate.phase is not Phase.NEW:
        with engine.gate.during("observe"):  # refuses, and says what to do
            return


def _break_off(vec: Any) -> None:
    """Nobody will end this rollout, so a reset may."""
    engine = getattr(vec, "engine", None)
    if engine is not None:
        engine.gate.break_off()


def _require_same_step(vec: Any) -> None:
    """Refuses the modes in which a lockstep may hold rows that are no transitions."""
    mode = getattr(vec, "metadata", {}).get("autoreset_mode", AutoresetMode.SAME_STEP)
    if mode is not AutoresetMode.SAME_STEP:
        raise StateError(
            f"collect_rollout: expected autoreset_mode='same_step', got {mode.name.lower()!r}, in "
            "which a row may be a reset instead of a transition; make the session without it"
        )


def books_of(session: Any) -> Books:
    """Returns where the stream and the episodes under way are kept; a vector session has them."""
    if not hasattr(session, "noise_seed"):
        return _books.setdefault(session, SingleBooks())
    if not hasattr(session, "last_seen"):
        session.last_seen = None
    books: Books = session
    return books
