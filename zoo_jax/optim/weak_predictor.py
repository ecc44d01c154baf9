"""Search by weak predictors: fit to what is measured, measure what is predicted best."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import make_key, step_key
from zoo_jax.core.types import Key, Params
from zoo_jax.optim import weak_predictor_sampling as sampling
from zoo_jax.optim.predictors.protocol import Predictor, num_rows
from zoo_jax.optim.weak_predictor_relaxed import scale_by_weak_predictor
from zoo_jax.optim.weak_predictor_runs import History, run_searches
from zoo_jax.optim.weak_predictor_sampling import geometric_top_n
from zoo_jax.optim.weak_predictor_state import (
    Buffer,
    Normalise,
    check_normalise,
    empty_buffer,
    fit_buffer,
    fit_sizes,
    normalised,
    record,
)

__all__ = [
    "History",
    "WeakPredictorSearch",
    "WeakPredictorState",
    "geometric_top_n",
    "run_searches",
    "scale_by_weak_predictor",
    "weak_predictor_search",
]

Policy = Literal["uniform", "greedy", "ei", "ucb", "thompson"]
Keep = Literal["all", "top", "none"]
_CHUNK = 4096  # rows of the pool predicted at a time


class WeakPredictorState(NamedTuple):
    """State of `weak_predictor_search`; fixed shapes, arrays only."""

    count: Int[Array, ""]  # labels told, int32
    key: Key  # of the run, never changed
    queried: Bool[Array, "m"]  # told, or of a class that was
    buffer: Buffer  # indices int32 [budget] in order, their labels, what a fit may see
    predictor_params: Params  # of the last fit
    ranking: Int[Array, "n"]  # its best, best first, n the largest top_n; -1 before it
    best_index: Int[Array, ""]  # of the highest label told; -1 before it
    best_value: Float[Array, ""]  # that label; -inf before it


class WeakPredictorSearch(optax.GradientTransformationExtraArgs):
    """What `weak_predictor_search` returns: ``init`` and ``update``, and what a loop needs."""

    initial_params: Callable[[Key], dict[str, Any]]
    first: int
    batch: int
    budget: int
    top_n: tuple[int, ...]  # of each fit

    @property
    def num_asks(self) -> int:
        """How many batches are asked until the budget is spent."""
        return -(-self.first // self.batch) - (
            -(self.budget - self.first) // self.batch
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many labels each fit has been told."""
        steps = range(self.first, self.budget + self.batch, self.batch)
        return tuple(min(n, self.budget) for n in steps)


def weak_predictor_search(
    inputs: Any,
    predictor: Predictor,
    *,
    budget: int,
    first: int = 10,
    batch: int = 10,
    top_n: int | Callable[[int], int] = 100,
    policy: Policy = "uniform",
    keep: Keep = "all",
    classes: np.ndarray | None = None,
    warm_start: bool = False,
    normalise: Normalise = "buffer",
    ties: Literal["index", "random"] = "index",
    ucb_factor: float = 0.5,
    reference_ei: bool = False,
    seed: int = 0,
) -> WeakPredictorSearch:
    """Finds the best of a pool with few labels. Ask = params, tell = ``value``.

    ::

        params = search.initial_params(key)             # {"index": int32 [batch]}
        state = search.init(params, key)
        for _ in range(search.num_asks):
            value = measure(params["index"])            # float [batch]
            updates, state = search.update(None, state, params, value=value)
            params = optax.apply_updates(params, updates)

    `first` labels are uniform draws from the pool. From then on each update fits the
    predictor to all labels told, ranks the whole pool, and asks for the next batch by
    `policy`. The updates are next minus present index, so integers stay exact. An index of -1
    asks for nothing (`batch` reaches past `first` or `budget`); its value is ignored. A value
    that is not finite stands for a failed measurement: counted, never fitted, never best.
    Once `budget` labels are told, updates are zero and the state stays as it is.

    Args:
      inputs: Of the predictor, for the whole pool: leading axis m.
      predictor: See `zoo_jax.optim.predictors`.
      budget: Labels to spend, those of `first` included.
      first: Random labels before the first fit.
      batch: Labels per update.
      top_n: N: how far down the ranking ``"uniform"`` draws and ``keep="top"`` keeps. A
        number, or a function of how many fits came before (`geometric_top_n`).
      policy: ``"uniform"``: among the first N not yet asked; if fewer than a batch, the first
        of the whole ranking. ``"greedy"``: the first not yet asked. ``"ei"``, ``"ucb"``: those
        of highest expected improvement or mean + `ucb_factor` deviations.
        ``"thompson"``: the best of a member drawn for each slot; needs an ensemble.
      keep: What later fits see: ``"all"``, those still among the first N (``"top"``), or the
        last batch alone (``"none"``). What left is not asked again.
      classes: Isomorphism class of each item [m]. A query then answers its whole class.
      warm_start: Start a fit from the weights of the last one.
      normalise: See `weak_predictor_state.normalised`.
      ties: Order of equal predictions: by index, or at random.
      ucb_factor: Of ``"ucb"``.
      reference_ei: The published code's expected improvement, wrong sign included.
      seed: Of the key, where `init` gets none.

    Returns:
      An optax transformation; further keywords of ``update`` are ignored. ``init`` takes a
      key beside the params; `initial_params` draws the first batch from the same key.

    Raises:
      ConfigError: for unknown names and numbers that do not fit each other or the pool.

    Source: arXiv 2102.10490, alg. 1 and published code; the defaults are its settings for
    NAS-Bench-201. Deviations: labels are normalised by those seen, not by the whole table
    (``normalise``); what `keep` drops is not asked again.

    >>> from zoo_jax.optim.predictors import gp_predictor
    >>> pool = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    >>> search = weak_predictor_search(
    ...     pool, gp_predictor(), budget=12, first=4, batch=2, top_n=5)
    >>> params = search.initial_params(jax.random.key(0))
    >>> state = search.init(params, jax.random.key(0))
    >>> for _ in range(search.num_asks):
    ...     value = -jnp.square(jnp.asarray(pool)[params["index"], 0] - 0.3)
    ...     updates, state = search.update(None, state, params, value=value)
    ...     params = optax.apply_updates(params, updates)
    >>> round(float(pool[state.best_index, 0]), 1)
    0.3
    """
    inputs = jax.tree.map(jnp.asarray, inputs)
    m = num_rows(inputs)
    class_of = None if classes is None else _dense_classes(classes, m)
    distinct = m if class_of is None else int(class_of.max()) + 1
    _check(budget, first, batch, distinct, policy, keep, predictor, ties)
    check_normalise(normalise)
    num_fits = 1 - (-(budget - first) // batch)
    table = _top_table(top_n, num_fits, m)
    longest = max(table)
    sizes = fit_sizes(first, budget, batch)
    one_index = jax.ShapeDtypeStruct((), jnp.int32)
    predict = _chunked(_prediction(predictor, policy), inputs, m)

    def class_table():
        return None if class_of is None else jnp.asarray(class_of)

    def inputs_of(index):
        return jax.tree.map(lambda leaf: leaf[index], inputs)

    def ask_size(count):
        """How many of the batch asked at this count are real."""
        in_first = jnp.minimum(batch, first - count)
        later = jnp.minimum(batch, budget - count)
        return jnp.where(count < first, in_first, later)

    def draw(key, queried, count):
        order = jnp.arange(m, dtype=jnp.int32)
        if class_of is not None:  # so that the first of a class is a random one
            order = jax.random.permutation(jax.random.fold_in(key, 0), order)
        is_open = sampling.open_positions(order, queried, class_table())
        key, size = jax.random.fold_in(key, 1), ask_size(count)
        return sampling.choose_uniform(key, order, is_open, m, size, batch)

    def initial_params(key):
        nobody = jnp.zeros(m, bool)
        return {"index": draw(step_key(key, 0), nobody, jnp.zeros((), jnp.int32))}

    def init_fn(params, key=None):
        _check_params(params, batch)
        template = predictor.init(make_key(0), inputs_of(jnp.zeros(budget, jnp.int32)))
        return WeakPredictorState(
            count=jnp.zeros((), jnp.int32),
            key=make_key(seed) if key is None else key,
            queried=jnp.zeros(m, bool),
            buffer=empty_buffer(budget, one_index),
            predictor_params=template,
            ranking=jnp.full(longest, -1, jnp.int32),
            best_index=jnp.full((), -1, jnp.int32),
            best_value=jnp.full((), -jnp.inf, jnp.float32),
        )

    def tell(state, index, value):
        slots = jnp.arange(batch)
        valid = (slots < ask_size(state.count)) & (index >= 0)
        good = jnp.where(valid & jnp.isfinite(value), value, -jnp.inf)
        top = jnp.argmax(good)
        better = good[top] > state.best_value
        buffer = state.buffer
        if keep == "none":
            is_old = state.count >= first
            buffer = buffer._replace(mask=buffer.mask & ~is_old)
        return state._replace(
            count=state.count + jnp.sum(valid, dtype=jnp.int32),
            queried=sampling.close(
                state.queried, jnp.where(valid, index, -1), class_table()
            ),
            buffer=record(buffer, index, value, valid, state.count),
            best_index=jnp.where(better, index[top], state.best_index),
            best_value=jnp.where(better, good[top], state.best_value),
        )

    def ask_random(state):
        return draw(step_key(state.key, state.count), state.queried, state.count), state

    def ask_predictor(state):
        key = step_key(state.key, state.count)
        params = fit_buffer(
            predictor,
            jax.random.fold_in(key, 0),
            state.buffer,
            inputs_of,
            state.predictor_params,
            count=state.count,
            sizes=sizes,
            normalise=normalise,
            warm_start=warm_start,
        )
        predictions = predict(params)
        mean = _mean(predictions, policy)
        tie_key = jax.random.fold_in(key, 1) if ties == "random" else None
        order = sampling.rank(mean, tie_key)
        fits_before = -(-(state.count - first) // batch)
        top = jnp.array(table, jnp.int32)[fits_before]
        buffer = state.buffer
        if keep == "top":
            in_top = jnp.zeros(m, bool).at[order].set(jnp.arange(m) < top)
            buffer = buffer._replace(mask=buffer.mask & in_top[buffer.items])
        chosen = choose(
            jax.random.fold_in(key, 2), state, predictions, order, tie_key, top
        )
        return chosen, state._replace(
            predictor_params=params, ranking=order[:longest], buffer=buffer
        )

    def choose(key, state, predictions, order, tie_key, top):
        size = ask_size(state.count)
        if policy == "thompson":
            return sampling.choose_thompson(
                key, predictions, state.queried, class_table(), size, batch
            )
        if policy in ("ei", "ucb"):
            mean, deviation = predictions
            order = sampling.rank(acquisition(state, mean, deviation), tie_key)
        is_open = sampling.open_positions(order, state.queried, class_table())
        if policy == "uniform":
            return sampling.choose_uniform(key, order, is_open, top, size, batch)
        return sampling.choose_first(order, is_open, size, batch)

    def acquisition(state, mean, deviation):
        if policy == "ucb":
            return sampling.upper_confidence_bound(mean, deviation, factor=ucb_factor)
        values, mask = state.buffer.values, state.buffer.mask
        labels = normalised(values, mask, normalise)
        if reference_ei:
            worst = jnp.min(jnp.where(mask, labels, jnp.inf))
            return sampling.published_expected_improvement(mean, deviation, worst)
        best = jnp.max(jnp.where(mask, labels, -jnp.inf))
        return sampling.expected_improvement(mean, deviation, best)

    def update_fn(updates, state, params=None, *, value=None, **extra):
        del updates, extra
        if params is None or value is None:
            raise ValueError(
                "weak_predictor_search needs params and value: "
                "search.update(None, state, params, value=labels)"
            )
        _check_params(params, batch)
        index = params["index"]
        value = jnp.asarray(value, jnp.float32)
        if value.shape != index.shape:
            raise ValueError(f"value needs shape {index.shape}, got {value.shape}")

        def go_on(state):
            state = tell(state, index, value)
            # The first labels need no predictor: they are drawn blindly.
            following, state = lax.cond(
                state.count < first, ask_random, ask_predictor, state
            )
            spent = state.count >= budget
            return jnp.where(spent, index, following.astype(index.dtype)), state

        spent = state.count >= budget
        following, state = lax.cond(spent, lambda s: (index, s), go_on, state)
        return {"index": following - index}, state

    search = WeakPredictorSearch(init_fn, update_fn)
    search.initial_params = initial_params
    search.first, search.batch, search.budget = first, batch, budget
    search.top_n = table
    return search


def _prediction(predictor: Predictor, policy: Policy) -> Callable[[Params, Any], Any]:
    if policy in ("ei", "ucb"):
        return predictor.predict_moments
    return predictor.predict_members if policy == "thompson" else predictor.predict


def _mean(predictions: Any, policy: Policy) -> Float[Array, "m"]:
    if policy in ("ei", "ucb"):
        return predictions[0]
    return jnp.mean(predictions, axis=0) if policy == "thompson" else predictions


def _chunked(predict: Callable[[Params, Any], Any], inputs: Any, m: int):
    """`predict` over the pool, a few thousand rows at a time.

    So that activations fit a cache, and a pool of 400,000 the memory.
    """
    if m <= _CHUNK:
        return lambda params: predict(params, inputs)
    chunks = -(-m // _CHUNK)
    rows = -(-m // chunks)

    def split(leaf):
        padded = jnp.pad(leaf, [(0, rows * chunks - m)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(chunks, rows, *leaf.shape[1:])

    parts = jax.tree.map(split, inputs)

    def join(leaf):  # chunks (e) rows -> (e) m
        leaf = jnp.moveaxis(leaf, 0, -2)
        return leaf.reshape(*leaf.shape[:-2], chunks * rows)[..., :m]

    return lambda params: jax.tree.map(
        join, lax.map(lambda part: predict(params, part), parts)
    )


def _dense_classes(classes: Any, m: int) -> np.ndarray:
    classes = np.asarray(classes)
    if classes.shape != (m,):
        raise ConfigError(
            f"classes needs one number per item ({m}), got {classes.shape}"
        )
    return np.unique(classes, return_inverse=True)[1].astype(np.int32)


def _top_table(top_n: Any, num_fits: int, m: int) -> tuple[int, ...]:
    schedule = top_n if callable(top_n) else lambda fit: top_n
    table = tuple(int(schedule(fit)) for fit in range(num_fits))
    if min(table) < 1:
        raise ConfigError(f"top_n must be 1 or more at every fit, got {min(table)}")
    return tuple(min(n, m) for n in table)


def _check(budget, first, batch, distinct, policy, keep, predictor, ties) -> None:
    if batch < 1 or first < 1 or budget < first:
        raise ConfigError(
            "a search needs batch >= 1 and 1 <= first <= budget, got "
            f"batch={batch}, first={first}, budget={budget}"
        )
    if budget > distinct:
        raise ConfigError(
            f"budget={budget} exceeds the {distinct} distinct items of the pool: lower it"
        )
    if batch > distinct:
        raise ConfigError(f"batch={batch} exceeds the {distinct} items of the pool")
    names = {"policy": (policy, Policy), "keep": (keep, Keep)}
    names["ties"] = (ties, Literal["index", "random"])
    for name, (got, known) in names.items():
        if got not in get_args(known):
            raise ConfigError(
                f"unknown {name} {got!r}: {closest(got, get_args(known))}"
            )
    if _prediction(predictor, policy) is None:
        kind = "an ensemble" if policy == "thompson" else "an ensemble or gp_predictor"
        raise ConfigError(f"policy {policy!r} needs {kind}: it asks for the spread")


def _check_params(params: Any, batch: int) -> None:
    index = params.get("index") if isinstance(params, dict) else None
    if index is None or index.shape != (batch,) or index.dtype.kind != "i":
        raise ValueError(
            f"params must be {{'index': int32 [{batch}]}} (search.initial_params), got "
            f"{jax.tree.map(jnp.shape, params)}"
        )
