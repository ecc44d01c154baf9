"""Classic enhancers against scikit-image, Pillow and OpenCV, and on pictures made for them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import FOLDER
from PIL import Image
from skimage import data, exposure, restoration

from zoo_jax.methods.ug2.enhancers.clahe import clahe, clahe_levels
from zoo_jax.methods.ug2.enhancers.deconvolution import (
    blind_deconvolution,
    estimate_kernel,
    gaussian_kernel,
    richardson_lucy,
    wiener,
)
from zoo_jax.methods.ug2.enhancers.filters import (
    BANK,
    choose_filter,
    filter_images,
    spectral_slope,
    unsharp,
    unsharp_kernel,
)
from zoo_jax.methods.ug2.enhancers.histogram import equalize, match_histograms
from zoo_jax.methods.ug2.enhancers.resampling import enlarge, nearest_x2, shrink


@pytest.fixture(scope="module")
def photo():
    """[1, 40, 47, 3] with three different channels."""
    grey = np.float32(data.camera()[200:240, 210:257]) / 255
    return np.stack([grey, grey**2, 1 - grey], -1)[None]


def motion_kernel():
    """Not symmetric, so that a flipped kernel shows."""
    kernel = np.zeros((5, 5), np.float32)
    kernel[2, 1:] = (0.1, 0.2, 0.3, 0.4)
    return kernel


def by_channel(function, image):
    planes = [function(image[0, ..., c].astype(np.float64)) for c in range(3)]
    return np.clip(np.stack(planes, -1), 0, 1)


@pytest.mark.parametrize("kernel", [gaussian_kernel(1.2), motion_kernel()])
def test_deconvolution_equals_that_of_scikit_image(photo, kernel):
    wide = kernel.astype(np.float64)
    expected = by_channel(lambda x: restoration.wiener(x, wide, 0.02), photo)
    found = jax.jit(lambda x: wiener(x, kernel=kernel, balance=0.02, border=0))(photo)
    np.testing.assert_allclose(found[0], expected, atol=2e-6)
    expected = by_channel(lambda x: restoration.richardson_lucy(x, wide, 6), photo)
    found = jax.jit(lambda x: richardson_lucy(x, kernel=kernel, iterations=6))(photo)
    np.testing.assert_allclose(found[0], expected, atol=2e-6)


def psnr(a, b):
    return -10 * np.log10(np.mean(np.square(np.asarray(a) - b)))


def test_a_blur_is_found_and_undone_without_knowing_it():
    sharp = np.float32(data.coins()[50:130, 50:146]) / 255
    sharp = np.repeat(sharp[None, ..., None], 3, -1)
    kernel = gaussian_kernel(1.5, size=9)
    blurred = np.round(255 * np.asarray(filter_images(sharp, kernel))) / 255

    @jax.jit
    def run(x):
        return estimate_kernel(x[0, ..., 0], size=9), blind_deconvolution(x, size=9)

    found, restored = run(jnp.asarray(blurred, jnp.float32))
    assert float(found.min()) >= 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    likeness = (found * kernel).sum() / np.sqrt((found**2).sum() * (kernel**2).sum())
    assert likeness > 0.9
    assert psnr(restored, sharp) > psnr(blurred, sharp) + 1


def test_a_flat_picture_has_no_blur():
    found = jax.jit(lambda y: estimate_kernel(y, size=5))(jnp.full((20, 24), 0.4))
    assert np.asarray(found).argmax() == 12
    assert float(found.max()) == 1


def test_equalised_luminance_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    grey = rng.random((13, 17), np.float32) ** 3
    image = np.repeat(grey[None, ..., None], 3, -1)
    expected = exposure.equalize_hist(grey.astype(np.float64))
    flat = np.full_like(image, 0.3)
    found = jax.jit(equalize)(np.concatenate([image, flat]))
    np.testing.assert_allclose(found[0, ..., 1], expected, atol=1e-6)
    np.testing.assert_array_equal(found[1], flat[0])


def test_matched_histograms_are_those_of_scikit_image():
    rng = np.random.default_rng(1)
    shape = (2, 9, 12, 3)
    image = (np.round(20 * rng.random(shape)) / 20).astype(np.float32)  # with ties
    reference = (np.round(30 * rng.random(shape) ** 2) / 30).astype(np.float32)
    reference[1, :6] = 0.5
    found = jax.jit(match_histograms)(image, reference)
    for a, b, c in zip(image, reference, found, strict=True):
        expected = exposure.match_histograms(a, b, channel_axis=-1)
        np.testing.assert_allclose(c, expected, atol=1e-6)
    np.testing.assert_array_equal(jax.jit(match_histograms)(image, image), image)
    # A monotone change of the input does not matter: only ranks do.
    np.testing.assert_array_equal(jax.jit(match_histograms)(image**2, reference), found)


def test_clahe_equals_that_of_opencv():
    file = np.load(FOLDER / "clahe_opencv.npz")
    assert "OpenCV" in json.loads(str(file["meta"]))["reference"]
    names = [key.removeprefix("in_") for key in file.files if key.startswith("in_")]
    assert len(names) == 4
    for name in names:
        limit, *tiles = file[f"options_{name}"].tolist()
        levels = jnp.asarray(file[f"in_{name}"], jnp.int32)[None]
        options = dict(clip_limit=limit, tiles=tuple(int(n) for n in tiles))
        run = jax.jit(functools.partial(clahe_levels, **options))  # compiles once
        found = np.asarray(run(levels))[0]
        difference = np.abs(found - file[f"out_{name}"].astype(int))
        # A compiled multiply-add rounds once, where OpenCV rounds twice: ties may tip.
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01, name


def test_clahe_changes_the_luminance_alone():
    rng = np.random.default_rng(2)
    image = jnp.asarray(0.4 + 0.2 * rng.random((1, 20, 24, 3), np.float32))
    out = jax.jit(lambda x: clahe(x, clip_limit=1.5))(image)
    inside = np.asarray((out > 0) & (out < 1)).all(-1)
    assert inside.mean() > 0.5
    for pair in ((0, 1), (1, 2)):
        change = [x[..., pair[0]] - x[..., pair[1]] for x in (out, image)]
        np.testing.assert_allclose(*(c[inside] for c in change), atol=1e-6)
    assert float(out.std()) > 1.5 * float(image.std())


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic"])
def test_interpolation_is_that_of_pillow(kind):
    rng = np.random.default_rng(3)
    grey = rng.random((5, 7), np.float32)
    method = Image.Resampling[kind.upper()]
    large = np.array(Image.fromarray(grey).resize((14, 10), method))
    found = enlarge(jnp.asarray(grey[None, ..., None]), kind)
    np.testing.assert_allclose(found[0, ..., 0], large, atol=1e-6)
    back = np.array(Image.fromarray(large).resize((7, 5), method))
    found = shrink(jnp.asarray(large[None, ..., None]), kind)
    np.testing.assert_allclose(found[0, ..., 0], back, atol=1e-6)
    if kind == "nearest":
        image = jnp.asarray(rng.random((1, 5, 7, 3), np.float32))
        np.testing.assert_array_equal(nearest_x2(image), image)


def test_an_unsharp_mask_adds_what_the_blur_takes(photo):
    kernel = gaussian_kernel(1.0)
    blurred = np.asarray(filter_images(photo, kernel))
    expected = np.clip(photo + 0.7 * (photo - blurred), 0, 1)
    found = unsharp(jnp.asarray(photo), sigma=1.0, amount=0.7)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert unsharp_kernel(1.0, 0.7).sum() == pytest.approx(1, abs=1e-6)


def natural(slope, side=64, seed=0):
    """A picture whose power falls with this slope."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.standard_normal((side, side))) * frequency ** (slope / 2)
    y = np.fft.ifft2(spectrum).real
    y = 0.5 + 0.1 * (y - y.mean()) / y.std()
    return np.repeat(y[None, ..., None], 3, -1).astype(np.float32)


def test_the_bank_leaves_natural_pictures_and_sharpens_blurred_ones():
    sharp = natural(-2.0)
    blurred = np.asarray(filter_images(sharp, gaussian_kernel(0.7)))
    flat = np.full_like(sharp, 0.5)
    both = jnp.asarray(np.concatenate([sharp, blurred, flat]))
    slopes, out = jax.jit(lambda x: (spectral_slope(x), choose_filter(x)))(both)
    assert slopes[0] == pytest.approx(-2, abs=0.15)
    assert slopes[1] < -3
    assert slopes[2] == pytest.approx(0, abs=1e-4)
    names = [list(BANK)[i] for i in out.chosen]
    assert names[0] == "identity"
    assert names[1] != "identity"
    np.testing.assert_array_equal(out.images[0], both[0])
    assert psnr(out.images[1], sharp[0]) > psnr(blurred[0], sharp[0])
