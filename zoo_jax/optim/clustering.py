"""K-means on the samples of a kernel, and the hard assignment that ends re-training.

Everything is pure, has static shapes and runs under `jax.jit`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Key
from zoo_jax.optim import lloyd
from zoo_jax.optim.lloyd import centroids, cluster_sums, seeds
from zoo_jax.optim.samples import Samples, from_matrix, sample_shape, to_matrix

__all__ = [
    "Assignment",
    "KMeansResult",
    "Samples",
    "assign",
    "centroids",
    "cluster_sums",
    "from_matrix",
    "group_equal",
    "kmeans",
    "relative_sse",
    "sample_shape",
    "seeds",
    "to_matrix",
]


class KMeansResult(NamedTuple):
    """A clustering of n samples: ``samples`` is approximated by ``centres[labels]``."""

    centres: Float[Array, "k d"]
    labels: Int[Array, "n"]
    sse: Float[Array, ""]  # weighted sum of squared distances to the assigned centres


class Assignment(NamedTuple):
    """Hard-assigned samples: they become ``centres[labels]``."""

    centres: Float[Array, "k d"]
    labels: Int[Array, "n"]


def kmeans(
    samples: Float[Array, "n d"],
    num_clusters: int,
    key: Key | None = None,
    *,
    init: Float[Array, "k d"] | None = None,
    weights: Float[Array, "n"] | None = None,
    num_init: int = 1,
    num_iters: int | Int[Array, ""] = 300,
    tol: float | Float[Array, ""] = 1e-4,
) -> KMeansResult:
    r"""Clusters samples by Lloyd's algorithm from greedy k-means++ seeds.

    .. math:: \min_{c, l} \sum_i w_i \lVert x_i - c_{l_i} \rVert^2

    A sample on the border goes to the centre with the lowest index. A cluster that runs
    empty is re-seeded at the sample farthest from its centre (several at once: the second
    farthest, and so on). Scalars (d = 1) come back with ascending centres.

    Args:
      samples: Any real values; computed in float32 or better.
      num_clusters: k, from 1 to n.
      key: For the seeds. Not needed with `init`.
      init: First centres, instead of seeds. The result is then deterministic.
      weights: Non-negative weight of each sample; 1 by default.
      num_init: Seedings; the result with the least cost wins.
      num_iters: At most so many Lloyd steps.
      tol: Stop when the squared shift of all centres is at most `tol` times the mean
        variance of the coordinates. 0 runs until no label changes.

    Returns:
      Centres, for each sample the index of the nearest, and the cost.

    Raises:
      ConfigError: if `num_clusters` is not within 1..n.
      ValueError: for shapes that do not fit, or neither `key` nor `init`.

    Source: k-means++ (Arthur and Vassilvitskii, 2007) with 2 + floor(ln k) trials per seed.

    >>> x = jnp.array([[0.0], [0.2], [5.0], [5.2], [9.0]])
    >>> result = kmeans(x, 3, jax.random.key(0))
    >>> [round(c, 2) for c in result.centres[:, 0].tolist()], result.labels.tolist()
    ([0.1, 5.1, 9.0], [0, 0, 1, 1, 2])
    """
    if samples.ndim != 2:
        raise ValueError(f"samples must be [n, d], got shape {samples.shape}")
    n, d = samples.shape
    if not 1 <= num_clusters <= n:
        raise ConfigError(
            f"num_clusters must be within 1..{n} (the number of samples), "
            f"got {num_clusters}"
        )
    if init is not None and init.shape != (num_clusters, d):
        raise ValueError(
            f"init must have shape {(num_clusters, d)}, got {tuple(init.shape)}"
        )
    if init is None and key is None:
        raise ValueError("kmeans needs a key or first centres (init)")
    x = samples.astype(jnp.promote_types(samples.dtype, jnp.float32))
    w = jnp.ones(n, x.dtype) if weights is None else weights.astype(x.dtype)
    # Distances are differences of squares below: centred samples keep their digits.
    mean = (w @ x) / jnp.maximum(jnp.sum(w), jnp.finfo(x.dtype).tiny)
    x = x - mean[None]
    steps = lloyd.scalars(x, w) if d == 1 else lloyd.vectors(x, w)
    spread = jnp.sum(w[:, None] * x * x) / jnp.maximum(jnp.sum(w), 1e-30) / d

    def run(centres):
        centres = steps.run(centres, num_iters=num_iters, shift=tol * spread)
        labels = steps.nearest(centres)
        sse = jnp.sum(w * jnp.sum(jnp.square(x - centres[labels]), 1))
        return KMeansResult(centres, labels, sse)

    if init is not None:
        best = run(init.astype(x.dtype) - mean[None])
    else:
        keys = jax.random.split(key, num_init)
        runs = lax.map(lambda k: run(seeds(x, num_clusters, k, weights=w)), keys)
        best = jax.tree.map(lambda leaf: leaf[jnp.argmin(runs.sse)], runs)
    return best._replace(centres=best.centres + mean[None])


def relative_sse(
    samples: Float[Array, "n d"], clustered: Float[Array, "n d"]
) -> Float[Array, ""]:
    """Squared error of a clustering, relative to the spread of the samples around their mean.

    Args:
      samples: Before clustering.
      clustered: The same, each replaced by its centre.

    Returns:
      0 for a perfect clustering, 1 for one cluster; 0 where all samples are equal and met.

    >>> x = jnp.array([[0.0], [2.0], [10.0], [12.0]])
    >>> round(float(relative_sse(x, jnp.array([[1.0], [1.0], [11.0], [11.0]]))), 4)
    0.0385
    """
    x = samples.astype(jnp.promote_types(samples.dtype, jnp.float32))
    total = jnp.sum(jnp.square(x - jnp.mean(x, 0)[None]))
    error = jnp.sum(jnp.square(x - clustered.astype(x.dtype)))
    return jnp.where(error > 0, error / jnp.where(total > 0, total, 1), 0)


def group_equal(
    samples: Float[Array, "n d"], limit: int
) -> tuple[Int[Array, "n"], Int[Array, "k"], Bool[Array, ""]]:
    """Groups samples that are equal in every coordinate.

    Args:
      samples: Any values; NaN equals nothing.
      limit: At most so many groups are looked for, one pass over the samples each.

    Returns:
      The group of each sample, numbered by first appearance (`limit` where there were more
      groups), the first sample of each group (n for groups that are not there), and whether
      all samples found a group.

    >>> labels, first, complete = group_equal(jnp.array([[2.0], [1.0], [2.0]]), 2)
    >>> labels.tolist(), first.tolist(), bool(complete)
    ([0, 1, 0], [0, 1], True)
    """
    n = samples.shape[0]

    def cond(state):
        labels, _, k = state
        return (k < limit) & jnp.any(labels == limit)

    def body(state):
        labels, first, k = state
        index = jnp.argmax(labels == limit)
        same = jnp.all(samples == samples[index][None], 1)
        same = same.at[index].set(True)  # also for NaN: the loop must end
        labels = jnp.where(same & (labels == limit), k, labels)
        return labels, first.at[k].set(index), k + 1

    start = jnp.full(n, limit, jnp.int32), jnp.full(limit, n, jnp.int32)
    labels, first, _ = lax.while_loop(cond, body, (*start, jnp.int32(0)))
    return labels, first, jnp.all(labels < limit)


def assign(
    samples: Float[Array, "n d"],
    num_clusters: int,
    key: Key | None = None,
    *,
    core: float = 0.0,
    init: Float[Array, "k d"] | None = None,
    num_init: int = 4,
    num_iters: int | Int[Array, ""] = 300,
    tol: float | Float[Array, ""] = 1e-4,
) -> Assignment:
    """Replaces samples by at most `num_clusters` shared ones.

    One cluster takes the mean; as many clusters as samples change nothing; samples with at
    most `num_clusters` distinct values come back bit for bit, so assigning twice equals
    assigning once. Otherwise `kmeans` decides. With a core, the ``floor(n * core)`` samples
    nearest to the global mean form cluster 0 and k-means has the rest and one cluster less:
    one frequent symbol lowers the entropy of the labels.

    Args:
      samples: One per row.
      num_clusters: From 1 to n.
      key: For the seeds. Not needed with `init`.
      core: Share of the samples in the core, 0 <= core < 1.
      init: First centres, instead of seeds; the first one is not used with a core.
      num_init: As in `kmeans`.
      num_iters: As in `kmeans`.
      tol: As in `kmeans`.

    Returns:
      Centres and labels. Unused centres (fewer distinct samples than clusters) repeat the
      first one.

    Raises:
      ConfigError: if the clusters do not fit the samples, or `core` is out of range.

    Source: arXiv 1806.09228; published code, ``util/kmeans.py``. Deviations: with a core
    and scalar samples it clusters the rest into k, not k - 1; it fails at a core of 1, which
    is an error here (one cluster says the same); it leaves clusters empty.

    >>> rows = jnp.array([[0.0, 0.1], [0.1, 0.0], [5.0, 5.0], [5.0, 5.2], [-9.0, 0.0]])
    >>> assign(rows, 3, jax.random.key(0)).labels.tolist().count(0)
    2
    """
    n = samples.shape[0]
    if not 1 <= num_clusters <= n:
        raise ConfigError(
            f"num_clusters must be within 1..{n} (the number of samples), "
            f"got {num_clusters}"
        )
    if not 0 <= core < 1:
        raise ConfigError(f"core must be within 0 <= core < 1, got {core}")
    in_core = int(n * core)
    if in_core and num_clusters > 1 and n - in_core < num_clusters - 1:
        raise ConfigError(
            f"a core of {core} leaves {n - in_core} of {n} samples for "
            f"{num_clusters - 1} clusters; lower core or num_clusters"
        )
    x = samples.astype(jnp.promote_types(samples.dtype, jnp.float32))
    if num_clusters == n:
        return Assignment(samples, jnp.arange(n, dtype=jnp.int32))
    options = {"num_init": num_init, "num_iters": num_iters, "tol": tol}

    def cluster():
        if num_clusters == 1:
            return jnp.mean(x, 0, keepdims=True), jnp.zeros(n, jnp.int32)
        if not in_core:
            result = kmeans(x, num_clusters, key, init=init, **options)
            return result.centres, result.labels.astype(jnp.int32)
        distance = jnp.sum(jnp.square(x - jnp.mean(x, 0)[None]), 1)
        order = jnp.argsort(distance, stable=True)
        inside, rest = order[:in_core], jnp.sort(order[in_core:])
        start = None if init is None else init[1:]
        result = kmeans(x[rest], num_clusters - 1, key, init=start, **options)
        centres = jnp.concatenate([jnp.mean(x[inside], 0)[None], result.centres])
        labels = (
            jnp.zeros(n, jnp.int32).at[rest].set(result.labels.astype(jnp.int32) + 1)
        )
        return centres, labels

    labels, first, clustered = group_equal(samples, num_clusters)
    distinct = x[jnp.where(first < n, first, 0)]
    centres, labels = lax.cond(clustered, lambda: (distinct, labels), cluster)
    return Assignment(centres.astype(samples.dtype), labels)
