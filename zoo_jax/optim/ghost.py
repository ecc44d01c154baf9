"""Inner products of per-example gradients without forming these in dense layers.

For a dense layer with inputs a [t, d] and cotangents b_k [t, e] of its outputs, the gradient of
term k is a^T b_k, and two of them have the inner product

    sum over s, t of (a_s . a_t) (b_k,s . b_l,t)

which needs t^2 (d + e) products in place of t d e; per layer the cheaper of the two is taken. The
backward pass that yields b_k costs no product with an input: gradients of kernels are linear in
b, and are formed once, when the weights of the terms are known.

Other parameters (norms, biases, position tables) are small, and get one gradient per example:
each example works on a copy of its own.

Source: Goodfellow, Efficient Per-Example Gradient Computations, arXiv 1510.01799; for sequences
Li et al., arXiv 2110.05679, section 4.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Batch, Key, Params
from zoo_jax.optim.cut import replaced
from zoo_jax.optim.examples import gram_of, in_chunks, inner, rows, symmetric

LARGEST_COPY = 2**22  # elements of a leaf of which every example may have a copy


class Use(NamedTuple):
    """One call of a layer in one tower."""

    inputs: Array  # [b, t, d] of a dense layer; ids [b, t] of an embedding
    cotangents: dict[int, Float[Array, "b t e"]]  # of the outputs, by term


class Traced(NamedTuple):
    """A tower's forward pass with everything that its statistics need."""

    features: Array  # [b, ...]
    taps: dict[str, Any]  # call -> its Tap, [b, ...]
    pull: Callable[[Array], "Pulled"]  # takes a cotangent of the features


class Pulled(NamedTuple):
    """What one backward pass of a tower leaves behind."""

    whole: dict[str, Array]  # parameter -> its gradient, but for copied ones
    copies: dict[str, Float[Array, "b ..."]]  # copied one -> gradient of each example
    outputs: dict[str, Float[Array, "b ..."]]  # call -> cotangent of its outputs

    def gradients(self) -> dict[str, Array]:
        """Of all parameters, by name."""
        return self.whole | {n: jnp.sum(g, 0) for n, g in self.copies.items()}


def trace(
    tower: Any,
    params: Params,
    batch: Batch,
    keys: Key,
    *,
    names: frozenset[str],
) -> Traced:
    """Runs a tower on a batch so that gradients of the parameters `names` can be compared.

    Args:
      tower: A `zoo_jax.nn.taps.ModuleTower`, or what has its `tapped`.
      params: Its parameters.
      batch: The examples.
      keys: One per example.
      names: Paths of the parameters.

    Raises:
      ConfigError: if a large parameter among them does not belong to a tapped layer.
    """
    size = keys.shape[0]

    def run(params, copies, probes):
        def one(copies, probes, example, key):
            return tower.tapped(replaced(params, copies), example, key, probes)

        return jax.vmap(one)(copies, probes, dict(batch), keys)

    flat = named_leaves(params)
    calls = jax.eval_shape(run, params, {}, {})[1]
    calls = {call: tap for call, tap in calls.items() if _main(call, flat) in names}
    covered = {f"{_layer(call)}/{part}" for call in calls for part in _PARTS}
    copies = {}
    for name in sorted(names - covered):
        leaf = flat[name]
        if leaf.size > LARGEST_COPY:
            raise ConfigError(
                f"parameter {name} of {leaf.size:,} numbers is not in a Dense or an Embed:"
                " ghost statistics would copy it for every example; use two_pass, or a"
                " subset without it"
            )
        copies[name] = jnp.broadcast_to(leaf, (size, *leaf.shape))
    probes = {
        call: jnp.zeros(t.outputs.shape, t.outputs.dtype) for call, t in calls.items()
    }
    features, pull, taps = jax.vjp(run, params, copies, probes, has_aux=True)

    def pulled(cotangent):
        whole, of_copies, outputs = pull(cotangent)
        return Pulled(named_leaves(whole), of_copies, outputs)

    return Traced(features, {call: taps[call] for call in calls}, pulled)


class Collected(NamedTuple):
    """What the backward passes of all towers and terms left behind."""

    uses: dict[str, list[Use]]  # layer -> its calls
    copies: list[dict[str, Array]]  # term -> leaf -> gradient of each example
    whole: list[dict[str, Array]]  # term -> leaf that is not copied -> gradient


def collect(
    traced: Mapping[str, Traced], cotangents: list[dict[str, Array]]
) -> Collected:
    """Goes back through the towers once per term that reads them.

    Args:
      traced: By name of the tower.
      cotangents: For each term, those of the features that it reads, by tower.
    """
    uses: dict[str, list[Use]] = {}
    copies: list[dict[str, Array]] = [{} for _ in cotangents]
    whole: list[dict[str, Array]] = [{} for _ in cotangents]
    for name, tower in traced.items():
        outputs = {}
        for k, of_features in enumerate(cotangents):
            if name in of_features:
                found = tower.pull(of_features[name])
                outputs[k] = found.outputs
                for to, grads in ((copies, found.copies), (whole, found.whole)):
                    for leaf, g in grads.items():
                        to[k][leaf] = to[k].get(leaf, 0.0) + g
        for call, tap in tower.taps.items():
            of_terms = {k: _tokens(c[call], 1) for k, c in outputs.items()}
            width = int(jnp.issubdtype(tap.inputs.dtype, jnp.inexact))
            use = Use(_tokens(tap.inputs, width), of_terms)
            uses.setdefault(_layer(call), []).append(use)
    return Collected(uses, copies, whole)


def gram(
    found: Collected, names: frozenset[str], *, chunk: int = 0
) -> Float[Array, "b k k"] | float:
    """Inner products between the terms' gradients with respect to the parameters `names`.

    Args:
      found: By `collect`.
      names: Paths of the parameters to count.
      chunk: Examples whose gradients are formed at a time in layers with long sequences.
    """
    k = len(found.copies)
    total = gram_of(found.copies, names)
    for layer, uses in found.uses.items():
        if f"{layer}/bias" in names:
            total = total + gram_of([_bias(uses, term) for term in range(k)], [""])
        if f"{layer}/embedding" in names:
            total = total + _by_tokens(uses, k)
        if f"{layer}/kernel" in names:
            total = total + kernel_gram(uses, k, chunk=chunk)
    return total


def kernel_gram(
    uses: list[Use], k: int, *, chunk: int = 0, form: str = ""
) -> Float[Array, "b k k"]:
    """Inner products between the gradients of one kernel, over all calls of its layer.

    Args:
      uses: The calls.
      k: Number of terms.
      chunk: As in `gram`.
      form: ``"tokens"`` or ``"gradients"``; by default what needs fewer multiplications.
    """
    if not form:
        by_tokens, by_gradients = _costs(uses, k)
        form = "tokens" if by_tokens <= by_gradients else "gradients"
    if form == "tokens":
        return _by_tokens(uses, k)

    def one(uses):
        gradients = [{} for _ in range(k)]
        for term in range(k):
            terms = [
                _kernel(use.inputs, use.cotangents[term])
                for use in uses
                if term in use.cotangents
            ]
            if terms:
                gradients[term] = {"": sum(terms)[None]}
        return gram_of(gradients, [""])[0]

    return in_chunks(one, uses, chunk=chunk)


def combine(
    found: Collected,
    params: Params,
    weights: Callable[[str], Float[Array, "b k"]],
) -> dict[str, Array]:
    """The weighted sum over examples and terms of all gradients, by name of the parameter.

    Args:
      found: By `collect`.
      params: Of the towers.
      weights: Those of a parameter, by name. What has weight 0 may be NaN.
    """
    flat, out = named_leaves(params), {}
    for term, copies in enumerate(found.copies):
        for name, g in copies.items():
            part = jnp.sum(_times(weights(name)[:, term], g), 0)
            out[name] = out.get(name, 0.0) + part
    for layer, uses in found.uses.items():
        for part in _PARTS:
            name = f"{layer}/{part}"
            if name not in flat:
                continue
            w = weights(name)
            for use in uses:
                b = sum(_times(w[:, term], c) for term, c in use.cotangents.items())
                b = b.astype(next(iter(use.cotangents.values())).dtype)
                if part == "kernel":
                    g = jnp.einsum("bsd,bse->de", use.inputs.astype(b.dtype), b)
                elif part == "bias":
                    g = jnp.sum(b, (0, 1))
                else:
                    g = jnp.zeros_like(flat[name]).at[use.inputs].add(b)
                out[name] = out.get(name, 0.0) + g
    return out


_PARTS = ("kernel", "bias", "embedding")


def _layer(call: str) -> str:
    return call.rpartition("/")[0]


def _main(call: str, leaves: Mapping[str, Any]) -> str:
    """The large parameter of the layer that is called."""
    names = (f"{_layer(call)}/{part}" for part in ("kernel", "embedding"))
    return next(name for name in names if name in leaves)


def _tokens(x: Array, width: int) -> Array:
    """Merges the axes between the examples and the last `width`: [b, ..., e] to [b, t, e]."""
    return x.reshape(x.shape[0], -1, *x.shape[x.ndim - width :])


def _times(weights: Float[Array, "b"], x: Array) -> Array:
    weights = rows(weights, x)
    return jnp.where(weights != 0, weights * x, 0)


def _bias(uses: list[Use], term: int) -> dict[str, Array]:
    parts = [
        jnp.sum(use.cotangents[term], 1, jnp.float32)
        for use in uses
        if term in use.cotangents
    ]
    return {"": sum(parts)} if parts else {}


def _kernel(a: Float[Array, "t d"], b: Float[Array, "t e"]) -> Float[Array, "d e"]:
    return jnp.einsum(
        "sd,se->de", a.astype(b.dtype), b, preferred_element_type=jnp.float32
    )


def _by_tokens(uses: list[Use], k: int) -> Float[Array, "b k k"]:
    """The double sum over tokens, block by block of calls."""
    similar = {}

    def similarity(u: int, v: int) -> Float[Array, "b s t"]:
        if (v, u) in similar:
            return similar[v, u].swapaxes(-1, -2)
        if (u, v) not in similar:
            one, other = uses[u].inputs, uses[v].inputs
            if one.ndim == 2:
                same = one[:, :, None] == other[:, None, :]
                similar[u, v] = same.astype(jnp.float32)
            else:
                similar[u, v] = jnp.einsum(
                    "bsd,btd->bst", one, other, preferred_element_type=jnp.float32
                )
        return similar[u, v]

    upper = {(i, j): 0.0 for i in range(k) for j in range(i, k)}
    for v, right in enumerate(uses):
        for u, left in enumerate(uses):
            for j, b in right.cotangents.items():
                terms = [i for i in left.cotangents if i <= j]
                if not terms:
                    continue
                spread = jnp.einsum(
                    "bst,bte->bse",
                    similarity(u, v).astype(b.dtype),
                    b,
                    preferred_element_type=jnp.float32,
                )
                for i in terms:
                    upper[i, j] = upper[i, j] + inner(left.cotangents[i], spread)
    return symmetric(upper, k)


def _costs(uses: list[Use], k: int) -> tuple[int, int]:
    """Multiplications per example of the two forms of `kernel_gram`."""
    tokens, gradients = 0, 0
    d = uses[0].inputs.shape[-1]
    for v, right in enumerate(uses):
        t = right.inputs.shape[1]
        for j, b in right.cotangents.items():
            gradients += t * d * b.shape[-1]
            for left in uses:
                if any(i <= j for i in left.cotangents):
                    tokens += left.inputs.shape[1] * t * b.shape[-1]
        tokens += sum(left.inputs.shape[1] for left in uses[v:]) * t * d
    e = math.prod(next(iter(uses[0].cotangents.values())).shape[2:])
    return tokens, gradients + k * (k + 1) // 2 * d * e
