"""Noise: of the promised strength, a function of its key alone, the same on all devices."""

import jax
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.data.degrade import NoisyImages, fixed_noise, gaussian_noise
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import open_source
from zoo_jax.train.mesh import make_mesh

SHAPE = (8, 40, 50, 3)


def test_each_image_has_a_strength_of_its_own_and_that_strength():
    noise, level = gaussian_noise(jax.random.key(0), SHAPE, sigma=(0.0, 55.0))
    level = np.asarray(level)
    assert len(set(level.tolist())) == len(level)
    assert (level >= 0).all()
    assert (level <= 55).all()
    # 6,000 draws per image: the deviation is known to about 1 %.
    found = 255 * np.std(np.asarray(noise), axis=(1, 2, 3))
    np.testing.assert_allclose(found, level, rtol=0.04)
    np.testing.assert_allclose(np.mean(noise, axis=(1, 2, 3)), 0, atol=0.01)


def test_strengths_are_uniform():
    _, level = gaussian_noise(jax.random.key(1), (4000, 1, 1, 1), sigma=(10, 20))
    counts, _ = np.histogram(level, bins=5, range=(10, 20))
    assert counts.sum() == 4000
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800 * 0.8)


def test_noise_follows_from_the_key_on_any_number_of_devices():
    def draw(key):
        return gaussian_noise(key, SHAPE, sigma=(0.0, 55.0))[0]

    one = jax.jit(draw)(jax.random.key(3))
    mesh = make_mesh(4)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    np.testing.assert_array_equal(
        one, jax.jit(draw, out_shardings=rows)(jax.random.key(3))
    )
    assert np.abs(one - draw(jax.random.key(4))).max() > 0


def test_fixed_noise_never_changes():
    # The legacy generator of numpy is frozen: these numbers hold for every version.
    noise = fixed_noise((2, 2, 1), sigma=25, index=3)
    expected = np.random.RandomState([25000, 3]).normal(0, 25 / 255, (2, 2, 1))
    np.testing.assert_array_equal(noise, expected.astype(np.float32))
    assert noise.dtype == np.float32
    others = [fixed_noise((2, 2, 1), sigma=s, index=i) for s, i in ((25, 4), (15, 3))]
    assert all(np.abs(noise - other).max() > 0 for other in others)


def test_noisy_images_are_unclipped_and_the_same_in_any_batch():
    clean = dict(name="synthetic_images", size=5, height=9, width=7, num_classes=2)
    source = open_source(dict(name="noisy_images", source=clean, sigma=50.0))
    assert len(source) == 5
    images = open_source(clean)
    for batch_size in (1, 3):
        rows = [
            (a, b)
            for batch in eval_batches(source, batch_size=batch_size)
            for a, b, real in zip(
                batch["image"], batch["noisy"], batch["mask"], strict=True
            )
            if real
        ]
        for i, (image, noisy) in enumerate(rows):
            np.testing.assert_array_equal(image, images[i]["image"] / np.float32(255))
            expected = image + fixed_noise(image.shape, sigma=50, index=i)
            np.testing.assert_array_equal(noisy, expected)
    values = np.concatenate([noisy.ravel() for _, noisy in rows])
    assert values.min() < 0 < 1 < values.max()


@pytest.mark.parametrize("sigma", [-1, 256])
def test_impossible_strengths_are_named(sigma):
    with pytest.raises(ConfigError, match=f"0..255, got {sigma}"):
        NoisyImages(source=dict(name="synthetic_images"), sigma=sigma)


def test_only_8_bit_images_take_noise():
    with pytest.raises(ConfigError, match="uint8 images, its source has float32"):
        NoisyImages(source=[{"image": np.zeros((2, 2, 3), np.float32)}], sigma=1)[0]
