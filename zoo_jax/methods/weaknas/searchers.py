"""Searches from the sections of a config: predictors and methods by their names."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import Key
from zoo_jax.methods.weaknas import baselines, trees
from zoo_jax.methods.weaknas.evaluation import Record, run_searcher
from zoo_jax.methods.weaknas.spaces import Pool
from zoo_jax.optim import predictors
from zoo_jax.optim.weak_predictor import run_searches, weak_predictor_search

PREDICTORS: dict[str, Callable[..., predictors.Predictor]] = {
    "mlp": predictors.mlp_predictor,
    "gp": predictors.gp_predictor,
    "gcn": predictors.gcn_predictor,
    "gradient_boosting": trees.gradient_boosting,
    "random_forest": trees.random_forest,
}
TREES = ("gradient_boosting", "random_forest")

# Method -> (searcher on the host, how many it asks for at once; 0: the batch of the config).
# One at a time is to their advantage: they hear of every label before they ask again.
METHODS: dict[str, tuple[Callable[..., baselines.Searcher], int]] = {
    "random": (baselines.RandomSearch, 1),
    "evolution": (baselines.RegularisedEvolution, 1),
    "local_search": (baselines.LocalSearch, 1),
    "mutations": (baselines.MutationSearch, 0),
    "weak_predictor": (baselines.PredictorSearch, 0),  # with trees; else inside jit
}

RunAll = Callable[[Sequence[Key]], Record]


class Budget(NamedTuple):
    """How many labels a search may have, and in what portions."""

    budget: int
    first: int  # before the first fit
    batch: int  # at a time, afterwards

    @property
    def queries(self) -> np.ndarray:
        """After how many labels predictors are fitted, and something is recorded."""
        return np.arange(self.first, self.budget + 1, self.batch)


def make_predictor(section: Mapping[str, Any]) -> predictors.Predictor:
    """Builds a predictor.

    Args:
      section: ``name`` (a key of `PREDICTORS`), its arguments, and ``members``: two or more
        make an ensemble.

    Raises:
      ConfigError: for an unknown name or argument.
    """
    options = dict(section)
    name, members = options.pop("name", None), options.pop("members", 1)
    if name not in PREDICTORS:
        raise ConfigError(f"unknown predictor {name!r}: {closest(name, PREDICTORS)}")
    build = PREDICTORS[name]
    _check(options, inspect.signature(build).parameters, f"predictor {name!r}")
    if members == 1:
        return build(**options)
    if name in TREES:
        raise ConfigError(
            f"predictor {name!r} has no members: it is an ensemble itself"
        )
    return predictors.ensemble(build(**options), members)


def make_runner(section: Mapping[str, Any], pool: Pool, label: str) -> RunAll:
    """Builds what runs one method on a pool.

    Args:
      section: ``method`` (a key of `METHODS`), ``budget``, ``first``, ``batch``, and the
        method's arguments; ``predictor`` is a section for `make_predictor`.
      pool: What is searched.
      label: Which of its labels the search is told.

    Returns:
      Keys -> the record of one search per key; a key gives the same search every time.

    Raises:
      ConfigError: for anything unknown, or a budget that does not fit the pool.
    """
    options = dict(section)
    method = options.pop("method", None)
    if method not in METHODS:
        raise ConfigError(
            f"unknown search method {method!r}: {closest(method, METHODS)}"
        )
    if label not in pool.labels:
        raise ConfigError(
            f"{pool.name} has no label {label!r}: {closest(label, pool.labels)}"
        )
    budget = read_budget(options)
    if budget.budget > len(pool):
        raise ConfigError(
            f"budget={budget.budget} exceeds the {len(pool)} architectures of {pool.name}"
        )
    options = {n: v for n, v in options.items() if n not in Budget._fields}
    predictor = options.get("predictor", {})
    if method == "weak_predictor" and predictor.get("name") not in TREES:
        return _inside_jit(options, pool, pool.labels[label], budget)
    return _on_host(method, options, pool, pool.labels[label], budget)


def read_budget(section: Mapping[str, Any]) -> Budget:
    """The budget in the section of a searcher.

    Raises:
      ConfigError: if a part is missing, or they do not fit each other.
    """
    for name in Budget._fields:
        value = section.get(name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"a search needs {name} of 1 or more, got {value!r}")
    budget = Budget(*(section[name] for name in Budget._fields))
    if budget.budget < budget.first:
        raise ConfigError(f"budget={budget.budget} must reach first={budget.first}")
    if (budget.budget - budget.first) % budget.batch:
        raise ConfigError(
            f"budget={budget.budget} less first={budget.first} must be a multiple of"
            f" batch={budget.batch}"
        )
    return budget


def _inside_jit(
    options: dict[str, Any], pool: Pool, labels: np.ndarray, budget: Budget
) -> RunAll:
    section = options.pop("predictor", {})
    predictor = make_predictor(section)
    inputs = _inputs(section["name"], pool)
    if options.get("top_n") == "all":  # uniform draws: the predictor chooses nothing
        options["top_n"] = len(pool)
    if options.pop("by_class", False):
        if pool.classes is None:
            raise ConfigError(f"by_class: {pool.name} does not know its classes")
        options["classes"] = pool.classes
    allowed = inspect.signature(weak_predictor_search).parameters
    _check(options, allowed, "method 'weak_predictor'")
    search = weak_predictor_search(inputs, predictor, **budget._asdict(), **options)

    def run(keys: Sequence[Key]) -> Record:
        history = jax.device_get(run_searches(search, labels, jnp.stack(keys)))
        return Record(history.asked, budget.queries, history.predicted_top)

    return run


def _on_host(
    method: str,
    options: dict[str, Any],
    pool: Pool,
    labels: np.ndarray,
    budget: Budget,
) -> RunAll:
    build, batch = METHODS[method]
    wanted = inspect.signature(build).parameters
    given: dict[str, Any] = {
        "size": len(pool),
        "features": pool.features,
        "neighbours": pool.neighbours,
        "budget": budget.budget,
        "first": budget.first,
    }
    given = {name: value for name, value in given.items() if name in wanted}
    if "neighbours" in given and pool.neighbours is None:
        raise ConfigError(
            f"method {method!r} needs the neighbours of an architecture, and edits lead out"
            f" of {pool.name}: choose a method that needs none"
        )
    if "predictor" in wanted:
        section = options.pop("predictor", {})
        given["predictor"] = _jitted(section, make_predictor(section))
    _check(options, wanted.keys() - given.keys() - {"rng"}, f"method {method!r}")

    def run(keys: Sequence[Key]) -> Record:
        asked, tops = [], []
        for key in keys:
            rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
            one = run_searcher(
                build(rng=rng, **given, **options),
                labels,
                budget=budget.budget,
                batch=batch or budget.batch,
                queries=budget.queries,
            )
            asked.append(one[0])
            tops.append(one[1])
        return Record(np.stack(asked), budget.queries, np.stack(tops))

    return run


def _inputs(predictor: str, pool: Pool) -> Any:
    if predictor != "gcn":
        return pool.features
    if pool.graph is None:
        raise ConfigError(f"predictor 'gcn' needs graphs, which {pool.name} has not")
    return pool.graph.adjacency, pool.graph.ops


def _jitted(
    section: Mapping[str, Any], predictor: predictors.Predictor
) -> predictors.Predictor:
    if section["name"] in TREES:
        return predictor
    return predictors.Predictor(*(f and jax.jit(f) for f in predictor))


def _check(options: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    for key in options:
        if key not in allowed:
            raise ConfigError(
                f"{where} has no argument {key!r}: {closest(key, allowed)}"
            )
