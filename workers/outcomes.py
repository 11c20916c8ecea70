"""What a step gives beside the observation, as plain Python values, or an error saying why not."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecsess.wire.leaves import FormError

_NUMBERS = (float, np.floating, np.integer)


def reward_of(value: Any) -> float:
    """Returns a reward as float; a bool, a text, None or an array with axes is none."""
    scalar = value[()] if isinstance(value, np.ndarray) and value.shape == () else value
    if type(scalar) is int or isinstance(scalar, _NUMBERS):
        try:
            return float(scalar)
        except OverflowError:
            pass  # an int beyond float64 is none, either
    got = f"shape {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:80]
    raise FormError("reward", f"expected a number, got {type(value).__name__} {got}")


def flag_of(value: Any, name: str) -> bool:
    """Returns a done flag as bool; a number or a text is none."""
    scalar = value[()] if isinstance(value, np.ndarray) and value.shape == () else value
    if isinstance(scalar, np.bool_ | bool):
        return bool(scalar)
    raise FormError(name, f"expected a bool, got {type(value).__name__} {repr(value)[:80]}")


def refuse_info(info: Any) -> None:
    """Raises the error for an info that is no dict."""
    raise FormError("info", f"expected a dict, got {type(info).__name__} {repr(info)[:80]}")
