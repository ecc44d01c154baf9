import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.nn.norm import NORM_MODES, USED_STATISTICS, BatchNorm, InstanceNorm


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


def test_statistics_of_each_image_make_a_batch_its_images_one_by_one(x):
    alone = BatchNorm(mode="per_image")
    for train in (False, True):
        options = {"mutable": ["batch_stats"]} if train else {}
        got = run(alone, x, train=train, **options)
        one = run(alone, x[2:3], train=train, **options)
        got, one = (got[0], one[0]) if train else (got, one)
        np.testing.assert_allclose(got[2:3], one, atol=2e-6)
    batch = run(BatchNorm(mode="batch"), x, train=False)
    np.testing.assert_allclose(
        batch, run(BatchNorm(), x, train=True, mutable=["batch_stats"])[0], atol=2e-6
    )
    assert np.abs(batch - run(alone, x, train=False)).max() > 0.1


def test_running_statistics_of_images_are_the_mean_over_them(x):
    images = np.asarray(x, np.float64)
    for norm in (
        InstanceNorm(momentum=0.75),
        BatchNorm(momentum=0.75, mode="per_image"),
    ):
        _, state = run(norm, x, train=True, mutable=["batch_stats"])
        stats = state["batch_stats"]
        mean = images.mean((1, 2)).mean(0)
        unbiased = images.var((1, 2), ddof=1).mean(0)
        np.testing.assert_allclose(stats["mean"], 0.25 * mean, rtol=1e-5)
        np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * unbiased, rtol=1e-5)


@pytest.mark.parametrize("mode", NORM_MODES)
def test_instance_norm_is_pytorchs(x, mode):
    torch = pytest.importorskip("torch")
    twin = torch.nn.InstanceNorm2d(7, affine=False, track_running_stats=True)
    nchw = torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())
    norm = InstanceNorm(mode=mode)
    variables = norm.init(jax.random.key(0), x, train=False)
    for _ in range(2):
        theirs = twin(nchw)
        ours, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {**variables, **state}
        np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), theirs, atol=2e-6)
    for name, buffer in (("mean", twin.running_mean), ("var", twin.running_var)):
        np.testing.assert_allclose(state["batch_stats"][name], buffer, rtol=1e-5)
    twin.train(mode != "running")
    evaluated = norm.apply(variables, x, train=False).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(evaluated, twin(nchw), atol=2e-6)


@pytest.mark.parametrize("norm", [BatchNorm, InstanceNorm])
def test_the_used_statistics_are_left_where_the_running_ones_stand(norm, x):
    layer, image = norm(mode="per_image"), x[:1]
    variables = layer.init(jax.random.key(0), image, train=False)
    assert USED_STATISTICS not in variables
    y, state = layer.apply(variables, image, train=False, mutable=USED_STATISTICS)
    used = jax.tree.map(lambda leaf: leaf[0], state[USED_STATISTICS])
    assert jax.tree.structure(used) == jax.tree.structure(variables["batch_stats"])
    frozen = norm(mode="running").apply(
        {**variables, "batch_stats": used}, image, train=False
    )
    np.testing.assert_array_equal(frozen, y)
