"""How well a score tells two classes apart, whatever threshold one would choose."""

import numpy as np
from jaxtyping import Float, Real


def auroc(scores: Float[np.ndarray, "n"], positive: Real[np.ndarray, "n"]) -> float:
    """Area under the receiver operating characteristic.

    The probability that a random positive has a higher score than a random negative, where
    equal scores count half; constant scores give 0.5. Computed from ranks in float64.

    Args:
      scores: Finite; higher speaks for a positive.
      positive: Nonzero or True for positives.

    Returns:
      In [0, 1]; NaN if there are no positives or no negatives.

    Raises:
      ValueError: for shapes that do not fit, or a score that is not finite.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    0.875
    """
    scores = np.asarray(scores, np.float64)
    positive = np.asarray(positive) != 0
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise ValueError(f"scores {scores.shape} and positive {positive.shape} differ")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    _, group, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # the mean rank of each group of equals
    return float((rank[group][positive].sum() - p * (p + 1) / 2) / (p * n))
