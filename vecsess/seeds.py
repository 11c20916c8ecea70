"""The seeds of environments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(seed: int | Sequence[int | None] | None, n: int) -> list[int | None]:
    """Returns a seed for each environment, as Gymnasium's vector environments do."""
    if seed is None:
        return [None] * n
    if isinstance(seed, int | np.integer):
        return [int(seed) + env for env in range(n)]
    if len(seed) != n:
        raise ValueError(f"seed: expected one for each of the {n} environments, got {len(seed)}")
    return [None if part is None else int(part) for part in seed]
