"""Predictors against independent computations: scikit-learn, and NumPy in float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import cho_factor, cho_solve

from zoo_jax.optim.predictors import gp_predictor
from zoo_jax.optim.predictors.mlp import apply_mlp, init_mlp
from zoo_jax.optim.predictors.training import TrainingOptions, train


def regression(rows, d=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, d))
    return x, np.sin(x[:, 0]) + 0.3 * x[:, 1] - x[:, 2] * x[:, 3]


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        (dict(max_epochs=80), False),
        (dict(max_epochs=400, tol=2e-3, learning_rate=0.01), True),
        (dict(max_epochs=60, l2=0.5, learning_rate=0.003), False),
    ],
)
def test_fit_follows_scikit_learn_epoch_by_epoch(options, stops):
    network = pytest.importorskip("sklearn.neural_network")
    x, y = regression(40)
    names = {"max_epochs": "max_iter", "l2": "alpha", "learning_rate": None}
    names["learning_rate"] = "learning_rate_init"
    theirs = {names.get(k, k): v for k, v in options.items()}

    def regressor(**more):
        return network.MLPRegressor(
            hidden_layer_sizes=(23, 17), random_state=3, **{**theirs, **more}
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it did not converge, nor has it to
        # Steps too small to move a weight: where it starts from.
        start = regressor(max_iter=1, learning_rate_init=1e-30).fit(x, y)
        expected = regressor().fit(x, y)
    params = {
        f"layer_{i}": {"kernel": jnp.float32(w), "bias": jnp.float32(b)}
        for i, (w, b) in enumerate(zip(start.coefs_, start.intercepts_, strict=True))
    }
    inputs, values = jnp.float32(x), jnp.float32(y)
    got = jax.jit(train, static_argnums=(0, 6))(
        apply_mlp,
        jax.random.key(0),
        inputs,
        values,
        jnp.ones(40),
        params,
        TrainingOptions(**options),
    )
    assert int(got.epochs) == expected.n_iter_
    assert (expected.n_iter_ < expected.max_iter) == stops
    losses = np.asarray(got.losses)[: expected.n_iter_]
    # Float32 here, float64 there.
    np.testing.assert_allclose(losses, expected.loss_curve_, rtol=1e-4, atol=1e-6)
    assert np.isnan(np.asarray(got.losses)[expected.n_iter_ :]).all()
    np.testing.assert_allclose(
        apply_mlp(got.params, inputs), expected.predict(x), atol=1e-3
    )


def test_mini_batches_equal_a_loop_in_numpy():
    """7 rows to fit of 11, 3 at a time: steps on 3, 3 and 1 row; the padding makes none."""
    x, y = regression(11, seed=1)
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1.0])
    key, size, epochs, l2, rate = jax.random.key(5), 3, 4, 0.05, 0.01
    params = init_mlp(jax.random.key(1), (5, 8, 1))
    options = TrainingOptions(epochs, size, l2, learning_rate=rate)
    dirty = jnp.where(mask[:, None] > 0, jnp.float32(x), jnp.nan)
    got = train(
        apply_mlp, key, dirty, jnp.float32(y), jnp.float32(mask), params, options
    )

    w = [np.float64(params[n][p]) for n in params for p in ("kernel", "bias")]
    m, v = ([np.zeros_like(p) for p in w] for _ in range(2))
    t, losses = 0, []
    for epoch in range(epochs):
        draws = jax.random.uniform(jax.random.fold_in(key, epoch), (12,))
        draws = np.where(np.append(mask, 0) > 0, draws, 2.0)
        order, total = np.argsort(draws)[:7], 0.0
        for rows in (order[:3], order[3:6], order[6:]):
            a, n = x[rows], len(rows)
            z = a @ w[0] + w[1]
            h = np.maximum(z, 0)
            e = (h @ w[2] + w[3])[:, 0] - y[rows]
            decay = l2 / 2 / n * (np.sum(w[0] ** 2) + np.sum(w[2] ** 2))
            total += n * (0.5 * np.mean(e**2) + decay)
            back = (e[:, None] * w[2].T) * (z > 0)
            grads = [
                (a.T @ back + l2 * w[0]) / n,
                back.sum(axis=0) / n,
                (h.T @ e[:, None] + l2 * w[2]) / n,
                e.sum(keepdims=True) / n,
            ]
            t += 1
            scale = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            for i, g in enumerate(grads):
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * g**2
                w[i] = w[i] - scale * m[i] / (np.sqrt(v[i]) + 1e-8)
        losses.append(total / 7)
    np.testing.assert_allclose(got.losses, losses, rtol=1e-4)
    flat = [got.params[n][p] for n in got.params for p in ("kernel", "bias")]
    for ours, theirs in zip(flat, w, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


KERNELS = {
    "rbf": lambda r: np.exp(-(r**2) / 2),
    "exponential": lambda r: np.exp(-r),
    "matern52": lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_gaussian_process_equals_the_textbook_in_float64(kernel):
    x, y = regression(17, seed=2)
    scales, noises = (0.5, 1.0, 2.0), (0.01, 0.1, 0.5)
    mask = np.ones(17)
    mask[[4, 9]] = 0
    gp = gp_predictor(kernel, lengthscales=scales, noises=noises)
    dirty = jnp.where(mask[:, None] > 0, jnp.float32(x), jnp.nan)
    values = jnp.where(mask > 0, jnp.float32(y), jnp.nan)
    params = gp.fit(jax.random.key(0), dirty, values, jnp.float32(mask), None)
    fresh, _ = regression(11, seed=3)
    mean, deviation = gp.predict_moments(params, jnp.float32(fresh))

    x, y = x[mask > 0], y[mask > 0]
    n = len(y)

    def distance(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))

    unit = np.sqrt((distance(x, x) ** 2).sum() / (n * (n - 1)))
    best = (-np.inf, None)
    for scale in scales:
        for noise in noises:
            length = scale * unit
            k = KERNELS[kernel](distance(x, x) / length) + noise * np.eye(n)
            factor = cho_factor(k)
            one = cho_solve(factor, np.ones(n))
            mu = (one @ y) / one.sum()
            alpha = cho_solve(factor, y - mu)
            s2 = (y - mu) @ alpha / n
            # log N(y; mu, s2 k), without its constant
            evidence = -0.5 * (n * np.log(s2) + np.linalg.slogdet(k)[1])
            if evidence > best[0]:
                rows = KERNELS[kernel](distance(fresh, x) / length)
                solved = cho_solve(factor, rows.T)
                variance = s2 * (1 - np.sum(rows.T * solved, axis=0))
                best = evidence, (scale, noise, mu + rows @ alpha, np.sqrt(variance))
    scale, noise, expected_mean, expected_deviation = best[1]
    np.testing.assert_allclose(params["noise"], noise, rtol=1e-6)
    np.testing.assert_allclose(params["lengthscale"], scale * unit, rtol=1e-5)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-4)
    np.testing.assert_allclose(deviation, expected_deviation, atol=1e-4)
    np.testing.assert_allclose(gp.predict(params, jnp.float32(fresh)), mean, atol=1e-5)
