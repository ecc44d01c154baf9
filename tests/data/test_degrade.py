"""Noise: of the promised strength, a function of its key alone, the same on all devices."""

import jax
import numpy as np
import pytest
import scipy.ndimage

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.corruptions import jpeg
from zoo_jax.data.degrade import (
    Degrade,
    NoisyImages,
    fixed_noise,
    gaussian_blur,
    gaussian_noise,
    linear_motion_blur,
    lower_resolution,
)
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import open_source
from zoo_jax.data.transforms import make_transform
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


def photo(h=21, w=26):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 1.7])
def test_gaussian_blur_is_that_of_scipy(sigma):
    reach = int(np.ceil(4 * sigma))
    expected = scipy.ndimage.gaussian_filter(
        photo().astype(np.float64),
        (sigma, sigma, 0),
        mode="mirror",
        radius=(reach, reach, 0),
    )
    found = gaussian_blur(photo(), sigma=sigma)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3  # the rounding
    np.testing.assert_array_equal(gaussian_blur(photo(), sigma=0.0), photo())


@pytest.mark.parametrize(
    ("degrees", "offsets"),
    [
        (0, [(0, -2), (0, -1), (0, 0), (0, 1), (0, 2)]),
        (90, [(-2, 0), (-1, 0), (0, 0), (1, 0), (2, 0)]),
        (45, [(2, -2), (1, -1), (0, 0), (-1, 1), (-2, 2)]),
    ],
)
def test_linear_motion_blur_is_the_mean_along_its_line(degrees, offsets):
    point = np.zeros((9, 9, 3), np.uint8)
    point[4, 4] = 250
    length = (
        5 if degrees != 45 else 7
    )  # a slanted line is as long, and so has fewer pixels
    out = linear_motion_blur(point, length=length, degrees=degrees)[..., 0]
    places = {(int(y) - 4, int(x) - 4) for y, x in np.argwhere(out)}
    assert places == set(offsets)
    assert set(out[out > 0].tolist()) == {50}
    np.testing.assert_array_equal(
        linear_motion_blur(photo(), length=1, degrees=77), photo()
    )


def test_lower_resolution_keeps_the_size_and_loses_detail():
    out = lower_resolution(photo(), factor=2.5)
    assert out.shape == photo().shape
    assert np.abs(np.diff(out.astype(int), axis=1)).mean() < 30
    flat = np.full((7, 5, 3), 90, np.uint8)
    np.testing.assert_array_equal(lower_resolution(flat, factor=3), flat)


def test_degrade_keeps_the_clean_image_and_follows_its_generator():
    example = {"image": photo(), "label": 3}
    step = Degrade()
    a, b, c = (step(example, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a["sharp"], photo())
    np.testing.assert_array_equal(a["image"], b["image"])
    assert (a["image"] != c["image"]).any()
    assert (a["image"] != photo()).any()
    assert a["label"] == 3
    assert example["image"] is not a["image"]
    nothing = Degrade(probability=0.0)(example, np.random.default_rng(0))
    np.testing.assert_array_equal(nothing["image"], photo())
    assert "sharp" not in Degrade(truth="")(example, np.random.default_rng(0))


def test_every_part_of_degrade_can_be_left_out():
    example = {"image": photo()}
    only_jpeg = Degrade(sigma=(0, 0), lengths=(), quality=10)
    out = only_jpeg(example, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(out, jpeg(photo(), quality=10))
    only_blur = Degrade(sigma=(1.0, 1.0), lengths=(), quality=0)
    out = only_blur(example, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(out, gaussian_blur(photo(), sigma=1.0))
    step = make_transform([dict(name="degrade", factor=2.0, quality=0)])
    assert step(example, np.random.default_rng(0))["image"].shape == photo().shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(quality=96), "quality must be in 0..95, got 96"),
        (dict(sigma=(1, 0)), "sigma must be"),
        (dict(lengths=(3, 4)), "lengths must be odd and positive"),
        (dict(factor=0.5), "factor must be 1 or more"),
        (dict(probability=2), "probability must lie in"),
    ],
)
def test_degrade_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        Degrade(**options)


def test_degrade_wants_bytes():
    with pytest.raises(DataError, match="put it before to_float"):
        Degrade()({"image": np.zeros((4, 4, 3), np.float32)}, np.random.default_rng(0))
