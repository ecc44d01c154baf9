import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.nn.norm import BatchNorm


@pytest.fixture
def x():
    return 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (5, 4, 3, 7))


def run(norm, x, **options):
    variables = norm.init(jax.random.key(1), x, train=False)
    return jax.jit(lambda x: norm.apply(variables, x, **options))(x)


def test_batches_are_normalised_as_by_linen(x):
    ours, state = run(BatchNorm(), x, train=True, mutable=["batch_stats"])
    linen = nn.BatchNorm(use_running_average=False)
    theirs, their_state = linen.apply(
        linen.init(jax.random.key(1), x), x, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    # Linen's default momentum is 0.99, its running variance biased.
    assert float(state["batch_stats"]["mean"][0]) == pytest.approx(
        10 * float(their_state["batch_stats"]["mean"][0]), rel=1e-5
    )


def test_running_statistics_follow_pytorchs_rule(x):
    flat = np.asarray(x, np.float64).reshape(-1, 7)
    _, state = run(BatchNorm(momentum=0.75), x, train=True, mutable=["batch_stats"])
    stats = state["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.25 * flat.mean(0), rtol=1e-5)
    unbiased = flat.var(0, ddof=1)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * unbiased, rtol=1e-5)


def test_momentum_zero_keeps_the_last_batch(x):
    _, state = run(BatchNorm(momentum=0.0), x, train=True, mutable=["batch_stats"])
    flat = np.asarray(x).reshape(-1, 7)
    np.testing.assert_allclose(state["batch_stats"]["mean"], flat.mean(0), rtol=1e-5)


def test_evaluation_uses_running_statistics_and_changes_nothing(x):
    norm = BatchNorm(epsilon=0.0)
    variables = norm.init(jax.random.key(1), x, train=False)
    np.testing.assert_array_equal(norm.apply(variables, x, train=False), x)


def test_a_large_offset_does_not_cost_the_variance_its_digits():
    x = 1e4 + jax.random.normal(jax.random.key(0), (4096, 1))
    _, state = run(BatchNorm(momentum=0.0), x, train=True, mutable=["batch_stats"])
    expected = np.var(np.asarray(x, np.float64), ddof=1)
    assert float(state["batch_stats"]["var"][0]) == pytest.approx(expected, rel=1e-3)


def test_one_value_per_channel_stays_finite():
    y, state = run(
        BatchNorm(), jnp.ones((1, 1, 1, 3)), train=True, mutable=["batch_stats"]
    )
    assert jnp.all(jnp.isfinite(y))
    assert jnp.all(jnp.isfinite(state["batch_stats"]["var"]))


def test_statistics_are_float32_at_half_precision(x):
    y, state = run(
        BatchNorm(dtype=jnp.bfloat16),
        x.astype(jnp.bfloat16),
        train=True,
        mutable=["batch_stats"],
    )
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
