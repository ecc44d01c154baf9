"""Ways through the towers of a `Cut`: each gives features, then Gram matrices, then a gradient.

A sweep returns the features of its towers and a function ``measure(cotangents)``, where the
cotangents are those of the features for each term. That returns the Gram matrices [g, k, k] and a
function that turns `Coefficients` into the gradient. Each step keeps what the next one needs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Params
from zoo_jax.optim import ghost
from zoo_jax.optim.cut import Cut, replaced, zeros_of
from zoo_jax.optim.examples import each, gram_of, in_chunks, rows
from zoo_jax.optim.realign_rules import Coefficients

Cotangents = list[dict[str, Array]]  # term -> tower -> [b, ...]
Combine = Callable[[Coefficients], Params]
Measure = Callable[[Cotangents], tuple[Float[Array, "g k k"], Combine]]
Sweep = tuple[dict[str, Array], Measure]
Pull = Callable[[Array], Mapping[str, Array]]


def by_embedding(cut: Cut) -> Sweep:
    """Products of the cotangents of features that several terms read. One backward pass.

    A tower that one term reads may have parameters of its own beside shared ones, and these have
    other weights. It still goes back once where its layers can be tapped: with the weights of the
    shared ones, and the gradients of its own are divided by these, example by example.
    """
    traced = _traced(cut)
    features, pulls = _forward(cut, but=traced)
    features |= {name: tower.features for name, tower in traced.items()}
    several = [name for name in cut.towers if len(cut.terms(name)) >= 2]

    def measure(cotangents: Cotangents):
        gram = _filled(gram_of(cotangents, several), cut)

        def combine(found: Coefficients) -> Params:
            out = _pull(cut, pulls, cotangents, found)
            if traced:
                for name, g in _pull_traced(cut, traced, cotangents, found).items():
                    out[name] = out.get(name, 0.0) + g
            return zeros_of(cut.params, out)

        return gram, combine

    return features, measure


def by_scan(cut: Cut, *, chunk: int = 0) -> Sweep:
    """Gradients of a few examples at a time, for their products only; then one backward pass."""
    features, pulls = _forward(cut)

    def measure(cotangents: Cotangents):
        def one(arguments):
            example, key, cotangents = arguments
            gradients: list[dict[str, Array]] = [{} for _ in cut.reads]
            for name, tower in cut.towers.items():
                names = cut.counted & cut.leaves[name]
                if not names:
                    continue

                def run(some, tower=tower):
                    return tower(replaced(cut.params, some), example, key)

                flat = named_leaves(cut.params)
                _, pull = jax.vjp(run, {n: flat[n] for n in sorted(names)})
                for k in cut.terms(name):
                    for leaf, g in pull(cotangents[k][name])[0].items():
                        gradients[k][leaf] = gradients[k].get(leaf, 0.0) + g
            # One example is a batch of one.
            gradients = jax.tree.map(lambda g: g[None], gradients)
            gram = gram_of(gradients, cut.counted)
            k = len(cut.reads)
            return jnp.zeros((k, k)) if isinstance(gram, float) else gram[0]

        gram = in_chunks(one, (cut.batch, cut.keys, cotangents), chunk=chunk)
        return gram, lambda found: _pull_all(cut, pulls, cotangents, found)

    return features, measure


def by_ghost(cut: Cut, *, chunk: int = 0) -> Sweep:
    """Products from what passes the layers. Weights of kernels are differentiated once."""
    everything = cut.counted == cut.shared
    haunted = {n for n in cut.towers if cut.counted & cut.leaves[n]}
    features, pulls = _forward(cut, but=haunted)
    traced = {}
    for name in sorted(haunted):
        names = cut.leaves[name] if everything else cut.leaves[name] & cut.counted
        tower = cut.towers[name]
        traced[name] = ghost.trace(tower, cut.params, cut.batch, cut.keys, names=names)
        features[name] = traced[name].features
        pulls[name] = lambda c, tower=traced[name]: tower.pull(c).gradients()

    def measure(cotangents: Cotangents):
        collected = ghost.collect(traced, cotangents)
        gram = _filled(ghost.gram(collected, cut.counted, chunk=chunk), cut)

        def combine(found: Coefficients) -> Params:
            if not everything:
                return _pull_all(cut, pulls, cotangents, found)
            rest = {name: pull for name, pull in pulls.items() if name not in haunted}
            out = _pull(cut, rest, cotangents, found)
            for name, g in ghost.combine(
                collected, cut.params, lambda name: _weights(cut, name, found)
            ).items():
                out[name] = out.get(name, 0.0) + g
            return zeros_of(cut.params, out)

        return gram, combine

    return features, measure


def by_group(cut: Cut, groups: int) -> Sweep:
    """Gradients of groups of neighbours: one per device, or one of the whole batch.

    Each device holds the gradients of its own groups; only their weighted sum crosses devices
    (and with one group over all devices, the gradients that make it up).
    """
    size = cut.keys.shape[0]
    features, pulls = {}, {}
    flat = named_leaves(cut.params)

    def spread(x):
        return x.reshape(groups, size // groups, *x.shape[1:])

    for name, tower in cut.towers.items():
        used = {n: flat[n] for n in sorted(cut.leaves[name])}

        def run(some, batch, keys, tower=tower):
            return each(tower)(replaced(cut.params, some), batch, keys)

        def run_all(copies, run=run):
            if groups == 1:
                some = {name: x[0] for name, x in copies.items()}
                return run(some, cut.batch, cut.keys)
            split = jax.tree.map(spread, (cut.batch, cut.keys))
            out = jax.vmap(run)(copies, *split)
            return out.reshape(size, *out.shape[2:])

        copies = {n: jnp.broadcast_to(x, (groups, *x.shape)) for n, x in used.items()}
        features[name], pull = jax.vjp(run_all, copies)
        pulls[name] = lambda cotangent, pull=pull: pull(cotangent)[0]

    def measure(cotangents: Cotangents):
        gradients: list[dict[str, Array]] = [{} for _ in cut.reads]
        for name, pull in pulls.items():
            for k in cut.terms(name):
                for leaf, g in pull(cotangents[k][name]).items():
                    gradients[k][leaf] = gradients[k].get(leaf, 0.0) + g
        gram = _filled(gram_of(gradients, cut.counted), cut, groups)

        def combine(found: Coefficients) -> Params:
            out: dict[str, Array] = {}
            for k, of_term in enumerate(gradients):
                for name, g in of_term.items():
                    weights = _weights(cut, name, found)[:, k]
                    part = jnp.sum(_times(weights, g), 0)
                    out[name] = out.get(name, 0.0) + part
            return zeros_of(cut.params, out)

        return gram, combine

    return features, measure


def _forward(cut: Cut, but: Any = ()) -> tuple[dict[str, Array], dict[str, Pull]]:
    """Features of the towers but some, and functions that go back from them."""
    features, pulls = {}, {}
    for name, tower in cut.towers.items():
        if name not in but:
            features[name], pull = jax.vjp(
                lambda p, f=tower: each(f)(p, cut.batch, cut.keys), cut.params
            )
            pulls[name] = lambda c, pull=pull: named_leaves(pull(c)[0])
    return features, pulls


def _traced(cut: Cut) -> dict[str, ghost.Traced]:
    """The towers of one term with shared and own parameters, ready for `_pull_traced`."""
    traced = {}
    for name, tower in cut.towers.items():
        own = cut.leaves[name] - cut.shared
        mixed = bool(own) and own != cut.leaves[name]
        if mixed and len(cut.terms(name)) == 1 and hasattr(tower, "tapped"):
            try:
                traced[name] = ghost.trace(
                    tower, cut.params, cut.batch, cut.keys, names=own
                )
            except ConfigError:
                continue  # a large parameter outside tapped layers: goes back twice
    return traced


def _pull_traced(
    cut: Cut,
    traced: Mapping[str, ghost.Traced],
    cotangents: Cotangents,
    found: Coefficients,
) -> dict[str, Array]:
    single = found.single[:, None]
    # Nothing can be divided by 0. What takes its place is lost in rounding, and a power of two
    # costs no digits.
    floor = 2.0**-24 * single
    gone = jnp.abs(found.shared) < jnp.abs(floor)
    weights = jnp.where(gone, floor, found.shared)
    scaled: Cotangents = [
        {
            name: _times(weights[:, k], c).astype(c.dtype)
            for name, c in of_towers.items()
            if name in traced
        }
        for k, of_towers in enumerate(cotangents)
    ]
    collected = ghost.collect(traced, scaled)
    own = jnp.where(weights != 0, single / jnp.where(weights != 0, weights, 1.0), 0.0)
    out = ghost.combine(collected, cut.params, lambda _: own)
    for grads in collected.whole:
        for name in sorted(cut.shared & grads.keys()):
            out[name] = out.get(name, 0.0) + grads[name]
    return out


def _pull_all(cut: Cut, pulls, cotangents, found: Coefficients) -> Params:
    return zeros_of(cut.params, _pull(cut, pulls, cotangents, found))


def _pull(
    cut: Cut, pulls: Mapping[str, Pull], cotangents: Cotangents, found: Coefficients
) -> dict[str, Array]:
    """Weighs the cotangents and goes back once, or twice where only a part is shared."""
    out: dict[str, Array] = {}
    for name, pull in pulls.items():
        terms = cut.terms(name)
        for names in (cut.leaves[name] & cut.shared, cut.leaves[name] - cut.shared):
            if not names or not terms:
                continue
            weights = _weights(cut, min(names), found)
            parts = [_times(weights[:, k], cotangents[k][name]) for k in terms]
            cotangent = sum(parts).astype(cotangents[terms[0]][name].dtype)
            grads = pull(cotangent)
            for leaf in sorted(names):
                out[leaf] = out.get(leaf, 0.0) + grads[leaf]
    return out


def _weights(cut: Cut, name: str, found: Coefficients) -> Float[Array, "g k"]:
    if name in cut.shared:
        return found.shared
    return jnp.broadcast_to(found.single[:, None], found.shared.shape)


def _times(weights: Float[Array, "g"], x: Array) -> Array:
    """What has weight 0 may be NaN."""
    weights = rows(weights, x)
    return jnp.where(weights != 0, weights * x, 0)


def _filled(gram: Any, cut: Cut, groups: int = 0) -> Float[Array, "g k k"]:
    """Zeros where there was nothing to add up."""
    k = len(cut.reads)
    if isinstance(gram, float):
        return jnp.zeros((groups or cut.keys.shape[0], k, k))
    return gram
