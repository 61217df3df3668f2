"""How sure a mean is: bootstrap intervals."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["interval"]

RESAMPLES = 2000


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95% of the means of as many, drawn from these; the same for the same numbers.

    As many values are drawn alike, so that of a difference is of the same clips under both.
    """
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)
