"""PSNR and SSIM against numbers of other programs, and against scikit-image here and now."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.metrics.complex_wavelet import complex_wavelet_ssim
from zoo_jax.metrics.image import (
    SSIM_VARIANTS,
    luma,
    psnr,
    ssim,
    ssim_gaussian,
    ssim_uniform,
)

KINDS = ("noise", "blur", "shift", "near")


@pytest.fixture(scope="module")
def golden(root):
    return np.load(root / "tests" / "fixtures" / "golden" / "image_metrics.npz")


def unit(image):
    return jnp.asarray(image[None].astype(np.float32) / 255)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", ["rgb", "y"])
def test_agrees_with_the_programs_that_papers_use(golden, kind, channels):
    image, clean = unit(golden[f"{kind}/image"]), unit(golden["clean"])
    if channels == "y":
        image, clean = luma(image), luma(clean)
    got = float(psnr(image, clean)[0])
    assert got == pytest.approx(float(golden[f"{kind}/psnr_{channels}"]), abs=1e-3)
    for ours, theirs in (
        (ssim_gaussian, "gaussian_valid"),
        (ssim_uniform, "skimage_uniform7"),
    ):
        expected = float(golden[f"{kind}/ssim_{channels}_{theirs}"])
        # Half of what the file allows: covariances are taken near zero.
        assert float(ours(image, clean)[0]) == pytest.approx(expected, abs=5e-5), theirs


def test_luma_agrees_with_the_published_one(golden):
    got = 255 * luma(unit(golden["clean"]))[0, ::2, ::2, 0]
    np.testing.assert_allclose(got, golden["clean_y_channel"], atol=1e-3)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_agrees_with_scikit_image_on_a_flat_and_a_busy_image(data_range):
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    flat = np.full((13, 17, 3), 0.8) + 0.002 * rng.normal(size=(13, 17, 3))
    busy = rng.random((13, 17, 3))
    reference = np.stack([flat, busy]).astype(np.float32) * data_range
    noise = rng.normal(size=reference.shape) * data_range
    image = (reference + 0.03 * noise).astype(np.float32)
    ours = [
        f(jnp.asarray(image), jnp.asarray(reference), data_range=data_range)
        for f in (psnr, ssim_uniform, ssim_gaussian)
    ]
    gaussian = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    for i in range(2):
        pair = [a[i].astype(np.float64) for a in (reference, image)]
        common = dict(channel_axis=-1, data_range=data_range)
        expected = [
            metrics.peak_signal_noise_ratio(*pair, data_range=data_range),
            metrics.structural_similarity(*pair, **common),
            metrics.structural_similarity(*pair, **common, **gaussian),
        ]
        got = [float(value[i]) for value in ours]
        np.testing.assert_allclose(got, expected, atol=5e-5)


def test_equal_images_are_perfect_and_order_matters_not():
    x = jax.random.uniform(jax.random.key(0), (2, 11, 12, 3))
    y = jnp.clip(x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), 0, 1)
    assert np.isinf(psnr(x, x)).all()
    for f in (ssim_uniform, ssim_gaussian):
        np.testing.assert_allclose(f(x, x), 1, atol=1e-6)
        np.testing.assert_allclose(f(x, y), f(y, x), rtol=1e-6)
        assert float(f(y, x).max()) < 0.99


@pytest.mark.parametrize(("f", "size"), [(ssim_uniform, 7), (ssim_gaussian, 11)])
def test_images_smaller_than_the_window_are_refused(f, size):
    x = jnp.zeros((1, size, size - 1, 3))
    with pytest.raises(ValueError, match=f"{size}x{size} pixels or more, got {size}x"):
        f(x, x)


def test_every_variant_of_ssim_has_its_name(golden):
    image, clean = unit(golden["blur/image"]), unit(golden["clean"])
    named = {
        "skimage_uniform7": float(golden["blur/ssim_rgb_skimage_uniform7"]),
        "gauss11_valid": float(golden["blur/ssim_rgb_gaussian_valid"]),
        "cw": float(complex_wavelet_ssim(image, clean)[0]),
    }
    assert set(named) == set(SSIM_VARIANTS)
    for variant, expected in named.items():
        got = ssim(image, clean, variant=variant)
        assert float(got[0]) == pytest.approx(expected, abs=5e-5)
        scaled = ssim(255 * image, 255 * clean, variant=variant, data_range=255.0)
        assert float(scaled[0]) == pytest.approx(expected, abs=5e-5)
    with pytest.raises(
        ValueError, match="'matlab': choose from skimage_uniform7, gauss"
    ):
        ssim(image, clean, variant="matlab")
