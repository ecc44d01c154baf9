"""People's judgements of pairs of pictures: slow ones count less, careless raters not at all.

The protocol is our reading: the challenge asked crowd workers on a Likert scale which of two
pictures is better and let reaction times enter the score, but published no formula.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from zoo_jax.core.errors import DataError
from zoo_jax.core.files import PathLike
from zoo_jax.metrics.bootstrap import cluster_bootstrap

FASTEST_MS = 200  # nobody judges two pictures faster
_FIELDS = {
    "rater": str,
    "pair": str,
    "left": str,
    "right": str,
    "rating": int,
    "reaction_ms": float,
    "identical": bool,
}


class Rating(NamedTuple):
    """One judgement."""

    rater: str
    pair: str  # which picture
    left: str  # what had been done to the picture on the left: "raw", "srnet", ...
    right: str
    rating: int  # -2 (left is much better) to 2 (right is much better)
    reaction_ms: float
    identical: bool  # a check: both sides show the same file


class Preference(NamedTuple):
    """How much better `b` is judged than `a`: from -2 to 2, 0 for no difference."""

    a: str
    b: str
    score: float
    low: float  # 95 % over raters; nan for a single one
    high: float
    votes: int
    raters: int


class RatingSummary(NamedTuple):
    """All pairs of treatments, and what was left out."""

    preferences: tuple[Preference, ...]
    careless: tuple[str, ...]  # raters who saw differences between identical pictures
    too_fast: int  # judgements below `FASTEST_MS`


def read_ratings(paths: Sequence[PathLike]) -> list[Rating]:
    """Reads files as the rating page exports them: lists of objects with the fields of `Rating`.

    Raises:
      DataError: for a file that cannot be read or is another list, fields that are missing or
        wrong, and a judgement that is there twice.
    """
    out: list[Rating] = []
    seen: dict[tuple, str] = {}
    for path in paths:
        for number, entry in enumerate(_read_list(path), 1):
            where = f"{path}, rating {number}"
            rating = _parse(entry, where)
            key = (rating.rater, rating.pair, rating.left, rating.right)
            if key in seen:
                raise DataError(
                    f"{where}: {rating.rater!r} has judged {rating.pair!r} twice, first in"
                    f" {seen[key]}: keep one"
                )
            seen[key] = where
            out.append(rating)
    if not out:
        raise DataError(f"{', '.join(map(str, paths))}: no ratings")
    return out


def evaluate_ratings(
    ratings: Iterable[Rating],
    *,
    fastest_ms: float = FASTEST_MS,
    identical_share: float = 0.5,
    resamples: int = 2000,
    seed: int = 0,
) -> RatingSummary:
    r"""Weighted mean preference for every pair of treatments.

    A judgement v with reaction time t counts with the weight

    .. math:: w = \frac1{1 + \max(0, (t - \operatorname{median}) / \operatorname{MAD})}

    where median and median absolute deviation are those of the rater; MAD = 0 gives w = 1.

    Args:
      ratings: Of any raters and treatments.
      fastest_ms: Judgements that took less are left out before anything else.
      identical_share: A rater who calls fewer than this share of identical pairs equal (0) is
        left out. Raters without such checks stay.
      resamples: Of the bootstrap over raters.
      seed: Of the bootstrap.

    Returns:
      Treatments in the order of their names, with ``"raw"`` first, so that a score above 0
      says that the second is better.

    Raises:
      DataError: if nothing is left.
    """
    ratings = list(ratings)
    kept = [r for r in ratings if r.reaction_ms >= fastest_ms]
    careless = _careless(kept, identical_share)
    judged = [r for r in kept if not r.identical and r.rater not in careless]
    if not judged:
        raise DataError(
            f"none of {len(ratings)} ratings counts: {len(ratings) - len(kept)} took less than"
            f" {fastest_ms:g} ms, and {len(careless)} raters saw differences between identical"
            " pictures"
        )
    weights = _weights(judged)
    by_pair: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for i, rating in enumerate(judged):
        a, b = sorted(
            (rating.left, rating.right), key=lambda name: (name != "raw", name)
        )
        value = rating.rating if rating.right == b else -rating.rating
        by_pair.setdefault((a, b), []).append((i, value))
    preferences = []
    for (a, b), votes in sorted(by_pair.items()):
        raters = [judged[i].rater for i, _ in votes]
        found = cluster_bootstrap(
            np.array([value for _, value in votes]),
            np.array(raters),
            weights=weights[[i for i, _ in votes]],
            resamples=resamples,
            seed=seed,
        )
        preferences.append(Preference(a, b, *found, len(votes), len(set(raters))))
    too_fast = len(ratings) - len(kept)
    return RatingSummary(tuple(preferences), tuple(sorted(careless)), too_fast)


def _careless(ratings: Iterable[Rating], share: float) -> set[str]:
    checks: dict[str, list[bool]] = {}
    for rating in ratings:
        if rating.identical:
            checks.setdefault(rating.rater, []).append(rating.rating == 0)
    return {rater for rater, equal in checks.items() if np.mean(equal) < share}


def _weights(ratings: Sequence[Rating]) -> np.ndarray:
    times = np.array([rating.reaction_ms for rating in ratings])
    raters = np.array([rating.rater for rating in ratings])
    weights = np.ones(len(ratings))
    for rater in np.unique(raters):
        own = raters == rater
        late = times[own] - np.median(times[own])
        mad = np.median(np.abs(late))
        if mad > 0:
            weights[own] = 1 / (1 + np.maximum(late / mad, 0))
    return weights


def _read_list(path: PathLike) -> list[Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from None
    if not isinstance(found, list):
        raise DataError(f"{path}: expected a list of ratings, as the page exports it")
    return found


def _parse(entry: Any, where: str) -> Rating:
    if not isinstance(entry, dict) or not set(_FIELDS) <= set(entry):
        lacking = set(_FIELDS) - set(entry) if isinstance(entry, dict) else _FIELDS
        raise DataError(f"{where}: lacks {', '.join(sorted(lacking))}")
    for name, kind in _FIELDS.items():
        value = entry[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = {
            int: whole,
            float: whole or isinstance(value, float),
            bool: isinstance(value, bool),
            str: isinstance(value, str) and value != "",
        }[kind]
        if not fits:
            raise DataError(
                f"{where}: {name} must be of type {kind.__name__}, got {value!r}"
            )
    rating = Rating(*(entry[name] for name in _FIELDS))
    if not -2 <= rating.rating <= 2:
        raise DataError(f"{where}: rating must lie in -2..2, got {rating.rating}")
    if not (np.isfinite(rating.reaction_ms) and rating.reaction_ms >= 0):
        raise DataError(f"{where}: reaction_ms is {rating.reaction_ms}")
    if rating.left == rating.right and not rating.identical:
        raise DataError(
            f"{where}: both sides are {rating.left!r}, but it is no identical pair"
        )
    return rating
