"""Searches to compare with, and the protocol that every search on the host shares.

A `Searcher` is asked for architectures by their index in the pool and told their labels.
It keeps its state in ordinary attributes and draws from one numpy generator, so that a
search is repeated by building it again from the same seed and telling it the same labels.

`weak_predictor_search` of `zoo_jax.optim` searches inside jit; `PredictorSearch` is the same
algorithm for predictors that are no JAX functions, such as trees.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.predictors import Predictor

Neighbours = Callable[[int], Int[np.ndarray, "q"]]
NO_MODEL = -1  # what a search without a predictor gives as its predicted best


class Searcher(Protocol):
    """A search that queries one pool. It never asks for an architecture twice."""

    def ask(self, count: int) -> Int[np.ndarray, "q"]:
        """Returns between 1 and `count` architectures to label next, all of them new."""

    def tell(self, index: Int[np.ndarray, "q"], value: Float[np.ndarray, "q"]) -> None:
        """Takes the labels of what was asked; NaN is a training that failed."""

    def predicted_top(self) -> int:
        """The best architecture of the pool by the model, asked or not; `NO_MODEL` without."""


class _Memory:
    """What all searches here remember: labels by index, and a generator."""

    def __init__(self, size: int, rng: np.random.Generator):
        self._rng = rng
        self._asked: Bool[np.ndarray, "m"] = np.zeros(size, bool)
        self._label: Float[np.ndarray, "m"] = np.full(size, -np.inf)
        self.order: list[int] = []  # as asked

    def tell(self, index: Int[np.ndarray, "q"], value: Float[np.ndarray, "q"]) -> None:
        """Keeps the labels. A failed training ranks below every other."""
        index, value = np.asarray(index), np.asarray(value, np.float64)
        self._asked[index] = True
        self._label[index] = np.where(np.isnan(value), -np.inf, value)
        self.order += index.tolist()

    def predicted_top(self) -> int:
        """These searches have no model unless they say so."""
        return NO_MODEL

    def _uniform(self, count: int) -> Int[np.ndarray, "q"]:
        new = np.flatnonzero(~self._asked)
        return self._rng.choice(new, min(count, len(new)), replace=False)

    def _new(self, candidates: Int[np.ndarray, "q"]) -> Int[np.ndarray, "q"]:
        candidates = np.unique(candidates)
        return candidates[~self._asked[candidates]]

    def _best(self, count: int) -> Int[np.ndarray, "q"]:
        """The best asked so far by label; ties in the order of asking."""
        order = np.asarray(self.order)
        return order[np.argsort(-self._label[order], kind="stable")[:count]]


class RandomSearch(_Memory):
    """Uniform draws without replacement."""

    def ask(self, count: int) -> Int[np.ndarray, "q"]:
        """Draws."""
        return self._uniform(count)


class RegularisedEvolution(_Memory):
    """Tournament selection with ageing: the oldest leaves, however good it is.

    A child is a uniform draw from the architectures one edit away from its parent that were
    not asked yet. Where the winner of a tournament has none left another tournament is held,
    and after `population` of them in vain the child is a uniform draw from the pool.

    Source: arXiv 1802.01548, algorithm 1; its search may evaluate a model again, this one
    does not.
    """

    def __init__(
        self,
        size: int,
        neighbours: Neighbours,
        rng: np.random.Generator,
        *,
        population: int = 20,
        tournament: int = 5,
    ):
        """Starts with `population` uniform draws.

        Args:
          size: Of the pool.
          neighbours: Index -> indices one edit away.
          rng: Of this search alone.
          population: How many live at once.
          tournament: How many of them, drawn with replacement, compete to be the parent.
        """
        super().__init__(size, rng)
        self._neighbours = neighbours
        self._size, self._tournament = population, tournament

    @property
    def population(self) -> list[int]:
        """Who lives, oldest first."""
        return self.order[-self._size :]

    def ask(self, count: int) -> Int[np.ndarray, "q"]:
        """Children of the present population, each of its own tournament."""
        missing = self._size - len(self.order)
        if missing > 0:
            return self._uniform(min(count, missing))
        children: list[int] = []
        while len(children) < count:
            child = self._child(children)
            if child is None:
                break
            children.append(child)
        return np.asarray(children, np.int64)

    def _child(self, siblings: list[int]) -> int | None:
        population = np.asarray(self.population)
        for _ in range(self._size):
            rivals = self._rng.choice(population, self._tournament)
            parent = rivals[np.argmax(self._label[rivals])]
            new = np.setdiff1d(self._new(self._neighbours(int(parent))), siblings)
            if len(new):
                return int(self._rng.choice(new))
        left = np.setdiff1d(np.flatnonzero(~self._asked), siblings)
        return int(self._rng.choice(left)) if len(left) else None


class LocalSearch(_Memory):
    """Moves to the first better neighbour; starts anew where there is none.

    Neighbours are asked in random order. Those that were asked before are known and cost
    nothing.

    Source: arXiv 2004.08996, the variant that does not look at all neighbours first.
    """

    def __init__(self, size: int, neighbours: Neighbours, rng: np.random.Generator):
        """Starts at a uniform draw. Arguments as for `RegularisedEvolution`."""
        super().__init__(size, rng)
        self._neighbours = neighbours
        self.centre: int | None = None  # None: about to start anew

    def ask(self, count: int) -> Int[np.ndarray, "q"]:
        """New neighbours of the centre, or a new start."""
        while self.centre is not None:
            around = np.unique(self._neighbours(self.centre))
            known = around[self._asked[around]]
            if len(known):
                best = int(known[np.argmax(self._label[known])])
                if self._label[best] > self._label[self.centre]:
                    self.centre = best
                    continue
            new = around[~self._asked[around]]
            if len(new):
                return self._rng.permutation(new)[:count]
            self.centre = None
        return self._uniform(1)

    def tell(self, index: Int[np.ndarray, "q"], value: Float[np.ndarray, "q"]) -> None:
        """Moves if one of them is better than the centre."""
        super().tell(index, value)
        best = int(index[np.argmax(self._label[index])])
        if self.centre is None or self._label[best] > self._label[self.centre]:
            self.centre = best


class PredictorSearch(_Memory):
    """A weak predictor search with a predictor of any kind, fitted anew after every tell.

    New queries are uniform draws from the best `top_n` of the pool that were not asked; where
    these are fewer than wanted, the best of the whole ranking that were not asked.

    Source: arXiv 2102.10490, algorithm 1; see `zoo_jax.optim.weak_predictor`.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "m d"],
        predictor: Predictor,
        rng: np.random.Generator,
        *,
        budget: int,
        first: int = 10,
        top_n: int = 100,
    ):
        """Starts with `first` uniform draws.

        Args:
          features: Of every architecture of the pool.
          predictor: Jitted if it is JAX's; it is fitted to `budget` rows always.
          rng: Of this search alone.
          budget: The most labels that it will be told.
          first: How many are drawn before the first fit.
          top_n: See above.
        """
        super().__init__(len(features), rng)
        self._features, self._predictor = features, predictor
        self._budget, self._first, self._top_n = budget, first, top_n
        self._fitted: Any = None  # the predictor's parameters, until the next tell

    def tell(self, index: Int[np.ndarray, "q"], value: Float[np.ndarray, "q"]) -> None:
        """Keeps the labels; the next question needs a new fit."""
        super().tell(index, value)
        self._fitted = None

    def predicted_top(self) -> int:
        """The first of the ranking; ties by index."""
        return int(np.argmax(self._scores()))

    def ask(self, count: int) -> Int[np.ndarray, "q"]:
        """Uniform draws until there is something to fit."""
        if len(self.order) < self._first:
            return self._uniform(min(count, self._first - len(self.order)))
        return self._choose(count)

    def _choose(self, count: int) -> Int[np.ndarray, "q"]:
        ranking = np.argsort(-self._scores(), kind="stable")
        new = ranking[: self._top_n]
        new = new[~self._asked[new]]
        if len(new) >= count:
            return self._rng.choice(new, count, replace=False)
        return ranking[~self._asked[ranking]][:count]

    def _scores(self) -> Float[np.ndarray, "m"]:
        return np.asarray(self._predictor.predict(self._params(), self._features))

    def _params(self) -> Any:
        if self._fitted is None:
            index = np.asarray(self.order)
            value = self._label[index]
            kept = np.isfinite(value)
            # Statistics of what was asked alone: the rest of the table is not known.
            centre = value[kept].mean() if kept.any() else 0.0
            spread = value[kept].std() if kept.any() else 1.0
            inputs = np.zeros((self._budget, self._features.shape[1]), np.float32)
            values, mask = np.zeros((2, self._budget), np.float32)
            inputs[: len(index)] = self._features[index]
            values[: len(index)] = np.where(kept, (value - centre) / (spread or 1.0), 0)
            mask[: len(index)] = kept
            start, fit = jax.random.split(jax.random.key(self._rng.integers(2**31)))
            params = self._predictor.init(start, inputs)
            self._fitted = self._predictor.fit(fit, inputs, values, mask, params)
        return self._fitted


class MutationSearch(PredictorSearch):
    """Bayesian optimisation over mutations of the best, in the manner of BANANAS.

    Candidates are the architectures one edit away from the `parents` best asked. Each query
    is the best candidate under an independent draw from N(mean, deviation) of the predictor.

    Source: arXiv 1910.11858, algorithm 1 with independent Thompson sampling. Its path encoding
    and its ensemble of deep narrow networks are not part of this class: it takes the features of
    the pool and any predictor that knows its doubt (`Predictor.predict_moments`).
    """

    def __init__(
        self,
        features: Float[np.ndarray, "m d"],
        predictor: Predictor,
        neighbours: Neighbours,
        rng: np.random.Generator,
        *,
        budget: int,
        first: int = 10,
        parents: int = 5,
    ):
        """As `PredictorSearch`.

        Raises:
          ConfigError: if the predictor does not know its doubt.
        """
        if predictor.predict_moments is None:
            raise ConfigError(
                "a search over mutations needs a predictor with a deviation: members=5 makes"
                " an ensemble"
            )
        super().__init__(features, predictor, rng, budget=budget, first=first)
        self._neighbours, self._parents = neighbours, parents

    def _choose(self, count: int) -> Int[np.ndarray, "q"]:
        around = [self._neighbours(int(i)) for i in self._best(self._parents)]
        new = self._new(np.concatenate(around))
        if len(new) < count:
            new = np.flatnonzero(~self._asked)
        moments = self._predictor.predict_moments(self._params(), self._features)
        mean, deviation = (np.asarray(part, np.float64)[new] for part in moments)
        chosen: list[int] = []
        for _ in range(min(count, len(new))):
            draw = self._rng.normal(mean, deviation)
            draw[chosen] = -np.inf
            chosen.append(int(np.argmax(draw)))
        return new[chosen]
