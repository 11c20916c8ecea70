"""What an evaluation found, and how sure one may be of its mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
