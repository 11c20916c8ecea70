"""Where workers run: on which cores, and how nice they are to others; never the trainer itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

Affinity = Literal["spread"] | Sequence[int] | None


def cpus_in_turn(affinity: Affinity) -> list[int]:
    """Returns the cores that workers take in turn, worker `i` the one at `i % len`; [] for any.

    Args:
        affinity: None for any; "spread" for those that this process may use; or core numbers.

    Raises:
        ValueError: a core that this process may not use.

    Example:
        >>> cpus_in_turn(None)
        []
    """
    if affinity is None:
        return []
    allowed = sorted(os.sched_getaffinity(0))
    if affinity == "spread":
        return allowed
    cpus = [int(cpu) for cpu in affinity]
    if not cpus or not set(cpus) <= set(allowed):
        raise ValueError(f"affinity: expected 'spread' or cores out of {allowed}, got {affinity!r}")
    return cpus


def check_niceness(niceness: int) -> int:
    """Returns how much nicer workers are than the trainer, 0 to 19.

    Raises:
        ValueError: below 0, which needs a privilege, or above 19.
    """
    if type(niceness) is not int or not 0 <= niceness <= 19:
        raise ValueError(f"niceness: expected 0 (as the trainer) to 19, got {niceness!r}")
    return niceness
