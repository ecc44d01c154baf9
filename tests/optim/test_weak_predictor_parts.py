"""Sampling, normalisation and the continuous face, one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm, rankdata

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim import weak_predictor_sampling as sampling
from zoo_jax.optim.predictors import gp_predictor
from zoo_jax.optim.weak_predictor import geometric_top_n, scale_by_weak_predictor
from zoo_jax.optim.weak_predictor_state import fit_sizes, normalised


def test_expected_improvement_equals_a_sample_mean():
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(size=6), rng.uniform(0.2, 2, 6)
    draws = mean + deviation * rng.normal(size=(400_000, 6))
    got = sampling.expected_improvement(
        jnp.float32(mean), jnp.float32(deviation), jnp.float32(0.4)
    )
    np.testing.assert_allclose(got, np.maximum(draws - 0.4, 0).mean(axis=0), atol=0.01)


def test_expected_improvement_rises_with_the_mean_where_the_published_one_is_late():
    mean, deviation = jnp.linspace(-1, 3, 9), jnp.full(9, 0.1)
    got = sampling.expected_improvement(mean, deviation, jnp.float32(2.0))
    assert (np.diff(got)[4:] > 0).all()
    # Their formula, typed anew: predictions negated, labels not, deviations over 5.
    labels, m, s = np.array([-1.5, 0.2, 2.0]), -np.asarray(mean), 0.1 / 5
    gamma = (labels.min() - m) / s
    expected = s * (gamma * norm.cdf(gamma) + norm.pdf(gamma))
    published = sampling.published_expected_improvement(
        mean, deviation, jnp.float32(labels.min())
    )
    np.testing.assert_allclose(published, expected, atol=1e-5)


def test_without_doubt_expected_improvement_is_the_gain():
    gain = sampling.expected_improvement(
        jnp.array([1.0, 3.0]), jnp.zeros(2), jnp.float32(2)
    )
    assert gain.tolist() == [0.0, 1.0]


def test_ties_are_broken_by_index_or_by_the_key():
    scores = jnp.array([1.0, 2.0, 2.0, 2.0, jnp.nan])
    assert sampling.rank(scores).tolist() == [1, 2, 3, 0, 4]
    orders = {
        tuple(sampling.rank(scores, jax.random.key(s)).tolist()) for s in range(20)
    }
    assert len(orders) == 6
    assert all(order[3:] == (0, 4) for order in orders)


def test_top_n_falls_from_one_exact_end_to_the_other():
    n = geometric_top_n(80_000, 500, 91)
    curve = [n(fit) for fit in range(91)]
    assert (curve[0], curve[-1], n(200)) == (80_000, 500, 500)
    assert (np.diff(curve) < 0).all()
    # Equal ratios of what is left above the asymptote.
    ratios = np.diff(curve)[1:40] / np.diff(curve)[:39]
    np.testing.assert_allclose(ratios, 0.96 ** (99 / 90), rtol=2e-3)
    assert geometric_top_n(40, 10, 1)(0) == 40
    with pytest.raises(ConfigError, match="geometric_top_n needs"):
        geometric_top_n(10, 5, 0)


def test_normalised_labels_have_the_moments_they_should():
    rng = np.random.default_rng(1)
    values = rng.normal(93, 2, 9).astype(np.float32)
    values[4] = values[2]
    mask = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1], bool)
    dirty, seen = jnp.where(mask, values, jnp.nan), values[mask]

    def of(how):
        out = np.asarray(normalised(dirty, jnp.array(mask), how))
        assert (out[~mask] == 0).all()
        return out[mask]

    np.testing.assert_allclose(
        of("buffer"), (seen - seen.mean()) / seen.std(), atol=1e-4
    )
    np.testing.assert_allclose(of((90.0, 4.0)), (seen - 90) / 4, atol=1e-5)
    np.testing.assert_array_equal(of("none"), seen)
    scores = norm.ppf((rankdata(seen) - 0.5) / len(seen))
    np.testing.assert_allclose(of("ranks"), scores, atol=1e-5)


@pytest.mark.parametrize("how", ["buffer", "ranks"])
def test_equal_labels_become_zero(how):
    values = jnp.full(7, 93.27)
    got = normalised(values, jnp.arange(7) < 5, how)
    np.testing.assert_allclose(got, 0, atol=1e-6)


def test_fits_are_compiled_for_few_sizes_that_hold_all_labels():
    assert fit_sizes(7, 7, 3) == (7,)
    assert fit_sizes(3, 10, 3) == (3, 6, 9, 10)
    sizes = fit_sizes(100, 1000, 1)
    assert len(sizes) <= 10
    assert (sizes[0], sizes[-1]) == (100, 1000)
    assert max(np.diff(sizes)) <= 100


def quadratic(params):
    """Best at logits (0.5, -0.3), (0.2)."""
    gap = jnp.concatenate([params["a"] - jnp.array([0.5, -0.3]), params["b"] - 0.2])
    return -jnp.sum(jnp.square(gap))


def climb(tx, steps, noise=0.3):
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    state, update = tx.init(params), jax.jit(tx.update)
    best = -jnp.inf
    for step in range(steps):
        draws = noise * jax.random.normal(jax.random.key(step), (3,))
        grads = {"a": draws[:2], "b": draws[2:]}
        value = quadratic(params)
        updates, state = update(grads, state, params, value=value, step=step)
        params = optax.apply_updates(params, updates)
        best = jnp.maximum(best, value)
    return params, state, grads, updates


def test_the_predicted_gradient_climbs_without_a_gradient():
    link = scale_by_weak_predictor(gp_predictor(), capacity=30, first=8)
    params, *_ = climb(optax.chain(link, optax.sgd(0.2)), 40)
    start = quadratic({"a": jnp.zeros(2), "b": jnp.zeros(1)})
    assert quadratic(params) > 0.2 * start  # both are negative


def test_the_first_updates_pass_the_gradient():
    link = scale_by_weak_predictor(gp_predictor(), capacity=9, first=5)
    _, state, grads, updates = climb(link, 4)
    for name in ("a", "b"):
        np.testing.assert_array_equal(updates[name], grads[name])
    assert int(state.buffer.mask.sum()) == int(state.count) == 4


def test_the_update_is_minus_the_gradient_of_the_prediction():
    gp = gp_predictor()

    def encode(params):
        return jnp.tanh(params["a"]), params["b"]

    link = scale_by_weak_predictor(gp, capacity=6, first=3, encode=encode)
    params, state, _, updates = climb(optax.chain(link, optax.sgd(0.05)), 9)
    told = jax.tree.map(lambda p, u: p - u, params, updates)
    link_state = state[0]
    assert int(link_state.buffer.mask.sum()) == 6  # the last of nine

    def predicted(a, b):
        point = jnp.concatenate([jnp.tanh(a), b])[None]
        return float(gp.predict(link_state.predictor_params, point)[0])

    step = 1e-2
    for name in ("a", "b"):
        for i in range(told[name].shape[0]):
            ends = [
                predicted(**{**told, name: told[name].at[i].add(s)})
                for s in (step, -step)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(updates[name][i], 0.05 * slope, atol=2e-3)


def test_a_failed_value_is_hidden_from_the_fit():
    link = scale_by_weak_predictor(gp_predictor(), capacity=4, first=2)
    params = {"x": jnp.ones(2)}
    state = link.init(params)
    for value in (1.0, jnp.nan, 2.0):
        updates, state = link.update(params, state, params, value=value)
    assert state.buffer.mask.tolist() == [True, False, True, False]
    assert np.isfinite(updates["x"]).all()


def test_the_continuous_face_says_what_does_not_fit():
    with pytest.raises(ConfigError, match="first=9, capacity=5"):
        scale_by_weak_predictor(gp_predictor(), capacity=5, first=9)
    link = scale_by_weak_predictor(gp_predictor())
    params = {"x": jnp.ones(2)}
    state = link.init(params)
    with pytest.raises(ValueError, match="needs params and value"):
        link.update(params, state, params)
    with pytest.raises(ValueError, match=r"one number, got shape \(2,\)"):
        link.update(params, state, params, value=jnp.ones(2))
