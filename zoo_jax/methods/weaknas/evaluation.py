"""What a search is worth: curves over queries under three rules, and their spread over runs.

The published curves choose among the queried by *test* accuracy, which no user can do. All
three rules are therefore computed from the same searches:

- ``reference``: the best test value among the queried and of the predicted best. This is the
  rule of the published plots; the look at the predicted best is not counted as a query.
- ``honest``: the test value of the queried item with the best label, which is what a user gets.
- ``predicted``: the test value of the item that the predictor likes best, queried or not.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from zoo_jax.methods.weaknas.baselines import NO_MODEL, Searcher
from zoo_jax.methods.weaknas.trees import require_sklearn

RULES = ("reference", "honest", "predicted")


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What repeated searches did.

    Attributes:
      asked: The queries of every run in their order.
      queries: After how many of them something was recorded.
      predicted_top: The predicted best at each of these; `NO_MODEL` without a predictor.
    """

    asked: Int[np.ndarray, "runs budget"]
    queries: Int[np.ndarray, "q"]
    predicted_top: Int[np.ndarray, "runs q"]

    def first(self, runs: int) -> "Record":
        """The first so many runs."""
        return Record(self.asked[:runs], self.queries, self.predicted_top[:runs])


def run_searcher(
    searcher: Searcher,
    labels: Float[np.ndarray, "m"],
    *,
    budget: int,
    batch: int,
    queries: Sequence[int],
) -> tuple[Int[np.ndarray, "budget"], Int[np.ndarray, "q"]]:
    """Runs one search on the host against a table.

    Args:
      searcher: A new one.
      labels: What it is told; NaN for a failed training.
      budget: How many labels it is told in all.
      batch: The most that it is asked for at once.
      queries: After how many labels its predicted best is recorded, ascending.

    Returns:
      What was asked, and the predicted best at each entry of `queries`.

    Raises:
      RuntimeError: if the searcher breaks the protocol.
    """
    asked: list[int] = []
    tops: list[int] = []
    left = list(queries)
    while len(asked) < budget:
        # A batch ends where something is to be recorded.
        until = min([budget, *left[:1]]) - len(asked)
        index = np.asarray(searcher.ask(min(batch, until)))
        if not 0 < len(index) <= min(batch, until) or len({*asked, *index}) != (
            len(asked) + len(index)
        ):
            raise RuntimeError(
                f"{type(searcher).__name__} was asked for {min(batch, until)} new"
                f" architectures and gave {index.tolist()} after {len(asked)} others"
            )
        searcher.tell(index, labels[index])
        asked += index.tolist()
        if left and len(asked) == left[0]:
            tops.append(searcher.predicted_top())
            left.pop(0)
    return np.asarray(asked, np.int32), np.asarray(tops, np.int32)


def curves(
    record: Record, label: Float[np.ndarray, "m"], test: Float[np.ndarray, "m"]
) -> dict[str, Float[np.ndarray, "runs q"]]:
    """The test value of what each rule of `RULES` chooses, for every run.

    Args:
      record: Of the searches.
      label: What they were told; NaN ranks below everything.
      test: The judge.

    Returns:
      Rule -> values at ``record.queries``. ``"predicted"`` is NaN without a predictor.
    """
    at = record.queries - 1
    told = np.where(np.isnan(label), -np.inf, label)[record.asked]
    judged = test[record.asked]  # runs budget
    best = np.fmax.accumulate(judged, axis=1)[:, at]
    # The first of equal labels stays: a later one must be better to take its place.
    leads = np.maximum.accumulate(told, axis=1)
    new = np.concatenate(
        [np.ones((len(told), 1), bool), told[:, 1:] > leads[:, :-1]], axis=1
    )
    leader = np.maximum.accumulate(
        np.where(new, np.arange(told.shape[1])[None], 0), axis=1
    )
    honest = np.take_along_axis(judged, leader[:, at], axis=1)
    top = record.predicted_top
    predicted = np.where(top == NO_MODEL, np.nan, test[np.maximum(top, 0)])
    return {
        # Of the present predicted best alone, as published: this curve may fall again.
        "reference": np.fmax(best, predicted),
        "honest": honest,
        "predicted": predicted,
    }


class Summary(NamedTuple):
    """Of one value over runs."""

    mean: Float[np.ndarray, "q"]
    sd: Float[np.ndarray, "q"]  # n - 1
    stderr: Float[np.ndarray, "q"]
    low: Float[np.ndarray, "q"]  # 95 % interval of the mean
    high: Float[np.ndarray, "q"]


def summarise(values: Float[np.ndarray, "runs q"]) -> Summary:
    """Mean, spread and the 95 % interval of the mean by Student's t; needs two runs."""
    runs = len(values)
    mean = values.mean(0)
    if runs < 2:
        unknown = np.full_like(mean, np.nan)
        return Summary(mean, unknown, unknown, unknown, unknown)
    sd = values.std(0, ddof=1)
    stderr = sd / np.sqrt(runs)
    half = _student_975(runs - 1) * stderr
    return Summary(mean, sd, stderr, mean - half, mean + half)


def _student_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, exact for 1 and 2 degrees of freedom.

    Above, the Cornish-Fisher expansion around the normal quantile: within 0.5 %.
    """
    if freedom < 3:
        return {1: 12.7062, 2: 4.3027}[freedom]
    z, n = 1.959964, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z)
        / (92160 * n**4)
    )


def difference(
    ours: Float[np.ndarray, "runs"], theirs: Float[np.ndarray, "others"]
) -> tuple[float, float]:
    """Difference of two means and its combined standard error (independent runs)."""
    error = sum(np.var(v, ddof=1) / len(v) for v in (ours, theirs))
    return float(np.mean(ours) - np.mean(theirs)), float(np.sqrt(error))


def queries_to(
    record: Record, test: Float[np.ndarray, "m"], threshold: float
) -> Float[np.ndarray, "runs"]:
    """Queries until the first queried item with a test value of at least `threshold`.

    Counted by value, since several architectures may share the best one; the free look at the
    predicted best does not count. Infinite for a run that never got there.
    """
    reached = test[record.asked] >= threshold
    return np.where(reached.any(1), reached.argmax(1) + 1.0, np.inf)


def top_threshold(test: Float[np.ndarray, "m"], share: float) -> float:
    """The value of the last architecture that belongs to the best `share` of the pool."""
    known = np.sort(test[~np.isnan(test)])
    return float(known[-max(1, int(np.ceil(share * len(known))))])


def kendall_tau(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Kendall's tau-b: agreement of two orders in [-1, 1], ties allowed for.

    NaN if one of them is constant. Time and memory grow as n².
    """
    pairs = np.triu_indices(len(x), 1)
    a, b = (np.sign(v[pairs[0]] - v[pairs[1]]) for v in (x, y))
    ties = np.sqrt(np.count_nonzero(a) * float(np.count_nonzero(b)))
    return float(np.sum(a * b) / ties) if ties else float("nan")


def tau_in_top(
    scores: Float[np.ndarray, "m"], test: Float[np.ndarray, "m"], count: int
) -> float:
    """Kendall's tau of a predictor inside the truly best `count`: where weak ones must be good."""
    best = np.argsort(-np.where(np.isnan(test), -np.inf, test), kind="stable")[:count]
    return kendall_tau(np.asarray(scores)[best], test[best])


def principal_axes(features: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m 2"]:
    """The pool on its two principal axes, for pictures."""
    centred = features - features.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, ::-1][:, :2]


def embed(
    features: Float[np.ndarray, "m d"], *, method: str = "pca", seed: int = 0
) -> Float[np.ndarray, "m 2"]:
    """The pool in two dimensions.

    Args:
      features: Of the architectures.
      method: ``"pca"``, or ``"tsne"``, which needs scikit-learn and minutes for a large pool.
      seed: Of t-SNE.

    Raises:
      ConfigError: if scikit-learn is not installed.
    """
    if method == "pca":
        return principal_axes(features)
    manifold: Any = require_sklearn("sklearn.manifold", "t-SNE")
    return manifold.TSNE(random_state=seed, init="pca").fit_transform(features)
