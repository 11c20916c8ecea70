"""How numbers are written for a person."""

from __future__ import annotations

import math


def seconds(value: float | None) -> str:
    """Returns a time in the unit that suits it.

    Example:
        >>> seconds(0.0000031), seconds(0.012), seconds(75), seconds(None)
        ('3.1 us', '12 ms', '75 s', '-')
    """
    if value is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{short(value / size)} {unit}"
    return f"{value * 1e9:.0f} ns"


def size(count: float | None) -> str:
    """Returns an amount of memory.

    Example:
        >>> size(12_345_678), size(3 * 2**30), size(None)
        ('12 MiB', '3 GiB', '-')
    """
    if count is None:
        return "-"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{short(count / scale)} {unit}"
    return f"{count:.0f} B"


def short(value: float | None) -> str:
    """Returns a number with about three digits.

    Example:
        >>> short(1.234), short(123456.7), short(0.01234), short(3e12), short(None)
        ('1.2', '123,457', '0.0123', '3e+12', '-')
    """
    if value is None:
        return "-"
    if math.isnan(value):
        return "nan"
    if abs(value) >= 1e7:
        return f"{value:.2g}"
    if abs(value) >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """Returns the count with its noun.

    Example:
        >>> plural(1, "episode"), plural(2_000, "episode")
        ('1 episode', '2,000 episodes')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
