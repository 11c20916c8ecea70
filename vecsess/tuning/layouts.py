"""Which layout fills batches fastest, measured: how many workers, which pace, who acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from vecsess.collect.paced import PACES
from vecsess.collect.policies import AnyPolicy
from vecsess.contract import Contract
from vecsess.fleet.plan import EnvLike, cores
from vecsess.fleet.worker import Timeouts
from vecsess.session.vector import VecCheckedSession
from vecsess.tuning.lanes import (
    Lane,
    LayoutFigures,
    TimedPolicy,
    acting_lanes,
    open_lanes,
    run_lanes,
)
from vecsess.tuning.step_cost import StepCost, measure_step
from vecsess.wire.values import Fields

TIE = 0.97  # rates this close are equal, and then the stronger isolation and the simpler pace win
MAX_WORKERS = 64  # a process for each of more environments is only tried where they sleep


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What `autotune` found.

    Attributes:
        n: how many environments.
        cores: how many this process may use.
        step: what a step takes by itself.
        layouts: what was measured, in the order in which it was tried.
        best: the one to use.
        advice: why, where the time goes, and what would help, a sentence each.
    """

    n: int
    cores: int
    step: StepCost
    layouts: tuple[LayoutFigures, ...]
    best: LayoutFigures
    advice: tuple[str, ...]


def autotune(
    env: EnvLike,
    n: int = 16,
    *,
    make_kwargs: Fields | None = None,
    policy: AnyPolicy | None = None,
    policy_s: float = 0.0,
    policy_row_s: float = 0.0,
    workers: Sequence[int] | None = None,
    slice_s: float = 0.25,
    rounds: int = 3,
    contract: Contract | None = None,
    timeouts: Timeouts | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Measures a few layouts in interleaved rounds, and says which to use, and why.

    The machine should do nothing else meanwhile. Where the policy takes time, paces are tried too;
    with about a worker a core, whether it pays that the workers act (`inference="workers"`), but
    for a policy that can't be pickled or that `policy_s` only stands for.

    Args:
        env: as for `VecCheckedSession`.
        n: how many environments.
        make_kwargs: arguments for `gymnasium.make`, where `env` is an id.
        policy: as for `collect_rollout`; random actions by default.
        policy_s: how long a call of the policy takes beside, asleep: what a GPU would take.
        policy_row_s: likewise, for each row.
        workers: the numbers to try; by default 0, 1, one and two a core, N / 4, and N.
        slice_s: how long each layout runs in a round; at least a lockstep.
        rounds: how many.
        contract: as for `VecCheckedSession`.
        timeouts: as for `VecCheckedSession`.
        tell: is told what is going on, a line at a time.

    Raises:
        ValueError: a number that makes no sense.
        VecsessError: the environment can't be made or stepped; as `VecCheckedSession` raises.

    Example:
        >>> found = autotune("CartPole-v1", n=4, workers=(0, 2), slice_s=0.05, rounds=1)
        >>> sorted({layout.workers for layout in found.layouts})
        [0, 2]
        >>> found.best in found.layouts
        True
    """
    _require_sense(n, policy_s, policy_row_s, slice_s, rounds, workers)
    settings: Fields = {"contract": contract, "timeouts": timeouts}
    tell("one environment by itself")
    step = measure_step(env, make_kwargs, settings)
    settings["make_kwargs"] = make_kwargs
    counts = worker_counts(n, cores(), step) if workers is None else list(workers)
    one_a_core = min(counts, key=lambda count: (count == 0, abs(count - cores())))
    paces = PACES if policy is not None or policy_s + policy_row_s > 0 else PACES[:1]
    with ExitStack() as stack:
        lanes: list[Lane] = []
        for count in counts:
            tell(f"workers={count}: starting")
            vec = stack.enter_context(VecCheckedSession(env, n, workers=count, **settings))
            timed = TimedPolicy(policy, vec.single_action_space, policy_s, policy_row_s)
            lanes += open_lanes(vec, paces if count > 1 else PACES[:1], timed)
            if count == one_a_core:
                lanes += acting_lanes(vec, timed)
        run_lanes(lanes, slice_s, rounds, tell)
    return _conclude(n, step, tuple(lane.figures(step, cores()) for lane in lanes))


def _conclude(n: int, step: StepCost, layouts: tuple[LayoutFigures, ...]) -> Tuning:
    """Returns what follows from what was measured."""
    best = choose(layouts)
    advice = advise(best, layouts, step, cores())
    return Tuning(n=n, cores=cores(), step=step, layouts=layouts, best=best, advice=advice)


def _require_sense(
    n: int,
    policy_s: float,
    policy_row_s: float,
    slice_s: float,
    rounds: int,
    workers: Sequence[int] | None,
) -> None:
    for name, value in (("policy_s", policy_s), ("policy_row_s", policy_row_s)):
        if not value >= 0:
            raise ValueError(f"{name}: expected seconds from 0, got {value!r}")
    if not slice_s > 0 or rounds < 1:
        raise ValueError(f"expected slice_s above 0 and rounds from 1, got {slice_s!r}, {rounds!r}")
    if workers is not None and (not workers or not all(0 <= count <= n for count in workers)):
        raise ValueError(f"workers: expected numbers from 0 to {n}, got {workers!r}")


def worker_counts(n: int, cores: int, step: StepCost) -> list[int]:
    """Returns the numbers of workers worth a try for `n` environments on so many cores."""
    counts = {0, 1, cores, 2 * cores, n // 4, n}
    most = n if step.sleeps else max(MAX_WORKERS, 2 * cores)
    return sorted(count for count in counts if count <= min(n, most))


def choose(layouts: Sequence[LayoutFigures]) -> LayoutFigures:
    """Returns the fastest; of those that are nearly as fast the simplest that protects."""
    fastest = max(layout.steps_per_s for layout in layouts)
    near = [layout for layout in layouts if layout.steps_per_s >= TIE * fastest]
    return min(
        near,
        key=lambda layout: (
            layout.workers == 0,
            layout.inference == "workers",
            PACES.index(layout.pace),
            layout.workers,
        ),
    )


_MUCH = 0.25  # of the manager's time: from here on something is worth a sentence


def advise(
    best: LayoutFigures, layouts: Sequence[LayoutFigures], step: StepCost, cores: int
) -> tuple[str, ...]:
    """Returns why a layout was chosen, where its time goes, and what would help.

    Args:
        best: the chosen one.
        layouts: all that were measured.
        step: what a step takes by itself.
        cores: how many there are.
    """
    return (_why(best, layouts), _where(best, step), *_what_helps(best, layouts, step, cores))


def _why(best: LayoutFigures, layouts: Sequence[LayoutFigures]) -> str:
    rate = f"{best.name}: {best.steps_per_s:,.0f} steps/s"
    others = [layout for layout in layouts if layout is not best]
    if not others:
        return f"{rate}, the only layout that was tried"
    other = max(others, key=lambda layout: layout.steps_per_s)
    times = best.steps_per_s / other.steps_per_s
    if times >= 1:
        return f"{rate}, {times:.2f} times the next, {other.name}"
    gain = "protects the trainer" if other.workers == 0 else "is simpler"
    return f"{rate}, {times:.0%} of {other.name}, but it {gain}"


def _where(best: LayoutFigures, step: StepCost) -> str:
    shares = {
        "environments": best.environments,
        "waiting": best.waiting,
        "copies and checks": best.copying,
        "policy": best.policy,
    }
    parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return f"the manager's time: {parts}; a step by itself takes {step.mean_s * 1e6:,.1f} us"


def _what_helps(
    best: LayoutFigures, layouts: Sequence[LayoutFigures], step: StepCost, cores: int
) -> list[str]:
    found = []
    if step.sleeps and best.environments + best.waiting > _MUCH:
        found.append(
            f"steps use {step.cpu_share:.0%} of a core and wait for something else the rest of "
            "the time: more workers than cores help, and so do more environments"
        )
    elif best.environments > 2 * _MUCH:
        found.append(
            "the environments themselves are what takes the time: a faster environment, or more "
            f"cores than {cores}, would help, and nothing else"
        )
    if step.straggles and best.pace != "free":
        tried = any(layout.pace == "free" for layout in layouts)
        hint = "" if tried else "; give policy or policy_s to have it tried"
        found.append(
            f"one step in a hundred takes {step.p99_s / step.p50_s:.0f} times as long as most, and "
            f'a lockstep waits for the slowest: pace="free" does not{hint}'
        )
    if best.policy > 2 * _MUCH:
        found.append("the policy takes most of the time: a faster one, or more rows a call, helps")
    acting = max((one.steps_per_s for one in layouts if one.inference == "workers"), default=0.0)
    here = max((one.steps_per_s for one in layouts if one.inference == "trainer"), default=0.0)
    if acting and here:
        pays = "pays" if acting >= here / TIE else "does not pay"
        found.append(f"inference='workers' {pays} here: {acting / here:.2f} times the best without")
    if best.copying > _MUCH:
        found.append(
            "much of the time is the manager's own work, the same for a lockstep of any size: "
            "more environments a lockstep would share it"
        )
    if best.waiting > _MUCH and not step.sleeps and not step.straggles:
        found.append(
            "much of the time is neither steps nor the manager's work: workers wait for a core, "
            "or a lockstep is too short for its messages; fewer workers or more environments help"
        )
    return found
