"""Item-response curves: how a rate falls while a picture is spoilt step by step."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped


class ItemResponse(NamedTuple):
    """A rate at each level of a perturbation.

    The areas lie in [0, 1]; that of a constant curve is its rate.
    """

    levels: Float[np.ndarray, "m"]
    rates: Float[np.ndarray, "m"]
    low: Float[np.ndarray, "m"]  # Wilson intervals
    high: Float[np.ndarray, "m"]
    area: float  # below the curve, levels scaled to [0, 1]
    rank_area: (
        float  # below the curve, levels replaced by their rank: units do not matter
    )


def item_response(
    levels: Sequence[float],
    outcomes: Shaped[np.ndarray, "m n"],
    *,
    known: Shaped[np.ndarray, "n"] | None = None,
    confidence: float = 0.95,
) -> ItemResponse:
    """The curve of one perturbation.

    Args:
      levels: Of the perturbation, rising or falling throughout (a JPEG quality falls).
      outcomes: Row: level, column: picture; 1 (recognised, or preferred) or 0.
      known: Pictures that count, usually those that are recognised unperturbed; None for all.
        The same must be used for curves that are to be compared.
      confidence: Of the intervals, which take the pictures as independent.

    Raises:
      ValueError: for fewer than two levels, levels that repeat or turn, outcomes other than 0
        and 1, or no picture that counts.

    Source: the psychophysics of arXiv 1901.09482 in outline; areas and intervals are our choice.

    >>> curve = item_response([0, 1, 4], np.array([[1, 1], [1, 0], [0, 0]]))
    >>> curve.rates.tolist(), curve.area, curve.rank_area
    ([1.0, 0.5, 0.0], 0.375, 0.5)
    """
    x, outcomes = np.asarray(levels, np.float64), np.asarray(outcomes)
    steps = np.diff(x)
    if len(x) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"levels must rise or fall throughout, and be two or more, got {list(levels)}"
        )
    if outcomes.ndim != 2 or len(outcomes) != len(x):
        raise ValueError(f"{len(x)} levels, but outcomes of shape {outcomes.shape}")
    if not np.isin(outcomes, (0, 1)).all():
        raise ValueError("outcomes must be 0 or 1")
    if known is not None:
        outcomes = outcomes[:, np.asarray(known, bool)]
    count = outcomes.shape[1]
    if not count:
        raise ValueError("no picture counts: none is recognised unperturbed")
    successes = outcomes.sum(axis=1, dtype=np.float64)
    rates = successes / count
    low, high = wilson(successes, count, confidence=confidence)
    return ItemResponse(
        x,
        rates,
        low,
        high,
        float(np.trapezoid(rates, (x - x[0]) / (x[-1] - x[0]))),
        float(np.trapezoid(rates, np.linspace(0, 1, len(x)))),
    )


def wilson(
    successes: Shaped[np.ndarray, "*m"] | float, count: int, *, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a rate: inside [0, 1], and of some width at 0 and 1 too.

    Raises:
      ValueError: for no trials, or a confidence out of range.

    Source: Wilson, Journal of the American Statistical Association 22, 1927.

    >>> [round(float(v), 4) for v in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if count < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"count must be at least 1 and confidence inside (0, 1), got {count} and"
            f" {confidence}"
        )
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate = np.asarray(successes, np.float64) / count
    middle = rate + z**2 / (2 * count)
    half = z * np.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    scale = 1 + z**2 / count
    return np.maximum((middle - half) / scale, 0), np.minimum(
        (middle + half) / scale, 1
    )
