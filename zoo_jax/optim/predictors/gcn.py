"""Graph convolutional predictor on cells: nodes are operations, edges carry tensors."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Params
from zoo_jax.optim.predictors.mlp import init_mlp
from zoo_jax.optim.predictors.protocol import Predictor
from zoo_jax.optim.predictors.training import Loss, TrainingOptions, glorot, train

Graphs = tuple[Any, Any]  # (adjacency [b, n, n], 1 for an edge i -> j; ops [b, n, k])


def gcn_predictor(
    hidden: Sequence[int] = (128, 128, 128, 128),
    *,
    max_epochs: int = 100,
    batch_size: int = 200,
    l2: float = 1e-4,
    tol: float = 1e-4,
    patience: int = 10,
    learning_rate: float = 1e-3,
    loss: Loss = "mse",
) -> Predictor:
    """Stack of graph convolutions, mean over the nodes, linear output.

    A layer is relu(P x W + b), where P averages over a node, what it feeds and what feeds
    it. Nodes whose op row is zero are padding: they neither pass nor receive anything, and
    do not count in the mean.

    Args:
      hidden: Widths of the convolutions.
      max_epochs: As in `mlp_predictor`, like all that follow.
      batch_size: Rows per step.
      l2: Weight decay of kernels.
      tol: The improvement of the loss that restarts `patience`.
      patience: More epochs in a row without it end the fit.
      learning_rate: Of Adam.
      loss: ``"mse"`` or ``"pairwise"``.

    Returns:
      A predictor whose inputs are ``(adjacency [b, n, n], ops [b, n, k])``.

    Raises:
      ConfigError: for numbers out of range, or an unknown loss.

    Source: after BRP-NAS (arXiv 2007.08668), sec. 3.1: four layers; there 600 wide, directed
    and read out at a global node.

    >>> gcn = gcn_predictor((4, 4))
    >>> chain = jnp.array([[[0.0, 1.0], [0.0, 0.0]]]), jnp.eye(2)[None]
    >>> gcn.predict(gcn.init(jax.random.key(0), chain), chain).shape
    (1,)
    """
    if not hidden or min(hidden) < 1:
        raise ConfigError(f"hidden needs at least one width of 1 or more, got {hidden}")
    options = TrainingOptions(
        max_epochs, batch_size, l2, tol, patience, learning_rate, loss
    ).check()

    def init(key, inputs):
        _, ops = inputs
        first, second = jax.random.split(key)
        layers = init_mlp(first, (ops.shape[2], *hidden))
        return {**layers, "output": glorot(second, hidden[-1], 1)}

    def fit(key, inputs, values, mask, params):
        return train(apply_gcn, key, inputs, values, mask, params, options).params

    return Predictor(init, fit, apply_gcn)


def propagation(graphs: Graphs) -> Float[Array, "b n n"]:
    """Row-stochastic average over a node and its neighbours in both directions.

    Rows of padding are zero.

    >>> chain = jnp.array([[[0.0, 1.0], [0.0, 0.0]]]), jnp.eye(2)[None]
    >>> propagation(chain).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    """
    adjacency, ops = graphs
    real = jnp.any(ops != 0, axis=2).astype(ops.dtype)
    links = jnp.maximum(adjacency, adjacency.transpose(0, 2, 1))
    links = jnp.maximum(links, jnp.eye(links.shape[1], dtype=links.dtype)[None])
    links = links * real[:, :, None] * real[:, None, :]
    return links / jnp.maximum(jnp.sum(links, axis=2, keepdims=True), 1)


def apply_gcn(params: Params, graphs: Graphs) -> Float[Array, "b"]:
    """Predictions of a network made by `gcn_predictor`."""
    mix, x = propagation(graphs), graphs[1]
    real = jnp.any(x != 0, axis=2).astype(x.dtype)
    for i in range(len(params) - 1):
        layer = params[f"layer_{i}"]
        x = jax.nn.relu(mix @ (x @ layer["kernel"]) + layer["bias"][None, None])
    weights = real / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
    pooled = jnp.sum(x * weights[:, :, None], axis=1)
    out = pooled @ params["output"]["kernel"] + params["output"]["bias"][None]
    return jnp.squeeze(out, axis=1)
