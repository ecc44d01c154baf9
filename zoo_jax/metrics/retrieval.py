"""Retrieval: how early the right item stands when all are ranked by similarity.

Computed with numpy in float64 on the host.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Ties = Literal["worst", "mean", "argsort"]
Windows = Literal["embeddings", "similarities"]
# Below this a vector has no direction; it stays zero and matches nothing.
_TINY = 1e-12


def normalize(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Vectors of unit length; a zero vector stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), _TINY)


def window_similarity(
    queries: Float[np.ndarray, "q d"],
    windows: Float[np.ndarray, "i n d"],
    *,
    average: Windows = "embeddings",
    cosine: bool = True,
) -> Float[np.ndarray, "q i"]:
    """Similarity of queries with items that were embedded window by window.

    Args:
      queries: One embedding each.
      windows: Items, each of n windows, e.g. clips spread over a video.
      average: "embeddings" takes the mean of an item's embeddings first, and "similarities" that
        of its similarities. With `cosine` they differ: the first normalises the mean, the second
        every window.
      cosine: Vectors are brought to unit length; otherwise dot products.

    Raises:
      ValueError: for another `average`, or shapes that do not fit.

    Source: VATT (arXiv 2104.11178), released evaluation code. With one window that code leaves
    the normalisation out by accident where embeddings are averaged; ask for ``cosine=False``.
    """
    queries = np.asarray(queries, np.float64)
    windows = np.asarray(windows, np.float64)
    if queries.ndim != 2 or windows.ndim != 3 or queries.shape[1] != windows.shape[2]:
        raise ValueError(
            f"need queries [q, d] and windows [i, n, d], got {queries.shape}, {windows.shape}"
        )
    if average not in ("embeddings", "similarities"):
        raise ValueError(f"average={average!r}: 'embeddings' or 'similarities'")
    if average == "embeddings":
        windows = windows.mean(axis=1, keepdims=True)
    if cosine:
        queries, windows = normalize(queries), normalize(windows)
    # The mean of dot products is the dot product with the mean.
    return queries @ windows.mean(axis=1).T


def ranks(
    scores: Float[np.ndarray, "q i"],
    relevant: Bool[np.ndarray, "q i"] | None = None,
    *,
    ties: Ties = "worst",
) -> Float[np.ndarray, "q"]:
    """Rank of the first relevant item of every query, from 1.

    Args:
      scores: Higher is nearer. A NaN ranks last.
      relevant: Which items answer a query; None: item i answers query i. A query without any has
        rank infinity.
      ties: What happens where an irrelevant item has the score of the best relevant one:
        "worst" ranks it before, so that constant scores earn nothing; "mean" takes half of
        them before, and so may end in .5; "argsort" ranks by a stable sort, where the
        order of the items decides (released codes do likewise).

    Raises:
      ValueError: for another rule, or shapes that do not fit.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [queries, items], got {scores.shape}")
    if relevant is None:
        if scores.shape[0] != scores.shape[1]:
            raise ValueError(
                f"scores {scores.shape} need `relevant`: queries and items differ in number"
            )
        relevant = np.eye(len(scores), dtype=bool)
    relevant = np.asarray(relevant, bool)
    if relevant.shape != scores.shape:
        raise ValueError(
            f"relevant {relevant.shape} does not fit scores {scores.shape}"
        )
    if scores.shape[1] == 0:
        return np.full(len(scores), np.inf)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    if ties == "argsort":
        order = np.argsort(-scores, axis=1, kind="stable")
        found = np.take_along_axis(relevant, order, axis=1)
        return np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.inf)
    if ties not in ("worst", "mean"):
        raise ValueError(f"ties={ties!r}: 'worst', 'mean' or 'argsort'")
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    before = np.sum(~relevant & (scores > best), axis=1)
    equal = np.sum(~relevant & (scores == best), axis=1)
    rank = 1.0 + before + (equal if ties == "worst" else equal / 2)
    return np.where(relevant.any(axis=1), rank, np.inf)


def retrieval_metrics(
    scores: Float[np.ndarray, "q i"],
    relevant: Bool[np.ndarray, "q i"] | None = None,
    *,
    ties: Ties = "worst",
    at: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Recall at k and the median rank.

    Args:
      scores: Higher is nearer.
      relevant: See `ranks`.
      ties: See `ranks`.
      at: Which k.

    Returns:
      ``recall_at_<k>``, the share of queries that have a relevant item among the first k, and
      ``median_rank``, from 1.

    Raises:
      ValueError: see `ranks`; or if there is no query.

    >>> retrieval_metrics(np.eye(3), at=(1,))
    {'recall_at_1': 1.0, 'median_rank': 1.0}
    >>> retrieval_metrics(np.ones((3, 3)), at=(1,))
    {'recall_at_1': 0.0, 'median_rank': 3.0}
    """
    found = ranks(scores, relevant, ties=ties)
    if not found.size:
        raise ValueError("there is no query")
    out = {f"recall_at_{k}": float(np.mean(found <= k)) for k in at}
    return out | {"median_rank": float(np.median(found))}
