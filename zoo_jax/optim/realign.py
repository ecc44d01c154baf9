"""Realigns the gradients of several loss terms: a link for the front of any optax chain."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.core.types import Params
from zoo_jax.optim.masks import mask
from zoo_jax.optim.realign_rules import (
    Normalize,
    Rule,
    check_rule,
    coefficients,
    update_targets,
)


class RealignState(NamedTuple):
    """What `realign_gradients` carries. Averages are over the last steps that had pairs."""

    count: Int[Array, ""]  # updates so far
    seen: Int[Array, ""]  # updates with a pair of gradients that can be compared
    conflict: Float[Array, ""]  # average share of conflicting pairs
    cosine: Float[Array, ""]  # average cosine
    kept: Int[Array, ""]  # examples kept so far, all steps together
    dropped: Int[Array, ""]  # examples dropped by the gate so far
    nonfinite: Int[Array, ""]  # examples dropped for a NaN or an infinity so far
    targets: Float[Array, "k k"]  # of gradvac; [0, 0] with other rules


def realign_gradients(
    *,
    term_axis: int | None = None,
    example_axis: int | None = None,
    rule: Rule = "pcgrad",
    gamma: float | optax.Schedule | None = None,
    quantile: float | optax.Schedule | None = None,
    shared: str | Iterable[str] | None = None,
    normalize: Normalize = "kept",
    eps: float = 1e-12,
    decay: float = 0.99,
    num_terms: int | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Makes one gradient of those of several terms, so that none works against another.

    Must be the first link of a chain. It takes leaves with one leading axis, the terms, as
    ``Player.gradient = "per_term"`` makes them, and gives leaves shaped like the parameters. With
    ``example_axis=0`` leaves are [examples, terms, ...] (``"per_example_term"``): each example's
    gradients are realigned with each other, and then added up.

    Inner products are taken in float32 over the shared parameters alone. The others, which one
    term moves, get that term's gradient (of the kept examples). A batch in which the gate
    keeps nothing gives exact zeros; `skip_when_empty` then leaves the optimiser alone. A gradient
    that is not finite drops its example; if no example is left the result is NaN, so that the
    training loop sees it.

    Not to be put behind `optax.MultiSteps` or into an inner chain that averages before it: the
    rules are not linear. For networks whose gradients per example do not fit into memory see
    `zoo_jax.optim.harmonized`.

    Args:
      term_axis: The axis of the terms; by default the first that is not `example_axis`.
      example_axis: The axis of the examples, if there is one.
      rule: ``"pcgrad"`` (its two-term form is what we take the paper to do), ``"gradvac"``,
        ``"upgrad"``, ``"cagrad"``, ``"mgda"``, or ``"none"``: add up what the gate keeps.
      gamma: Drop examples whose lowest cosine between two terms is below this; a number or a
        schedule of this link's own count of updates. None does not gate.
      quantile: Or drop this share of the examples, those with the lowest cosines.
      shared: Path patterns (`zoo_jax.optim.masks`) of the shared parameters. By default those
        that two or more terms move in this batch.
      normalize: After dropping divide by the ``"kept"`` examples, or by all of the ``"batch"``.
      eps: See `coefficients`.
      decay: Of the averages in the state.
      num_terms: How many terms there are; only gradvac needs it, for its state.
      seed: Of the orders in which pcgrad and gradvac meet more than two terms.

    Raises:
      ConfigError: for a rule or an option that does not fit; at `init` for patterns that match
        nothing.

    Source: arXiv 2211.02077 (its gate, and realignment per example), and the papers of the rules.

    >>> tx = realign_gradients()
    >>> params = {"w": jnp.zeros(2)}
    >>> terms = {"w": jnp.array([[1.0, 0.0], [-1.0, 1.0]])}
    >>> updates, state = tx.update(terms, tx.init(params), params)
    >>> updates["w"].tolist(), float(state.conflict)
    ([0.5, 1.5], 1.0)
    """
    check_rule(rule)
    if normalize not in ("kept", "batch"):
        raise ConfigError(f"normalize is 'kept' or 'batch', got {normalize!r}")
    if gamma is not None and quantile is not None:
        raise ConfigError("the gate takes gamma or quantile, not both")
    if rule == "gradvac" and num_terms is None:
        raise ConfigError("gradvac keeps a target per pair of terms: give num_terms")
    if term_axis is None:
        term_axis = 1 if example_axis == 0 else 0
    if term_axis == example_axis:
        raise ConfigError(f"term_axis and example_axis are both {term_axis}")
    patterns = [shared] if isinstance(shared, str) else shared
    patterns = None if patterns is None else tuple(patterns)
    size = num_terms if rule == "gradvac" else 0

    def examples_first(leaf: Array) -> Float[Array, "b k *shape"]:
        if example_axis is None:
            return jnp.moveaxis(leaf, term_axis, 0)[None]
        return jnp.moveaxis(leaf, (example_axis, term_axis), (0, 1))

    def init(params: Params) -> RealignState:
        if patterns is not None:
            mask(params, patterns)
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        targets = jnp.zeros((size, size))
        return RealignState(none, none, zero, zero, none, none, none, targets)

    def update(
        updates: Params,
        state: RealignState,
        params: Params = None,
        *,
        valid: Bool[Array, "b k"] | None = None,
        **extra: Any,
    ) -> tuple[Params, RealignState]:
        del extra
        leaves = jax.tree.map(examples_first, updates)
        grams = jax.tree.map(_gram, leaves)
        if patterns is None:
            marked = jax.tree.map(_moved_by_several, grams)
        else:
            marked = mask(updates, patterns)
        gram = sum(
            jnp.where(is_shared, g, 0)
            for is_shared, g in zip(
                jax.tree.leaves(marked), jax.tree.leaves(grams), strict=True
            )
        )
        if size and gram.shape[-1] != size:
            raise ConfigError(f"num_terms={size}, but there are {gram.shape[-1]} terms")
        found = coefficients(
            gram,
            rule=rule,
            gamma=_at(gamma, state.count),
            quantile=_at(quantile, state.count),
            valid=valid,
            targets=state.targets if size else None,
            key=jax.random.fold_in(make_key(seed), state.count),
            normalize=normalize,
            eps=eps,
        )

        def combine(leaf, is_shared, like):
            weights = jnp.where(is_shared, found.shared, found.single[:, None])
            return _combine(leaf, weights).astype(like.dtype)

        likes = updates if params is None else params
        out = jax.tree.map(combine, leaves, marked, likes)
        targets = state.targets
        if size:
            targets = update_targets(targets, found.cosines, found.known)
        return out, _counted(state, found.statistics, targets, decay)

    return optax.GradientTransformationExtraArgs(init, update)


class SkipState(NamedTuple):
    """What `skip_when_empty` carries."""

    inner: Any  # state of the optimiser
    skipped: Int[Array, ""]  # updates that were empty


def skip_when_empty(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Leaves an optimiser alone when its gradient is exactly zero everywhere.

    Adam would otherwise move by its old moments and let them decay, and weight decay would act,
    although the batch said nothing. For use behind `realign_gradients`, or around everything
    where a `zoo_jax.optim.harmonized.Harmonizer` makes the gradient.

    >>> tx = skip_when_empty(optax.sgd(1.0, momentum=0.9))
    >>> params = {"w": jnp.zeros(1)}
    >>> _, state = tx.update({"w": jnp.ones(1)}, tx.init(params), params)
    >>> updates, state = tx.update({"w": jnp.zeros(1)}, state, params)
    >>> float(updates["w"][0]), int(state.skipped)
    (0.0, 1)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> SkipState:
        return SkipState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(updates, state: SkipState, params: Params = None, **extra):
        # NaN is not zero: it goes on, for the training loop to see.
        nonzero = [jnp.any(leaf != 0) for leaf in jax.tree.leaves(updates)]
        some = jnp.any(jnp.stack(nonzero))
        moved, after = inner.update(updates, state.inner, params, **extra)
        moved = jax.tree.map(lambda u: jnp.where(some, u, 0), moved)
        after = jax.tree.map(lambda a, b: jnp.where(some, a, b), after, state.inner)
        return moved, SkipState(after, state.skipped + ~some)

    return optax.GradientTransformationExtraArgs(init, update)


def realign_state(opt_state: Any) -> RealignState:
    """Finds the state of `realign_gradients` in that of an optimiser.

    Raises:
      ValueError: if there is none, or more than one.
    """
    found = [
        leaf
        for leaf in jax.tree.leaves(
            opt_state, is_leaf=lambda node: isinstance(node, RealignState)
        )
        if isinstance(leaf, RealignState)
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} links of this optimiser realign gradients")
    return found[0]


def _gram(leaf: Float[Array, "b k *shape"]) -> Float[Array, "b k k"]:
    leaf = leaf.astype(jnp.float32)
    k = leaf.shape[1]
    axes = tuple(range(1, leaf.ndim - 1))
    # One fused pass over all pairs; a matrix product with k rows is not faster.
    upper = {
        (i, j): jnp.sum(leaf[:, i] * leaf[:, j], axes)
        for i in range(k)
        for j in range(i, k)
    }
    rows = [
        jnp.stack([upper[min(i, j), max(i, j)] for j in range(k)], -1) for i in range(k)
    ]
    return jnp.stack(rows, -2)


def _moved_by_several(gram: Float[Array, "b k k"]) -> Bool[Array, ""]:
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    return jnp.sum(jnp.any(squares != 0, 0)) >= 2


def _combine(
    leaf: Float[Array, "b k *shape"], weights: Float[Array, "b k"]
) -> Float[Array, "*shape"]:
    """The weighted sum; what has weight 0 may be NaN."""
    weights = weights.reshape(*weights.shape, *[1] * (leaf.ndim - 2))
    total = 0
    for i in range(leaf.shape[1]):
        w = weights[:, i]
        total = total + jnp.sum(jnp.where(w != 0, w * leaf[:, i], 0), 0)
    return total


def _at(value: float | optax.Schedule | None, step: Array) -> Any:
    return value(step) if callable(value) else value


def _counted(state: RealignState, found: Any, targets: Array, decay: float):
    compared = found.pairs > 0
    # The plain mean of the first steps, then a moving average.
    rate = jnp.maximum(1 / (state.seen + 1), 1 - decay) * compared

    def add(total, number):
        return total + number.astype(jnp.int32)

    return RealignState(
        count=optax.safe_increment(state.count),
        seen=state.seen + compared,
        conflict=state.conflict + rate * (found.conflict - state.conflict),
        cosine=state.cosine + rate * (found.cosine - state.cosine),
        kept=add(state.kept, found.kept),
        dropped=add(state.dropped, found.dropped),
        nonfinite=add(state.nonfinite, found.nonfinite),
        targets=targets,
    )
