"""Differences between two ways of doing something that were run with the same seeds."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Difference(NamedTuple):
    """A mean difference and its interval."""

    mean: float
    low: float  # NaN for a single pair
    high: float


def paired_difference(
    values: Float[np.ndarray, "n"],
    baseline: Float[np.ndarray, "n"],
    *,
    confidence: float = 0.95,
) -> Difference:
    """Mean of ``values - baseline`` with Student's interval over the pairs.

    Pairing takes out what a seed does to both. The interval takes the differences as normal; with
    five seeds it is 2.8 standard errors to each side. A percentile bootstrap over so few would be
    a third too short.

    Args:
      values: One per seed.
      baseline: Of the same seeds in the same order.
      confidence: Of the interval.

    Raises:
      ValueError: for another number of values, or none.

    >>> found = paired_difference(np.array([3.0, 4.0, 8.0]), np.array([2.0, 2.0, 5.0]))
    >>> [round(x, 3) for x in found]
    [2.0, -0.484, 4.484]
    """
    values, baseline = np.asarray(values, float), np.asarray(baseline, float)
    if values.ndim != 1 or values.shape != baseline.shape or not values.size:
        raise ValueError(f"cannot pair {values.shape} values with {baseline.shape}")
    difference = values - baseline
    mean, n = float(difference.mean()), len(difference)
    if n == 1:
        return Difference(mean, math.nan, math.nan)
    from scipy.stats import t  # imports slowly

    half = t.ppf((1 + confidence) / 2, n - 1) * difference.std(ddof=1) / math.sqrt(n)
    return Difference(mean, float(mean - half), float(mean + half))
