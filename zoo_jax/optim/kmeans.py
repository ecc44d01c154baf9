"""Pulls kernels toward shared samples while training: Deep k-Means as an optax link."""

import warnings
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name, make_key
from zoo_jax.core.tree import map_named, named_leaves, nest
from zoo_jax.optim import clustering
from zoo_jax.optim.codebook import assign_params, check_assigned, share_cluster_updates
from zoo_jax.optim.layer_spec import LayerSpec, Spec, resolve_spec

__all__ = [
    "KMeansState",
    "LayerSpec",
    "Spec",
    "assign_params",
    "check_assigned",
    "kmeans_regularization",
    "labels_penalty",
    "project",
    "resolve_spec",
    "share_cluster_updates",
    "spectral_factor",
    "spectral_penalty",
]

Relaxation = Literal["spectral", "labels"]


def spectral_factor(
    samples: Float[Array, "n d"], num_clusters: int
) -> Float[Array, "n r"]:
    r"""Orthonormal columns F that minimise the relaxed k-means cost, r = min(k, n, d).

    They span the same space as the k leading left singular vectors of `samples`. Directions
    without variance become zero columns. Only F F^T matters: signs and rotations are free.

    Source: arXiv 1806.09228; Spectral Relaxation for K-means Clustering (NeurIPS 2001).

    >>> x = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> abs(spectral_factor(x, 1)).tolist()
    [[1.0], [0.0], [0.0]]
    """
    n, d = samples.shape
    rank = min(num_clusters, n, d)
    # The smaller Gram matrix: n reaches 200,000 for rows, d 2,000 for filters.
    small = samples.T if d <= n else samples
    gram = jnp.matmul(small, small.T, precision="highest")
    squares, vectors = jnp.linalg.eigh(gram)  # ascending
    squares, vectors = squares[::-1][:rank], vectors[:, ::-1][:, :rank]
    floor = jnp.finfo(samples.dtype).eps * max(squares.size, 1) * squares[0]
    kept = squares > floor
    if d <= n:
        vectors = jnp.where(kept[None], vectors, 0)
        # Gram matrices square the condition number; QR makes the columns orthonormal again.
        vectors, _ = jnp.linalg.qr(jnp.matmul(samples, vectors, precision="highest"))
    return jnp.where(kept[None], vectors, 0)


def project(
    factor: Float[Array, "n r"], samples: Float[Array, "n d"]
) -> Float[Array, "n d"]:
    """F F^T applied to the samples.

    >>> project(jnp.array([[1.0], [0.0]]), jnp.array([[2.0, 3.0], [4.0, 5.0]])).tolist()
    [[2.0, 3.0], [0.0, 0.0]]
    """
    inner = jnp.matmul(factor.T, samples, precision="highest")
    return jnp.matmul(factor, inner, precision="highest")


def spectral_penalty(
    samples: Float[Array, "n d"],
    num_clusters: int,
    factor: Float[Array, "n r"] | None = None,
) -> Float[Array, ""]:
    r"""Relaxed k-means cost of one layer.

    .. math:: Tr(W^T W) - Tr(F^T W^T W F) = \sum_{j > k} \sigma_j(W)^2
       \quad\text{(the last only with fresh } F)

    Args:
      samples: W^T, one sample per row.
      num_clusters: k.
      factor: F of an earlier `spectral_factor`; fresh by default. Constant in gradients.

    Returns:
      At least 0; 0 exactly if the rank is at most k. Half its gradient is what
      `kmeans_regularization` adds (times the strength). Never above the k-means cost.

    >>> x = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> round(float(spectral_penalty(x, 1)), 4)
    1.0
    """
    if factor is None:
        factor = spectral_factor(samples, num_clusters)
    factor = lax.stop_gradient(factor)
    return jnp.sum(jnp.square(samples - project(factor, samples)))


def labels_penalty(
    samples: Float[Array, "n d"], labels: Int[Array, "n"], num_clusters: int
) -> Float[Array, ""]:
    """K-means cost of one layer: squared distances to the clusters' current means.

    >>> x = jnp.array([[1.0], [3.0], [7.0]])
    >>> float(labels_penalty(x, jnp.array([0, 0, 1]), 2))
    2.0
    """
    centres = clustering.centroids(samples, labels, num_clusters)
    return jnp.sum(jnp.square(samples - centres[labels]))


class KMeansState(NamedTuple):
    """State of `kmeans_regularization`; holds arrays only."""

    count: Int[Array, ""]  # updates so far, int32
    factors: dict[str, Any]  # nested like params, selected kernels only:
    # spectral: F [n, r], float32; labels: cluster of each sample [n], int32


def kmeans_regularization(
    strength: float | optax.Schedule,
    spec: Spec,
    *,
    refresh_every: int,
    relaxation: Relaxation = "spectral",
    decoupled: bool = False,
    learning_rate: float | optax.Schedule | None = None,
    seed: int = 0,
    num_iters: int = 10,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of the k-means cost of selected kernels: ``strength * (W - W F F^T)``.

    .. math:: \tfrac{\lambda}{2} \sum_l Tr(W_l^T W_l) - Tr(F_l^T W_l^T W_l F_l)

    The columns of W are the samples of a kernel (`clustering.to_matrix`). Every
    `refresh_every` updates, the first included, F follows the current weights:

    - ``"spectral"``, the paper's: any F with orthonormal columns, so W F F^T is W reduced to
      its k leading singular directions. With samples no longer than k (rows of a 3x3 kernel!)
      that is W itself, and penalty and gradient are zero: a warning says so.
    - ``"labels"``, our extension: F says who is in which cluster, so W F F^T replaces every
      sample by the mean of its cluster. Not zero for any k below n. Labels come from k-means
      (with the layer's core), warm-started from the previous clusters; means follow every
      update.

    .. warning:: Needs ``params``. Chain it before the base optimiser to make it a loss term.
       Under Adam such a term is rescaled, and `strength` loses its meaning: use `decoupled`.

    Args:
      strength: λ, or a schedule of it on this transformation's own count. λ near 0 does
        nothing; at ``learning_rate * strength = 1`` (plain SGD) weights jump onto centres.
      spec: See `resolve_spec`.
      refresh_every: Period of F in updates; usually an epoch.
      relaxation: What F may be.
      decoupled: Subtract ``learning_rate * strength * (W - W F F^T)`` from the *updates*, as
        AdamW's decay does: then chain it after the optimiser.
      learning_rate: The optimiser's, number or schedule; only and always with `decoupled`.
      seed: For the first clusters of ``"labels"``.
      num_iters: At most so many Lloyd steps per refresh.

    Returns:
      A transformation that leaves other leaves as they are, bit for bit. Computes in float32
      and keeps the dtype of the updates.

    Raises:
      ConfigError: for a spec that does not fit the parameters (when it sees them), or
        arguments out of range.

    Source: arXiv 1806.09228, objective and alternation; λ and the period of F are not
    published.

    >>> params = {"kernel": jnp.array([[0.0, 0.2, 1.0, 1.4]])}    # dense, 1 in, 4 out
    >>> tx = kmeans_regularization(
    ...     0.5, {"kernel": LayerSpec(2, "filter")}, refresh_every=1, relaxation="labels")
    >>> zero = {"kernel": jnp.zeros((1, 4))}
    >>> updates, _ = tx.update(zero, tx.init(params), params)
    >>> [round(float(u), 3) for u in updates["kernel"][0]]
    [-0.05, 0.05, -0.1, 0.1]
    """
    if relaxation not in get_args(Relaxation):
        hint = closest(relaxation, get_args(Relaxation))
        raise ConfigError(f"unknown relaxation {relaxation!r}: {hint}")
    # optax.inject_hyperparams passes arrays, which cannot be looked at here.
    if isinstance(refresh_every, int) and refresh_every < 1:
        raise ConfigError(f"refresh_every must be 1 or more, got {refresh_every}")
    if decoupled != (learning_rate is not None):
        raise ConfigError(
            "decoupled=True needs learning_rate (the optimiser's), and only it takes one; "
            f"got decoupled={decoupled}, learning_rate={learning_rate}"
        )

    def init_fn(params):
        layers = resolve_spec(spec, params)
        leaves = named_leaves(params)
        if relaxation == "spectral":
            _warn_if_zero(layers, leaves)
        # The first update fills them; init may see weights that are replaced later.
        factors = {
            name: _empty_factor(leaves[name], layer, relaxation)
            for name, layer in layers.items()
        }
        return KMeansState(jnp.zeros((), jnp.int32), nest(factors))

    def update_fn(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError(
                "kmeans_regularization needs params: tx.update(g, s, params)"
            )
        leaves = named_leaves(params)
        layers = resolve_spec(spec, params)
        x = {name: layer.matrix(leaves[name]) for name, layer in layers.items()}

        def refresh(old):
            return {
                name: _refresh_factor(
                    x[name],
                    old[name],
                    layer,
                    relaxation,
                    first=state.count == 0,
                    key=fold_name(make_key(seed), name),
                    num_iters=num_iters,
                )
                for name, layer in layers.items()
            }

        due = state.count % refresh_every == 0
        factors = lax.cond(due, refresh, lambda old: old, named_leaves(state.factors))
        scale = _value(strength, state.count)
        if decoupled:
            scale = -_value(learning_rate, state.count) * scale

        def add(name, update):
            if name not in layers:
                return update
            layer, w, f = layers[name], x[name], factors[name]
            if relaxation == "spectral":
                target = project(f, w)
            else:
                target = clustering.centroids(w, f, layer.num_clusters)[f]
            pull = layer.matrix(update) + scale * (w - target)
            return layer.kernel(pull, like=update)

        updates = map_named(add, updates)
        return updates, KMeansState(optax.safe_increment(state.count), nest(factors))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _value(number_or_schedule, count):
    return (
        number_or_schedule(count)
        if callable(number_or_schedule)
        else number_or_schedule
    )


def _empty_factor(leaf, layer: LayerSpec, relaxation: Relaxation) -> Array:
    n, d = clustering.sample_shape(leaf.shape, layer.samples, layer.row_length)
    if relaxation == "labels":
        return jnp.zeros(n, jnp.int32)
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    return jnp.zeros((n, min(layer.num_clusters, n, d)), dtype)


def _refresh_factor(x, old, layer, relaxation, *, first, key, num_iters):
    k = layer.num_clusters
    if relaxation == "spectral":
        return spectral_factor(x, k)
    init = lax.cond(
        first,
        lambda: clustering.seeds(x, k, key),
        lambda: clustering.centroids(x, old, k),
    )
    result = clustering.assign(x, k, core=layer.core, init=init, num_iters=num_iters)
    return result.labels


def _warn_if_zero(layers: dict[str, LayerSpec], leaves: dict[str, Any]) -> None:
    zero = []
    for name, layer in layers.items():
        leaf = leaves[name]
        n, d = clustering.sample_shape(leaf.shape, layer.samples, layer.row_length)
        if layer.num_clusters >= min(n, d):
            k, kind = layer.num_clusters, layer.samples
            zero.append(f"{name} ({k} clusters, {n} {kind} samples of length {d})")
    if zero:
        warnings.warn(
            "the spectral k-means penalty is identically zero where num_clusters reaches "
            "min(number, length) of the samples; use relaxation='labels' or longer samples "
            "for: " + "; ".join(zero),
            stacklevel=3,
        )
