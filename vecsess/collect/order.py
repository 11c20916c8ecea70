"""What a rollout is asked for, as it goes through this room."""

from __future__ import annotations

from dataclasses import dataclass

from vecsess.collect.policies import AnyPolicy
from vecsess.collect.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Order:
    """The arguments of `collect_rollout` that every way of collecting takes; see there."""

    policy: AnyPolicy
    horizon: int
    seed: int | None = None
    counter: int | None = None
    out: Rollout | None = None

    def __post_init__(self) -> None:
        if self.horizon <= 0:
            raise ValueError(
                f"expected a positive horizon (locksteps to collect), got {self.horizon!r}"
            )
