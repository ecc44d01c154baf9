"""Recognition by groups of classes: a label stands for several classes of the recogniser.

M1 and M2 are the measures of UG^2 (arXiv 1901.09482) as its scorer of 2018 computes them, and
LRAP that of its challenge of 2019.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Hits(NamedTuple):
    """1.0 or 0.0 per picture; the mean of each is the rate of that name."""

    m1: Float[Array, "b"]  # at least one class of the label is among the first guesses
    m2: Float[Array, "b"]  # as many as can be: all of them, or all guesses


def top_classes(scores: Float[Array, "b n"], *, k: int = 5) -> Int[Array, "b k"]:
    """Classes of the `k` largest scores, best first; of equal ones the lowest number first.

    >>> top_classes(jnp.array([[0.1, 0.4, 0.1, 0.4]]), k=3).tolist()
    [[1, 3, 0]]
    """
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k must lie in 1..{scores.shape[1]}, got {k}")
    return jax.lax.top_k(scores, k)[1]


def hits_of_top(
    top: Int[Array, "b k"], members: Bool[Array, "c n"], labels: Int[Array, "b"]
) -> Hits:
    r"""M1 and M2 of each picture from its first guesses.

    .. math:: c_i = |S_{y_i} \cap T_i|, \quad M1_i = [c_i \ge 1], \quad
              M2_i = [c_i \ge 1][c_i = \min(|S_{y_i}|, k)]

    Args:
      top: Distinct classes T, 0..n-1.
      members: Row: label; whether a class belongs to its set S.
      labels: In 0..c-1.

    Raises:
      ValueError: for no pictures, whose rate would be nothing.

    Source: arXiv 1901.09482; M2 <= M1, and both agree for a label of one class.

    >>> members = jnp.array([[True, True, False, False]])
    >>> hits_of_top(jnp.array([[1, 2], [0, 1]]), members, jnp.array([0, 0])).m2.tolist()
    [0.0, 1.0]
    """
    if not len(labels):
        raise ValueError("no pictures: M1 and M2 need at least one")
    right = jnp.asarray(members)[labels]  # b n
    found = jnp.sum(jnp.take_along_axis(right, jnp.asarray(top), axis=1), axis=1)
    need = jnp.minimum(jnp.sum(right, axis=1), top.shape[1])
    any_ = found >= 1
    return Hits(any_.astype(jnp.float32), (any_ & (found == need)).astype(jnp.float32))


def hits(
    scores: Float[Array, "b n"],
    members: Bool[Array, "c n"],
    labels: Int[Array, "b"],
    *,
    k: int = 5,
) -> Hits:
    """`hits_of_top` from scores. A picture with a score that is no number has neither hit."""
    scores = jnp.asarray(scores)
    found = hits_of_top(top_classes(scores, k=k), members, labels)
    known = ~jnp.any(jnp.isnan(scores), axis=1)
    return Hits(*(jnp.where(known, value, 0.0) for value in found))


def lrap(
    scores: Float[np.ndarray, "b n"], truth: Bool[np.ndarray, "b n"]
) -> Float[np.ndarray, "b"]:
    r"""Label ranking average precision of each picture: how far up its classes stand.

    .. math:: \frac1{|S|} \sum_{j \in S} \frac{|\{k \in S: f_k \ge f_j\}|}{|\{k: f_k \ge f_j\}|}

    1 if all classes of the label stand first, 1/rank for a label of one class. Computed with
    NumPy in float64.

    Args:
      scores: f, any finite values.
      truth: Whether a class belongs to the picture's set S; neither none nor all may (1 by
        convention elsewhere, and no information).

    Raises:
      ValueError: for no pictures, scores that are not finite, and such a set.

    >>> lrap(np.array([[0.5, 0.2, 0.3]]), np.array([[False, True, True]])).round(4).tolist()
    [0.5833]
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, bool)
    if not len(scores):
        raise ValueError("no pictures: LRAP needs at least one")
    if not np.isfinite(scores).all():
        raise ValueError("LRAP needs finite scores")
    counts = truth.sum(axis=1)
    if not ((counts > 0) & (counts < truth.shape[1])).all():
        raise ValueError(
            "LRAP needs labels with at least one class and without at least one"
        )
    out = np.empty(len(scores))
    for i, (f, right) in enumerate(zip(scores, truth, strict=True)):
        own = f[right]
        out[i] = np.mean(_at_least(own, own) / _at_least(f, own))
    return out


def _at_least(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How many of `values` reach each bound."""
    return len(values) - np.searchsorted(np.sort(values), bounds, side="left")


def class_macro(values: Float[Array, "b"], labels: Int[Array, "b"]) -> float:
    """Mean over labels of the mean of each label's values, so that every label counts the same.

    Labels that do not occur are left out.

    Raises:
      ValueError: for no values.

    >>> class_macro(np.array([1.0, 1.0, 1.0, 0.0]), np.array([3, 3, 3, 7]))
    0.5
    """
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    if not len(values):
        raise ValueError("no values to take a mean of")
    _, inverse = np.unique(labels, return_inverse=True)
    return float(np.mean(np.bincount(inverse, values) / np.bincount(inverse)))
