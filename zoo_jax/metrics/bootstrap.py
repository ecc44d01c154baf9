"""Confidence intervals of means whose values come in dependent groups, such as frames of videos."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

_CHUNK = 1 << 20  # numbers drawn at once: bounds memory


class Interval(NamedTuple):
    """A mean and its interval."""

    mean: float
    low: float  # nan where there is only one group to draw from
    high: float


def cluster_bootstrap(
    values: Float[np.ndarray, "b"],
    groups: Shaped[np.ndarray, "b"],
    *,
    weights: Float[np.ndarray, "b"] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a mean: whole groups are drawn with replacement.

    Frames of one video resemble each other, so drawing them one by one would give intervals
    that are too narrow. For a paired comparison pass the differences: equal values give exactly
    zero, and so does every resample.

    Args:
      values: One per frame or rating.
      groups: What each belongs to, e.g. its video.
      weights: Not negative; the mean is ``sum(w v) / sum(w)``. A resample whose weights are all
        zero is left out.
      resamples: How many are drawn.
      confidence: Share of the resamples inside the interval.
      seed: Of the draws; nothing else is random.

    Raises:
      ValueError: for no values, other lengths, no weight at all, or options out of range.

    Source: cluster (block) bootstrap, Davison and Hinkley, 1997, section 3.8.

    >>> cluster_bootstrap(np.array([0.0, 0.0, 0.0]), np.array(["a", "a", "b"]))
    Interval(mean=0.0, low=0.0, high=0.0)
    """
    values, groups = np.asarray(values, np.float64), np.asarray(groups)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    if not len(values) or not len(values) == len(groups) == len(weights):
        raise ValueError(
            f"{len(values)} values, {len(groups)} groups and {len(weights)} weights: they must"
            " be as many, and at least one"
        )
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"resamples must be at least 1 and confidence inside (0, 1), got {resamples} and"
            f" {confidence}"
        )
    if (weights < 0).any() or not weights.sum() > 0:
        raise ValueError("weights must not be negative, and not all zero")
    _, inverse = np.unique(groups, return_inverse=True)
    totals = np.bincount(inverse, weights * values)
    sizes = np.bincount(inverse, weights)
    mean = float(totals.sum() / sizes.sum())
    count = len(sizes)
    if count < 2:
        return Interval(mean, float("nan"), float("nan"))
    rng, means = np.random.default_rng(seed), []
    rows = max(1, _CHUNK // count)
    for first in range(0, resamples, rows):
        drawn = rng.integers(count, size=(min(rows, resamples - first), count))
        total, size = totals[drawn].sum(axis=1), sizes[drawn].sum(axis=1)
        means.append(total[size > 0] / size[size > 0])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def paired_interval(
    values: Float[np.ndarray, "s n"],
    baseline: Float[np.ndarray, "t n"],
    groups: Sequence[Any],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean difference of two trained arms on the same pictures.

    Seeds, groups, and pictures within a group are drawn anew, each with replacement, so that
    many crops of few photographs do not pass for many photographs. With few groups it is
    still too short: the percentile bootstrap over three of anything is.

    Args:
      values: One row per seed.
      baseline: Likewise; its seeds are drawn apart, and one row is enough for an arm without.
      groups: What every picture belongs to, e.g. its scene.
      resamples: How many draws.
      confidence: Share of draws between the two ends.

    >>> paired_interval(np.ones((2, 3)), np.zeros((1, 3)), "abc", resamples=9)
    (1.0, 1.0)
    """
    rng = np.random.RandomState(0)
    groups = np.asarray(list(groups), dtype=object)
    members = [np.flatnonzero(groups == g) for g in dict.fromkeys(groups.tolist())]
    single = all(len(m) == 1 for m in members)  # then a group is a picture
    means = np.empty(resamples)
    for k in range(resamples):
        drawn = rng.randint(len(members), size=len(members))
        if single:
            at = drawn
        else:
            of_groups = [members[i] for i in drawn]
            at = np.concatenate(
                [m[rng.randint(len(m), size=len(m))] for m in of_groups]
            )
        a = values[rng.randint(len(values), size=len(values))][:, at]
        b = baseline[rng.randint(len(baseline), size=len(baseline))][:, at]
        means[k] = a.mean() - b.mean()
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
