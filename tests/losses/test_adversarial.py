"""Adversarial losses: against the released code, a re-derivation in numpy, and invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from zoo_jax.losses.adversarial import (
    ADVERSARIAL,
    gradient_penalty,
    init_pool,
    pool_means,
    update_pool,
)

POOLED = [name for name, loss in ADVERSARIAL.items() if loss.pooled]
every_loss = pytest.mark.parametrize("name", ADVERSARIAL)
every_pooled = pytest.mark.parametrize("name", POOLED)


def scores(seed, b=3, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 0.7, (b, 4, 5, 1)).astype("f4")


def softplus(x):
    return np.logaddexp(0, x)


def by_numpy(name, real, fake, pool_real, pool_fake):
    """(discriminator, generator) from whole maps in float64; pools are lists of maps."""
    real, fake = (np.asarray(x, np.float64) for x in (real, fake))
    if name == "gan":
        d = (softplus(-real).mean() + softplus(fake).mean()) / 2
        return d, softplus(-fake).mean()
    if name == "lsgan":
        return ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2, (
            (fake - 1) ** 2
        ).mean()
    if name == "wgan_gp":
        return fake.mean() - real.mean(), -fake.mean()
    r = real - np.mean(np.asarray(pool_fake, np.float64))
    f = fake - np.mean(np.asarray(pool_real, np.float64))
    if name == "ragan":
        d = (softplus(-r).mean() + softplus(f).mean()) / 2
        return d, (softplus(r).mean() + softplus(-f).mean()) / 2
    d = ((r - 1) ** 2).mean() / 2 + ((f + 1) ** 2).mean() / 2
    return d, ((r + 1) ** 2).mean() / 2 + ((f - 1) ** 2).mean() / 2


@pytest.mark.parametrize("name", ["gan", "ragan", "ragan_ls"])
def test_losses_pools_and_gradients_agree_with_the_released_code(name):
    """Three rounds with 20 images each and a pool of 50, which runs over in the third."""
    file = Golden("deblurgan_v2_adversarial.npz")
    loss, pool = ADVERSARIAL[name], init_pool(50)
    found = {"d_loss": [], "g_loss": []}

    def discriminator(real, fake, pool):
        values, pool = loss.discriminator(real, fake, pool)
        return jnp.mean(values), pool

    def generator(real, fake, pool):
        return jnp.mean(loss.generator(real, fake, pool))

    for t in range(3):
        real, fake = (file.inputs[f"{kind}_d{t}"] for kind in ("real", "fake"))
        (value, pool), (found["grad_d_real"], found["grad_d_fake"]) = (
            jax.value_and_grad(discriminator, (0, 1), has_aux=True)(real, fake, pool)
        )
        found["d_loss"].append(value)
        real, fake = (file.inputs[f"{kind}_g{t}"] for kind in ("real", "fake"))
        value, found["grad_g_fake"] = jax.value_and_grad(generator, 1)(real, fake, pool)
        found["g_loss"].append(value)
    if name != "gan":
        assert int(pool["count"]) == 50
    listed = [output for output in file.meta["outputs"] if output.split("/")[0] == name]
    file.compare({f"{name}/{k}": np.asarray(v) for k, v in found.items()}, of=listed)


@every_loss
def test_values_agree_with_a_derivation_from_whole_maps(name):
    loss, size = ADVERSARIAL[name], 5
    pool = init_pool(size)
    real_maps, fake_maps = [], []
    for step in range(4):  # 3 images each: the pool of 5 runs over in the second
        real, fake = scores(2 * step, mean=0.4), scores(2 * step + 1, mean=-0.3)
        real_maps, fake_maps = (
            [*maps, *new][-size:]
            for maps, new in ((real_maps, real), (fake_maps, fake))
        )
        value, pool = loss.discriminator(real, fake, pool)
        other = loss.generator(real + 0.1, fake + 0.2, pool)
        assert value.shape == other.shape == (3,)
        expected, _ = by_numpy(name, real, fake, real_maps, fake_maps)
        _, expected_other = by_numpy(name, real + 0.1, fake + 0.2, real_maps, fake_maps)
        np.testing.assert_allclose(np.mean(value), expected, rtol=1e-5)
        np.testing.assert_allclose(np.mean(other), expected_other, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("ragan_ls", 1.0), ("ragan", np.log(2)), ("gan", np.log(2))]
)
def test_a_discriminator_that_cannot_tell_gives_both_sides_the_same(name, value):
    level = 0.0 if name == "gan" else 3.7  # a relativistic one does not see the level
    same = jnp.full((2, 4, 5, 1), level)
    loss, pool = ADVERSARIAL[name], init_pool(50)
    d, pool = loss.discriminator(same, same, pool)
    np.testing.assert_allclose(d, value, rtol=1e-6)
    np.testing.assert_allclose(loss.generator(same, same, pool), value, rtol=1e-6)


@every_pooled
def test_swapping_real_and_fake_swaps_the_sides(name):
    loss = ADVERSARIAL[name]
    real, fake = scores(0, mean=0.5), scores(1)
    pool = update_pool(init_pool(7), real, fake)
    swapped = update_pool(init_pool(7), fake, real)
    one, _ = loss.discriminator(real, fake, pool)
    other = loss.generator(
        fake, real, loss.discriminator(fake, real, swapped)[1]
    )  # its labels are the other way round
    np.testing.assert_allclose(np.mean(one), np.mean(other), rtol=1e-5)
    assert not np.allclose(
        np.mean(one), np.mean(loss.discriminator(fake, real, swapped)[0])
    )


def test_a_pool_keeps_the_last_fifty_images():
    pool = init_pool(50)
    for step in range(9):
        values = np.arange(7 * step, 7 * step + 7, dtype="f4").reshape(7, 1, 1, 1)
        pool = update_pool(pool, values, -values)
        assert int(pool["count"]) == min(7 * step + 7, 50)
        kept = np.arange(max(7 * step + 7 - 50, 0), 7 * step + 7)
        means = [float(m) for m in pool_means(pool)]
        np.testing.assert_allclose(means, [kept.mean(), -kept.mean()], rtol=1e-6)
    np.testing.assert_array_equal(pool["real"], np.arange(13, 63))


def test_of_a_batch_larger_than_the_pool_the_last_images_stay():
    values = np.arange(9, dtype="f4").reshape(9, 1)
    pool = update_pool(init_pool(4), values, values)
    np.testing.assert_array_equal(pool["fake"], [5, 6, 7, 8])


def test_after_one_image_its_mean_is_the_mean():
    real, fake = scores(0, b=1), scores(1, b=1)
    pool = update_pool(init_pool(50), real, fake)
    np.testing.assert_allclose(pool_means(pool), [real.mean(), fake.mean()], rtol=1e-5)


def test_an_empty_pool_has_no_mean():
    assert np.isnan(pool_means(init_pool(3))).all()
    with pytest.raises(ValueError, match="size=0"):
        init_pool(0)


@every_pooled
def test_no_gradient_passes_through_the_pool(name):
    loss = ADVERSARIAL[name]
    real, fake = scores(0), scores(1)

    def through_pool(real, fake):
        return sum(
            jnp.sum(x) for x in pool_means(update_pool(init_pool(5), real, fake))
        )

    for gradient in jax.grad(through_pool, (0, 1))(real, fake):
        assert not np.any(gradient)
    # So the gradient of the loss is that with the means held fixed.
    pool = update_pool(init_pool(5), real, fake)
    got = jax.grad(lambda r: jnp.sum(loss.discriminator(r, fake, init_pool(5))[0]))(
        real
    )
    fixed = jax.grad(lambda r: jnp.sum(loss.generator(-r, -fake, _negated(pool))))(real)
    np.testing.assert_allclose(got, fixed, atol=1e-6)


def _negated(pool):
    """The generator's game on negated scores is the discriminator's game."""
    return {**pool, "real": -pool["real"], "fake": -pool["fake"]}


def test_every_image_of_the_global_batch_enters_the_pool_on_many_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    real, fake = scores(0, b=16), scores(1, b=16)
    play = jax.jit(ADVERSARIAL["ragan_ls"].discriminator)
    alone, pool = play(real, fake, init_pool(20))
    both = [jax.device_put(x, rows) for x in (real, fake)]
    together, pooled = play(*both, init_pool(20))
    assert int(pooled["count"]) == 16
    np.testing.assert_array_equal(pooled["real"], pool["real"])
    np.testing.assert_array_equal(pooled["fake"], pool["fake"])
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def critic(x, xp=jnp):
    """A smooth critic that scores 2x2 patches of each image, [b, h/2, w/2]."""
    patches = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3)
    weights = np.random.default_rng(5).normal(size=(2, 2, 3)).astype(x.dtype)
    return xp.sin(xp.einsum("bhiwjc,ijc->bhw", patches, weights))


def test_the_penalty_is_that_of_its_paper():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 3, 4, 6, 3)).astype("f4")
    key = jax.random.key(7)
    share = np.asarray(jax.random.uniform(key, (3, 1, 1, 1)), np.float64)
    expected = []
    for i in range(3):
        x = share[i] * real[i] + (1 - share[i]) * fake[i]
        slope = numeric_gradient(lambda x: np.mean(critic(x[None], np)), x)
        expected.append((np.sqrt((slope**2).sum()) - 1) ** 2)
    got = gradient_penalty(key, critic, real, fake)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_the_variant_of_the_released_code_is_another():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 3, 4, 6, 3)).astype("f4")
    key = jax.random.key(7)
    share = float(jax.random.uniform(key, (1, 1, 1, 1))[0, 0, 0, 0])
    x = share * real + (1 - share) * fake
    slope = np.asarray(jax.grad(lambda x: jnp.sum(critic(x)))(x))
    expected = ((np.sqrt((slope**2).sum(-1)) - 1) ** 2).mean()
    got = gradient_penalty(key, critic, real, fake, reference_compat=True)
    np.testing.assert_allclose(np.mean(got), expected, rtol=1e-5)
    assert abs(np.mean(gradient_penalty(key, critic, real, fake)) - expected) > 0.1


def test_the_penalty_gives_finite_gradients_where_the_critic_is_flat():
    x = jnp.ones((2, 4, 4, 3))

    def penalty(weight):
        score = lambda x: weight * jnp.sum(x, (1, 2, 3))  # noqa: E731
        return jnp.sum(gradient_penalty(jax.random.key(0), score, x, x))

    value, slope = jax.value_and_grad(penalty)(0.0)
    assert float(value) == 2.0
    assert np.isfinite(slope)


def numeric_gradient(f, x, step=1e-5):
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        out[index] = (float(f(up)) - float(f(down))) / (2 * step)
    return out
