"""Pulls kernels toward shared rows while training, and keeps shared rows shared."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from zoo_jax.core.config import require_keys
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name, make_key
from zoo_jax.core.tree import first_match, map_named, named_leaves, nest
from zoo_jax.core.types import Key, Params
from zoo_jax.optim import clustering
from zoo_jax.optim.clustering import Assignment, Samples

Relaxation = Literal["spectral", "labels"]


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """How one kernel is clustered.

    Raises:
      ConfigError: for values that fit no kernel.

    >>> LayerSpec(64), LayerSpec(8, "filter").samples
    (LayerSpec(num_clusters=64, samples='row', core=0.0, row_length=None), 'filter')
    """

    num_clusters: int
    samples: Samples = "row"  # what is clustered, see `clustering.sample_shape`
    core: float = 0.0  # share of samples in one cluster around the mean, see `assign`
    row_length: int | None = None  # of the rows of a dense kernel

    def __post_init__(self) -> None:
        if not isinstance(self.num_clusters, int) or self.num_clusters < 1:
            raise ConfigError(
                f"num_clusters must be a whole number from 1, got {self.num_clusters!r}"
            )
        if self.samples not in get_args(Samples):
            hint = closest(self.samples, get_args(Samples))
            raise ConfigError(f"unknown samples {self.samples!r}: {hint}")
        if not 0 <= self.core < 1:
            raise ConfigError(f"core must be within 0 <= core < 1, got {self.core}")

    def matrix(self, kernel: Float[Array, "*shape"]) -> Float[Array, "n d"]:
        """The samples of a kernel, in float32 or better."""
        x = clustering.to_matrix(kernel, self.samples, self.row_length)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def kernel(self, matrix: Float[Array, "n d"], like: Array) -> Float[Array, "*s"]:
        """A kernel shaped like `like` from its samples, with its dtype."""
        shape = like.shape
        out = clustering.from_matrix(matrix, shape, self.samples, self.row_length)
        return out.astype(like.dtype)


Spec = Mapping[str, LayerSpec | Mapping[str, Any] | None]


def resolve_spec(spec: Spec, params: Params) -> dict[str, LayerSpec]:
    """Finds the kernels that a spec selects.

    Args:
      spec: Shell-style pattern of a leaf's path -> `LayerSpec`, a mapping of its fields, or
        None for "leave alone". The first pattern that matches a leaf decides.
      params: Arrays, or shapes from `jax.eval_shape`.

    Returns:
      Path of each selected leaf -> its `LayerSpec`, in flattening order.

    Raises:
      ConfigError: if a pattern decides nothing, or selects a leaf that is no kernel or has
        too few samples.

    >>> params = {"stem": {"kernel": jnp.zeros((3, 3, 3, 8))},
    ...           "conv": {"kernel": jnp.zeros((3, 3, 8, 8)), "bias": jnp.zeros(8)}}
    >>> spec = {"stem/*": None, "*/kernel": {"num_clusters": 16}}
    >>> [(path, layer.num_clusters) for path, layer in resolve_spec(spec, params).items()]
    [('conv/kernel', 16)]
    """
    layers = {pattern: _layer(pattern, value) for pattern, value in spec.items()}
    leaves = named_leaves(params)
    deciding = {name: first_match(name, layers) for name in leaves}
    for pattern in layers:
        if pattern in deciding.values():
            continue
        hidden = [name for name in leaves if first_match(name, [pattern])]
        if hidden:
            raise ConfigError(
                f"cluster pattern {pattern!r} never decides: {hidden[0]!r} is matched by "
                f"{deciding[hidden[0]]!r} before it; put the narrower pattern first"
            )
        raise ConfigError(
            f"cluster pattern {pattern!r} matches no parameter: {closest(pattern, leaves)}"
        )
    out = {}
    for name, pattern in deciding.items():
        layer = layers[pattern] if pattern else None
        if layer is not None:
            _check(pattern, name, leaves[name], layer)
            out[name] = layer
    return out


def _layer(pattern: str, value: Any) -> LayerSpec | None:
    if value is None or isinstance(value, LayerSpec):
        return value
    if hasattr(value, "to_dict"):  # an ml_collections.ConfigDict
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"cluster pattern {pattern!r} needs dict(num_clusters=...) or None, "
            f"got {value!r}"
        )
    fields = [field.name for field in dataclasses.fields(LayerSpec)]
    require_keys(value, fields, f"cluster pattern {pattern!r}")
    if "num_clusters" not in value:
        raise ConfigError(f"cluster pattern {pattern!r} lacks num_clusters")
    return LayerSpec(**value)


def _check(pattern: str, name: str, leaf: Any, layer: LayerSpec) -> None:
    where = f"cluster pattern {pattern!r} selects {name!r} {tuple(leaf.shape)}"
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or len(leaf.shape) < 2:
        raise ConfigError(
            f"{where} {leaf.dtype}, which is no kernel; end the pattern in /kernel "
            f"or put {name!r}: None before it"
        )
    try:
        n, _ = clustering.sample_shape(leaf.shape, layer.samples, layer.row_length)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    room = n - int(n * layer.core) + 1 if int(n * layer.core) else n
    if layer.num_clusters > room:
        raise ConfigError(
            f"{where}: {n} {layer.samples} samples with core {layer.core} make at most "
            f"{room} clusters, got num_clusters={layer.num_clusters}"
        )


# --- the penalty ----------------------------------------------------------------------


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


# --- after the assignment -------------------------------------------------------------


def assign_params(
    params: Params, spec: Spec, key: Key, **options: Any
) -> tuple[Params, dict[str, Assignment]]:
    """Hard-assigns every selected kernel, see `clustering.assign`.

    Args:
      params: Nested dicts of arrays.
      spec: See `resolve_spec`.
      key: Folded with the path of each kernel.
      **options: Further arguments of `clustering.assign` (`num_init`, `num_iters`, `tol`).

    Returns:
      The parameters with rows shared, and path -> centres and labels.

    Raises:
      ConfigError: for a spec that does not fit.

    >>> params = {"kernel": jnp.array([[0.0, 0.2, 1.0, 1.4]])}
    >>> out, _ = assign_params(params, {"*": LayerSpec(2, "scalar")}, jax.random.key(0))
    >>> [round(float(w), 3) for w in out["kernel"][0]]
    [0.1, 0.1, 1.2, 1.2]
    """
    layers, leaves = resolve_spec(spec, params), named_leaves(params)
    found = {
        name: clustering.assign(
            layer.matrix(leaves[name]),
            layer.num_clusters,
            fold_name(key, name),
            core=layer.core,
            **options,
        )
        for name, layer in layers.items()
    }

    def replace(name, leaf):
        if name not in found:
            return leaf
        rows = found[name].centres[found[name].labels]
        return layers[name].kernel(rows, like=leaf)

    return map_named(replace, params), found


def check_assigned(params: Params, spec: Spec) -> dict[str, int]:
    """Counts the distinct samples of every selected kernel, on the host.

    Returns:
      Path -> number of distinct samples.

    Raises:
      ConfigError: if a kernel has more of them than clusters.

    >>> kernel = jnp.array([[1.0, 1.0, 2.0]])
    >>> check_assigned({"kernel": kernel}, {"kernel": LayerSpec(2, "scalar")})
    {'kernel': 2}
    """
    leaves = named_leaves(params)
    counts = {}
    for name, layer in resolve_spec(spec, params).items():
        rows = np.asarray(layer.matrix(leaves[name]))
        counts[name] = len(np.unique(rows, axis=0))
        if counts[name] > layer.num_clusters:
            raise ConfigError(
                f"{name!r} has {counts[name]} distinct {layer.samples} samples, more than "
                f"num_clusters={layer.num_clusters}; assign it first (assign_params)"
            )
    return counts


class SharedUpdatesState(NamedTuple):
    """State of `share_cluster_updates`."""

    labels: dict[str, Any]  # nested like params, selected kernels only: [n], int32


def share_cluster_updates(
    spec: Spec, *, reduce: Literal["sum", "mean"] = "sum"
) -> optax.GradientTransformationExtraArgs:
    """Gives all samples of a cluster the same update, so that shared weights stay shared.

    Clusters are the groups of equal samples that the parameters hold at `init`. Placed before
    an elementwise optimiser (SGD with momentum, Adam, weight decay), it trains the centres:
    weights that start equal stay equal bit for bit.

    .. warning:: Start from assigned parameters (`assign_params`); `check_assigned` tells, on
       the host. Under jit nothing can be raised: samples beyond the first ``num_clusters``
       distinct ones keep their own updates.

    Args:
      spec: See `resolve_spec`.
      reduce: ``"sum"`` is the gradient with respect to the centre; it grows with the size of
        the cluster. ``"mean"`` keeps the step of a single weight.

    Returns:
      A transformation whose state holds the labels. Other leaves stay as they are.

    Raises:
      ConfigError: for a spec that does not fit, or parameters that are not assigned where
        they are concrete.

    Source: arXiv 1806.09228 stops at the assignment; training the centres is our extension.

    >>> params = {"kernel": jnp.array([[1.0, 1.0, 2.0]])}
    >>> tx = share_cluster_updates({"kernel": LayerSpec(2, "scalar")})
    >>> grads = {"kernel": jnp.array([[0.5, 0.25, 3.0]])}
    >>> tx.update(grads, tx.init(params), params)[0]["kernel"].tolist()
    [[0.75, 0.75, 3.0]]
    """
    if reduce not in ("sum", "mean"):
        raise ConfigError(
            f"unknown reduce {reduce!r}: {closest(reduce, ('sum', 'mean'))}"
        )

    def init_fn(params):
        leaves = named_leaves(params)
        layers = resolve_spec(spec, params)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves.values()):
            check_assigned(params, spec)
        labels = {
            name: clustering.group_equal(
                layer.matrix(leaves[name]), layer.num_clusters
            )[0]
            for name, layer in layers.items()
        }
        return SharedUpdatesState(nest(labels))

    def update_fn(updates, state, params=None, **extra):
        del params, extra
        layers = resolve_spec(spec, updates)
        labels = named_leaves(state.labels)

        def share(name, update):
            if name not in layers:
                return update
            layer, label, k = layers[name], labels[name], layers[name].num_clusters
            x = layer.matrix(update)
            reduction = (
                clustering.cluster_sums if reduce == "sum" else clustering.centroids
            )
            shared = reduction(x, label, k)[jnp.minimum(label, k - 1)]
            return layer.kernel(jnp.where((label < k)[:, None], shared, x), like=update)

        return map_named(share, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
