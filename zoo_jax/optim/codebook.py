"""Kernels whose samples come from a small codebook: making them, and training them on."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name
from zoo_jax.core.tree import map_named, named_leaves, nest
from zoo_jax.core.types import Key, Params
from zoo_jax.optim import clustering
from zoo_jax.optim.clustering import Assignment
from zoo_jax.optim.layer_spec import Spec, resolve_spec


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
    >>> spec = {"kernel": {"num_clusters": 2, "samples": "scalar"}}
    >>> out, _ = assign_params(params, spec, jax.random.key(0))
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

    >>> spec = {"kernel": {"num_clusters": 2, "samples": "scalar"}}
    >>> check_assigned({"kernel": jnp.array([[1.0, 1.0, 2.0]])}, spec)
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
    first: dict[str, Any]  # likewise: first sample of each cluster [k], int32


def share_cluster_updates(
    spec: Spec, *, reduce: Literal["sum", "mean", "first"] = "sum"
) -> optax.GradientTransformationExtraArgs:
    """Gives all samples of a cluster the same update, so that shared weights stay shared.

    Clusters are the groups of equal samples that the parameters hold at `init`. Placed before
    an elementwise optimiser (SGD with momentum, Adam, weight decay), ``"sum"`` or ``"mean"``
    trains the centres. Equal numbers may still come out of the optimiser different in their
    last bit, since a compiler may round the body and the rest of a vectorised loop
    differently. A second link with ``"first"`` at the end of the chain mends that: weights that
    start equal then stay equal bit for bit.

    .. warning:: Start from assigned parameters (`assign_params`); `check_assigned` tells, on
       the host. Under jit nothing can be raised: samples beyond the first ``num_clusters``
       distinct ones keep their own updates.

    Args:
      spec: See `resolve_spec`.
      reduce: ``"sum"`` is the gradient with respect to the centre; it grows with the size of
        the cluster. ``"mean"`` keeps the step of a single weight. ``"first"`` copies the
        update of the cluster's first sample.

    Returns:
      A transformation whose state holds the clusters. Other leaves stay as they are.

    Raises:
      ConfigError: for a spec that does not fit, or parameters that are not assigned where
        they are concrete.

    Source: arXiv 1806.09228 stops at the assignment; training the centres is our extension.

    >>> params = {"kernel": jnp.array([[1.0, 1.0, 2.0]])}
    >>> spec = {"kernel": {"num_clusters": 2, "samples": "scalar"}}
    >>> tx = share_cluster_updates(spec)
    >>> grads = {"kernel": jnp.array([[0.5, 0.25, 3.0]])}
    >>> tx.update(grads, tx.init(params), params)[0]["kernel"].tolist()
    [[0.75, 0.75, 3.0]]
    """
    known = ("sum", "mean", "first")
    if reduce not in known:
        raise ConfigError(f"unknown reduce {reduce!r}: {closest(reduce, known)}")

    def init_fn(params):
        leaves = named_leaves(params)
        layers = resolve_spec(spec, params)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves.values()):
            check_assigned(params, spec)
        groups = {
            name: clustering.group_equal(layer.matrix(leaves[name]), layer.num_clusters)
            for name, layer in layers.items()
        }
        return SharedUpdatesState(
            labels=nest({name: labels for name, (labels, _, _) in groups.items()}),
            first=nest({name: first for name, (_, first, _) in groups.items()}),
        )

    def update_fn(updates, state, params=None, **extra):
        del params, extra
        layers = resolve_spec(spec, updates)
        labels, first = named_leaves(state.labels), named_leaves(state.first)

        def share(name, update):
            if name not in layers:
                return update
            layer, label, k = layers[name], labels[name], layers[name].num_clusters
            x = layer.matrix(update)
            if reduce == "first":
                # The barriers keep the copy a copy: merged with the operations around it, it
                # would be computed anew, and rounded, at each place.
                x = jax.lax.optimization_barrier(x)
                of_cluster = x[jnp.minimum(first[name], len(x) - 1)]
            elif reduce == "sum":
                of_cluster = clustering.cluster_sums(x, label, k)
            else:
                of_cluster = clustering.centroids(x, label, k)
            shared = of_cluster[jnp.minimum(label, k - 1)]
            shared = jnp.where((label < k)[:, None], shared, x)
            return jax.lax.optimization_barrier(layer.kernel(shared, like=update))

        return map_named(share, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
