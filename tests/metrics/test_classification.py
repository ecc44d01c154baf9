import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.metrics.classification import correct, negative_log_likelihood


def test_top_k_agrees_with_a_stable_sort():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (50, 7)).astype(np.float32)  # many ties
    labels = rng.integers(0, 7, 50)
    order = np.argsort(-logits, axis=1, kind="stable")
    for top in (1, 3, 7):
        expected = [
            label in row[:top] for label, row in zip(labels, order, strict=True)
        ]
        got = correct(jnp.asarray(logits), jnp.asarray(labels), top=top)
        np.testing.assert_array_equal(got, expected)


def test_constant_logits_score_at_chance():
    labels = jnp.arange(10)
    assert float(correct(jnp.zeros((10, 10)), labels).mean()) == pytest.approx(0.1)


def test_an_example_with_nan_is_wrong():
    logits = jnp.array([[9.0, jnp.nan, 0.0], [9.0, 1.0, 0.0]])
    assert correct(logits, jnp.array([0, 0])).tolist() == [0.0, 1.0]


def test_likelihood_agrees_with_float64():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(6, 5)) * 9, rng.integers(0, 5, 6)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = negative_log_likelihood(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(
        got, -np.log(p[np.arange(6), labels]), rtol=2e-5, atol=1e-6
    )


def test_likelihood_survives_huge_logits():
    got = negative_log_likelihood(
        jnp.array([[1e30, 0.0], [-1e30, 0.0]]), jnp.array([0, 1])
    )
    np.testing.assert_array_equal(got, [0.0, 0.0])
