"""What `autotune` says of its figures, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from vecsess.tuning.lanes import LayoutFigures
from vecsess.tuning.step_cost import StepCost

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
