"""The weak predictor of the paper: a multi-layer perceptron on the encoding."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Key, Params
from zoo_jax.optim.predictors.protocol import Predictor
from zoo_jax.optim.predictors.training import Loss, TrainingOptions, glorot, train


def mlp_predictor(
    hidden: Sequence[int] = (200, 200, 200, 200),
    *,
    max_epochs: int = 100,
    batch_size: int = 200,
    l2: float = 1e-4,
    tol: float = 1e-4,
    patience: int = 10,
    learning_rate: float = 1e-3,
    loss: Loss = "mse",
) -> Predictor:
    """ReLU network with a linear output, fitted as scikit-learn's ``MLPRegressor`` does.

    Args:
      hidden: Widths of the hidden layers. The published code has four of 1,000.
      max_epochs: Most epochs of a fit.
      batch_size: Rows per step; all where there are fewer.
      l2: Weight decay of kernels, as a loss term divided by the rows of the batch.
      tol: The improvement of the loss that restarts `patience`.
      patience: More epochs in a row without it end the fit.
      learning_rate: Of Adam.
      loss: ``"mse"``, or ``"pairwise"`` which learns the order alone.

    Raises:
      ConfigError: for numbers out of range, or an unknown loss.

    Source: arXiv 2102.10490, published code; the settings are scikit-learn's defaults.

    >>> mlp = mlp_predictor((8,), max_epochs=300, learning_rate=0.03)
    >>> x, y = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([0.0, 2.0, jnp.nan])
    >>> params = mlp.init(jax.random.key(0), x)
    >>> params = mlp.fit(jax.random.key(1), x, y, jnp.array([1.0, 1.0, 0.0]), params)
    >>> [round(float(p)) for p in mlp.predict(params, x[:2])]
    [0, 2]
    """
    if not hidden or min(hidden) < 1:
        raise ConfigError(f"hidden needs at least one width of 1 or more, got {hidden}")
    options = TrainingOptions(
        max_epochs, batch_size, l2, tol, patience, learning_rate, loss
    ).check()

    def init(key, inputs):
        return init_mlp(key, (inputs.shape[1], *hidden, 1))

    def fit(key, inputs, values, mask, params):
        return train(apply_mlp, key, inputs, values, mask, params, options).params

    return Predictor(init, fit, apply_mlp)


def init_mlp(key: Key, widths: Sequence[int]) -> Params:
    """Layers between consecutive `widths`, named ``layer_0`` and so on."""
    keys = jax.random.split(key, len(widths) - 1)
    return {
        f"layer_{i}": glorot(keys[i], widths[i], widths[i + 1])
        for i in range(len(widths) - 1)
    }


def apply_mlp(params: Params, inputs: Float[Array, "b d"]) -> Float[Array, "b"]:
    """Predictions of a network made by `init_mlp` with one output."""
    x: Any = inputs
    for i in range(len(params)):
        layer = params[f"layer_{i}"]
        x = x @ layer["kernel"] + layer["bias"][None]
        if i + 1 < len(params):
            x = jax.nn.relu(x)
    return jnp.squeeze(x, axis=1)
