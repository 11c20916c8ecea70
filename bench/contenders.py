"""The contenders: what is measured, each behind the same three calls.

What lives here is the adapter's shape, Gymnasium's vector environments and ours; bare loops are in
`bare`, the peers in `peers`, collecting in `collecting`, the list of all of them in `registry`. An
adapter does what its library's documentation shows and nothing more.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
from numpy.typing import NDArray

from vecsess.bench.cases import Case


class Adapter:
    """One contender, built: `reset` once, then `step` as fast as it goes.

    Attributes:
        steps_per_call: environment steps that one call of `step` takes.
    """

    steps_per_call: int

    def prepare(self, actions: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Brings the table of action batches (each `[N, ...]`) into the contender's own form."""
        return actions

    def reset(self) -> None:
        """Returns when the first observation is there."""
        raise NotImplementedError

    def step(self, actions: Any) -> None:
        """Steps every environment once, auto-reset included."""
        raise NotImplementedError

    def take_figures(self) -> dict[str, float]:
        """Hands out what it measured of itself since the last call, by name; most measure nothing.

        They are sums, so that figures of several calls of `step` make figures of a slice.
        """
        return {}

    def close(self) -> None:
        """Lets go of everything."""
        raise NotImplementedError


def nothing() -> None:
    """Loads nothing."""


def anything(case: Case, n: int) -> bool:
    """Applies to every case and N."""
    del case, n
    return True


@dataclass(frozen=True)
class Contender:
    """How to build an adapter, and what to call it. Crosses process boundaries by pickle.

    Attributes:
        open: builds the adapter for a case and N; the time it takes is start time.
        package: the package that has to be installed, checked without importing it.
        load: imports what a trainer imports anyway, so that it doesn't count as start time.
        applies: whether it can run so many of this case at all.
        layouts: the same contender laid out otherwise, for N and the cores; the one that is best
            in a short trial is the one that is measured.
        settle_s: how long its workers go on burning CPU after their last step.
        own_environments: it steps a rewrite of the environment, whose own cost we don't know.
        bare: it steps environments, and does nothing else.
    """

    key: str
    label: str
    open: Callable[[Case, int], Adapter]
    package: str | None = None
    load: Callable[[], object] = nothing
    applies: Callable[[Case, int], bool] = anything
    layouts: Callable[[int, int], tuple[Contender, ...]] | None = None
    settle_s: float = 0.0
    own_environments: bool = False
    bare: bool = False

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is there."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


class VectorAdapter(Adapter):
    """Anything with `reset`, `step` and `close`, as its documentation shows it.

    Args:
        vec: has N environments.
        n: how many, where it does not say.
        seed: takes a seed before the reset; None for `reset(seed=0)`.
    """

    def __init__(self, vec: Any, n: int | None = None, seed: Callable[[int], Any] | None = None):
        self._vec, self._seed = vec, seed
        self.steps_per_call = n or vec.num_envs
        self.step = vec.step  # type: ignore[method-assign]  # no call of ours around it

    def reset(self) -> None:
        """Resets all."""
        if self._seed is None:
            self._vec.reset(seed=0)
            return
        self._seed(0)
        self._vec.reset()

    def close(self) -> None:
        """Closes all."""
        self._vec.close()


class IntoAdapter(VectorAdapter):
    """Ours, by the call that collection makes: checked, and straight into its arrays."""

    def __init__(self, vec: Any) -> None:
        """Takes over `vec`, and makes arrays for it to write to."""
        from vecsess import Rollout

        super().__init__(vec)
        spaces = (vec.single_observation_space, vec.single_action_space)
        self._rows = Rollout.empty(1, vec.num_envs, *spaces).step_rows()[0]
        self.step = self._step  # type: ignore[method-assign]

    def _step(self, actions: Any) -> None:
        self._vec.step_into(actions, self._rows)


def over_sync(case: Case, n: int) -> Any:
    """Gymnasium's loop over N environments in one process, as it comes."""
    return gym.vector.SyncVectorEnv([case.make] * n)


def over_async(case: Case, n: int) -> Any:
    """Gymnasium's process per environment, as it comes: shared memory, next-step auto-reset."""
    return gym.vector.AsyncVectorEnv([case.make] * n)


def open_gymnasium(case: Case, n: int, *, make: Callable[[Case, int], Any]) -> Adapter:
    """What `make` makes, stepped."""
    return VectorAdapter(make(case, n))


def load_ours() -> None:
    """Imports what a trainer would: the package itself loads its parts when they are asked for."""
    from vecsess import VecCheckedSession, collect_rollout

    del VecCheckedSession, collect_rollout


def ours(
    key: str,
    label: str,
    open_: Callable[[Case, int], Adapter],
    applies: Callable[[Case, int], bool] = anything,
) -> Contender:
    """A contender of ours."""
    return Contender(key, label, open_, "vecsess", load_ours, applies)


def enough_for_two(case: Case, n: int) -> bool:
    """Whether there is an environment for each of two workers."""
    del case
    return n >= 2


def open_ours(
    case: Case,
    n: int,
    *,
    workers: int | Literal["auto"] | None,
    into: bool = False,
    values: bool = True,
    log: bool = True,
) -> Adapter:
    """Ours in one grouping.

    Args:
        case: what to step.
        n: how many of them.
        workers: as for `VecCheckedSession`; None is a process per environment.
        into: step by `step_into`, collection's call, instead of `step`.
        values: whether observations and rewards are checked for being finite.
        log: whether there is a log, by which workers and checkpoints are brought back.
    """
    from vecsess import Contract, VecCheckedSession

    contract = Contract(check_obs_finite=values, check_reward_finite=values)
    on_crash: Literal["replay", "raise"] = "replay" if log else "raise"
    vec = VecCheckedSession(case.env, n, workers=workers, contract=contract, on_crash=on_crash)
    return IntoAdapter(vec) if into else VectorAdapter(vec)


def open_sb3(case: Case, n: int) -> Adapter:
    """Ours, as Stable-Baselines3 sees it."""
    from vecsess import VecCheckedSession
    from vecsess.integrations.sb3 import SB3VecEnv

    vec = SB3VecEnv(VecCheckedSession(case.env, n, workers="auto"))
    return VectorAdapter(vec, n, vec.seed)
