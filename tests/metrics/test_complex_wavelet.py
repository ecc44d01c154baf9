"""The SSIM of pyssim: against values of that program, and against its definition in loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.metrics import complex_wavelet
from zoo_jax.metrics.complex_wavelet import complex_wavelet_ssim

# pyssim 0.4 with scipy 1.12 and Pillow 9.5 on the pictures of tests/fixtures/golden.
PUBLISHED = {
    "noise": 0.962191615983035,
    "blur": 0.9759723955626651,
    "shift": 0.9753029834006262,
    "near": 0.999968572761075,
}
PUBLISHED_9X13 = (
    0.978905271494353  # the corner of "blur": shorter than the widest wavelet
)


@pytest.fixture(scope="module")
def golden(root):
    return np.load(root / "tests" / "fixtures" / "golden" / "image_metrics.npz")


def unit(image):
    return jnp.asarray(image[None].astype(np.float32) / 255)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_agrees_with_pyssim(golden, kind):
    got = complex_wavelet_ssim(unit(golden[f"{kind}/image"]), unit(golden["clean"]))
    assert float(got[0]) == pytest.approx(PUBLISHED[kind], abs=1e-7)


def test_agrees_with_pyssim_where_wavelets_are_cut_to_the_signal(golden):
    image, clean = golden["blur/image"][:9, :13], golden["clean"][:9, :13]
    got = float(complex_wavelet_ssim(unit(image), unit(clean))[0])
    assert got == pytest.approx(PUBLISHED_9X13, abs=1e-7)


def by_definition(x, y):
    """Both fractions of the program, with every coefficient from a sum over samples."""
    signal = pytest.importorskip("scipy.signal")
    x, y = x.ravel().astype(float), y.ravel().astype(float)
    coefficients = []
    for width in range(1, 31):
        t = np.arange(min(10 * width, len(x)), dtype=float)
        t -= t.mean()
        peak = 2 / (np.sqrt(3 * width) * np.pi**0.25)
        wavelet = peak * (1 - (t / width) ** 2) * np.exp(-((t / width) ** 2) / 2)
        coefficients.append(
            [signal.convolve(z, wavelet, mode="same", method="direct") for z in (x, y)]
        )
    a, b = np.array(coefficients).transpose(1, 0, 2)
    k = 0.01
    first = 2 * np.sum(np.abs(a) * np.abs(b), axis=0) + k
    first /= np.sum(a**2, axis=0) + np.sum(b**2, axis=0) + k
    second = 2 * np.abs(np.sum(a * np.conj(b), axis=0)) + k
    second /= 2 * np.sum(np.abs(a * np.conj(b)), axis=0) + k
    return np.mean(first * second)


def test_agrees_with_its_definition_across_blocks():
    # 9,570 pixels: two blocks, and a flat part where the constant decides.
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (87, 110), dtype=np.uint8)
    x[20:50] = 100
    y = np.clip(x + rng.normal(0, 30, x.shape), 0, 255).astype(np.uint8)
    y[30:50] = 101
    assert x.size > complex_wavelet._FRAME
    got = float(complex_wavelet_ssim(unit(x[..., None]), unit(y[..., None]))[0])
    assert got == pytest.approx(by_definition(x, y), abs=1e-7)


def test_grey_levels_are_those_of_pillow():
    image = pytest.importorskip("PIL.Image")
    rgb = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    grey = complex_wavelet._grey(unit(rgb), 1.0)[0]
    np.testing.assert_array_equal(grey, np.asarray(image.fromarray(rgb).convert("L")))
    same = complex_wavelet._grey(rgb[None].astype(np.float32), 255.0)[0]
    np.testing.assert_array_equal(grey, same)


def test_each_image_of_a_batch_has_its_own_value():
    rng = np.random.default_rng(2)
    x = rng.random((3, 12, 17, 3)).astype(np.float32)
    y = rng.random((3, 12, 17, 3)).astype(np.float32)
    y[1] = x[1]
    both = complex_wavelet_ssim(jnp.asarray(x), jnp.asarray(y))
    assert both.shape == (3,)
    assert float(both[1]) == 1.0
    for i in (0, 2):
        alone = complex_wavelet_ssim(
            jnp.asarray(x[i : i + 1]), jnp.asarray(y[i : i + 1])
        )
        assert float(alone[0]) == float(both[i]) < 0.9


def test_it_forgives_blur_more_than_the_other_variants():
    # Why a published 0.93 is no 0.93 of another variant.
    from zoo_jax.metrics.image import ssim

    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (96, 96, 1), dtype=np.uint8).astype(np.float32) / 255
    x = (x + np.roll(x, 1, 0) + np.roll(x, 1, 1) + np.roll(x, 2, 1)) / 4
    blurred = sum(np.roll(x, i, axis=1) for i in range(-3, 4)) / 7
    values = {
        variant: float(ssim(blurred[None], x[None], variant=variant)[0])
        for variant in ("skimage_uniform7", "gauss11_valid", "cw")
    }
    assert values["cw"] > max(values["skimage_uniform7"], values["gauss11_valid"]) + 0.1
