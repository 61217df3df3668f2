"""How sure a mean is: bootstrap intervals."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["interval", "ratio_interval"]

RESAMPLES = 2000


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95% of the means of as many, drawn from these; the same for the same numbers.

    As many values are drawn alike, so that of a difference is of the same clips under both.
    """
    return _bounds(values[_drawn(len(values))].mean(1))


def ratio_interval(above: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """95% of the ratios of two means over the same clips, drawn alike for both."""
    drawn = _drawn(len(above))
    return _bounds(above[drawn].mean(1) / below[drawn].mean(1))


def _drawn(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def _bounds(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
