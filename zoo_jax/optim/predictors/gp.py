"""Gaussian process whose hyper-parameters are the likeliest of a small grid."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.optim.predictors.protocol import Predictor, hide_masked

Kernel = Literal["rbf", "matern52", "exponential"]


def gp_predictor(
    kernel: Kernel = "rbf",
    *,
    lengthscales: Sequence[float] = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8),
    noises: Sequence[float] = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0),
) -> Predictor:
    r"""Exact regression with covariance s^2 (R + noise I) around a constant mean.

    Mean and s^2 are the likeliest in closed form; length scale and noise the pair of the grid
    with the highest marginal likelihood. The deviation is that of the noise-free function,
    hyper-parameters taken as known.

    On one-hot encodings the squared distance is twice the number h of choices that differ, so
    ``"rbf"`` is exp(-h / l^2): each choice that differs multiplies the correlation.

    Args:
      kernel: R as a function of the distance r over the length scale l: ``"rbf"``
        exp(-r^2 / 2 l^2), ``"matern52"``, or ``"exponential"`` exp(-r / l).
      lengthscales: In units of the rows' root mean square distance.
      noises: Variance of the noise over that of the function.

    Raises:
      ConfigError: for an unknown kernel, or a grid that is empty or not positive.

    Source: Gaussian Processes for Machine Learning (MIT Press, 2006), eq. 2.30 and ch. 5.4.1.
    Not in arXiv 2102.10490.

    >>> gp = gp_predictor(noises=(1e-3,))
    >>> x, y = jnp.eye(3), jnp.array([1.0, 2.0, jnp.nan])
    >>> key, mask = jax.random.key(0), jnp.array([1.0, 1.0, 0.0])
    >>> params = gp.fit(key, x, y, mask, gp.init(key, x))
    >>> mean, deviation = gp.predict_moments(params, x)
    >>> [round(float(m), 2) for m in mean], bool(deviation[2] > 5 * deviation[0])
    ([1.0, 2.0, 1.5], True)
    """
    if kernel not in get_args(Kernel):
        raise ConfigError(
            f"unknown kernel {kernel!r}: {closest(kernel, get_args(Kernel))}"
        )
    for name, grid in (("lengthscales", lengthscales), ("noises", noises)):
        if not len(grid) or min(grid) <= 0:
            raise ConfigError(f"{name} needs numbers above 0, got {tuple(grid)}")
    pairs = np.array([(a, b) for a in lengthscales for b in noises], np.float32)

    def correlation(squares, lengthscale):
        if kernel == "rbf":
            return jnp.exp(-0.5 * squares / jnp.square(lengthscale))
        r = jnp.sqrt(jnp.maximum(squares, 1e-12)) / lengthscale
        if kernel == "exponential":
            return jnp.exp(-r)
        r = 5**0.5 * r
        return (1 + r + jnp.square(r) / 3) * jnp.exp(-r)

    def init(key, inputs):
        del key
        n, _ = inputs.shape
        zero = jnp.zeros((), inputs.dtype)
        return {
            "inputs": jnp.zeros_like(inputs),
            "inverse_factor": jnp.zeros((n, n), inputs.dtype),
            "weights": jnp.zeros(n, inputs.dtype),
            "lengthscale": jnp.ones((), inputs.dtype),
            **{"mean": zero, "noise": zero, "variance": zero},
        }

    def fit(key, inputs, values, mask, params):
        del key, params
        mask = mask.astype(values.dtype)
        inputs, values = hide_masked(inputs, mask), jnp.where(mask > 0, values, 0)
        both = mask[:, None] * mask[None]
        squares = _squared_distances(inputs, inputs) * both
        count = jnp.maximum(jnp.sum(mask), 1)
        pairs_of_rows = jnp.maximum(count * (count - 1), 1)
        unit = jnp.sqrt(jnp.sum(squares) / pairs_of_rows)
        unit = jnp.where(unit > 0, unit, 1)  # equal rows, or one

        def solve(pair):
            scale, noise = pair[0] * unit, pair[1]
            # Rows of mask 0 are strangers to all others: an identity block.
            matrix = correlation(squares, scale) * both
            matrix = matrix + jnp.diag(jnp.where(mask > 0, noise, 1))
            factor = jnp.linalg.cholesky(matrix)
            ones, solved = (cho_solve((factor, True), x) for x in (mask, values))
            mean = jnp.sum(solved) / jnp.sum(ones)
            weights = solved - mean * ones
            # A floor: equal labels leave no variance, and its logarithm must exist.
            variance = jnp.maximum(jnp.sum(weights * values) / count, 1e-12)
            log_det = 2 * jnp.sum(jnp.log(jnp.diag(factor)))
            evidence = -0.5 * (count * jnp.log(variance) + log_det)
            return evidence, (factor, weights, mean, variance, scale, noise)

        evidence = jax.vmap(lambda pair: solve(pair)[0])(jnp.asarray(pairs))
        best = jnp.argmax(jnp.where(jnp.isnan(evidence), -jnp.inf, evidence))
        _, solution = solve(jnp.asarray(pairs)[best])
        factor, weights, mean, variance, scale, noise = solution
        # A product with the inverse is faster over a pool than a triangular solve.
        inverse = solve_triangular(
            factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True
        )
        return {
            "inputs": inputs,
            "inverse_factor": inverse * mask[:, None],
            "weights": weights * mask,
            "lengthscale": scale,
            **{"mean": mean, "noise": noise, "variance": variance},
        }

    def covariance(params, inputs):
        squares = _squared_distances(inputs, params["inputs"])
        return correlation(squares, params["lengthscale"])

    def predict(params, inputs):
        return params["mean"] + covariance(params, inputs) @ params["weights"]

    def predict_moments(params, inputs):
        rows = covariance(params, inputs)
        known = jnp.sum(jnp.square(rows @ params["inverse_factor"].T), axis=1)
        deviation = jnp.sqrt(params["variance"] * jnp.maximum(1 - known, 0))
        return params["mean"] + rows @ params["weights"], deviation

    return Predictor(init, fit, predict, predict_moments)


def _squared_distances(
    x: Float[Array, "a d"], y: Float[Array, "b d"]
) -> Float[Array, "a b"]:
    squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None]
    return jnp.maximum(squares - 2 * jnp.matmul(x, y.T, precision="highest"), 0)
