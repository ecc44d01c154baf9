"""The Koehler protocol, against the steps of its MATLAB program written out with scipy."""

import numpy as np
import pytest

from zoo_jax.metrics.koehler import (
    IMAGES,
    TRAJECTORIES,
    KoehlerScore,
    koehler_counts,
    koehler_score,
    multi_scale_ssim,
    register,
)

H, W = 181, 190


@pytest.fixture(scope="module")
def photo():
    data = pytest.importorskip("skimage.data")
    return data.astronaut()[30 : 30 + H, 120 : 120 + W]


def rolled(image, down, right, noise=0.0, seed=0):
    out = np.roll(image.astype(float), (down, right), axis=(0, 1))
    out += np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "shift", [(0, 0), (7, -4), (-3, 11), (91, 0), (-89, 0), (0, 95), (0, -94)]
)
def test_registration_undoes_a_shift_and_blackens_what_left(photo, shift):
    truth, moved = register(rolled(photo, *shift), photo)
    np.testing.assert_allclose(
        np.corrcoef(truth.ravel(), moved.ravel())[0, 1], 1, atol=1e-9
    )
    down, right = shift
    kept = np.zeros((H, W), bool)
    # An image moved down comes back up: its first rows are those that wrapped round.
    rows = slice(0, H - down) if down >= 0 else slice(-down, H)
    columns = slice(0, W - right) if right >= 0 else slice(-right, W)
    kept[rows, columns] = True
    np.testing.assert_array_equal(truth[kept], photo[kept].astype(float))
    assert not truth[~kept].any()
    assert not moved[~kept].any()


def test_brightness_is_matched_by_one_factor(photo):
    dark = (photo.astype(float) * 0.5).round().astype(np.uint8)
    _, moved = register(dark, photo)
    x, z = photo.astype(float), dark.astype(float)
    np.testing.assert_allclose(moved, z * (x * z).sum() / (z * z).sum())
    still, black = register(np.zeros_like(photo), photo)
    assert not black.any()
    assert np.isfinite(still).all()


def by_the_program(restored, frame, shift):
    """PSNR and MSSIM of luma, with the shift given and scipy's filters."""
    ndimage = pytest.importorskip("scipy.ndimage")
    signal = pytest.importorskip("scipy.signal")
    x, z = frame.astype(float), restored.astype(float)
    z = z * (x * z).sum() / (z * z).sum()
    mask = ndimage.shift(np.ones((H, W)), shift, order=0, cval=0)[..., None]
    z = np.roll(z, shift, axis=(0, 1)) * mask
    x, z = (a @ [0.299, 0.587, 0.114] for a in (x * mask, z))
    psnr = 10 * np.log10(255**2 / np.mean((x - z) ** 2))
    taps = [0.037828455507260, -0.023849465019560, -0.110624404418440]
    taps += [0.377402855612830, 0.852698679008890]
    low = np.outer(taps + taps[3::-1], taps + taps[3::-1])
    low /= low.sum()
    g = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    g = np.outer(g, g) / g.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrasts, structures = [], []
    for scale in range(5):
        if scale:
            x, z = (ndimage.correlate(a, low, mode="reflect")[::2, ::2] for a in (x, z))
        mx, mz, xx, zz, xz = (
            signal.correlate2d(a, g, mode="valid") for a in (x, z, x * x, z * z, x * z)
        )
        sx, sz = np.sqrt(np.maximum(xx - mx**2, 0)), np.sqrt(np.maximum(zz - mz**2, 0))
        contrasts.append(np.mean((2 * sx * sz + c2) / (sx**2 + sz**2 + c2)))
        structures.append(np.mean((xz - mx * mz + c2 / 2) / (sx * sz + c2 / 2)))
    luminance = np.mean((2 * mx * mz + c1) / (mx**2 + mz**2 + c1))
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    return psnr, luminance**0.1333 * np.prod(
        np.array(contrasts) ** weights * np.array(structures) ** weights
    )


def test_agrees_with_the_steps_of_the_program_and_takes_the_best(photo):
    restored = rolled(photo, 5, -3, noise=9)
    frames = [rolled(photo, 8, 8, noise=20, seed=1), photo]
    each = [
        by_the_program(restored, frames[0], (3, 11)),
        by_the_program(restored, frames[1], (-5, 3)),
    ]
    got = koehler_score(restored, iter(frames))
    assert got.psnr == pytest.approx(max(e[0] for e in each), abs=1e-6)
    assert got.mssim == pytest.approx(max(e[1] for e in each), abs=1e-6)
    assert got == koehler_score(restored, frames[::-1])
    assert got.psnr > 25


def test_an_equal_frame_is_perfect(photo):
    other = rolled(photo, 0, 0, noise=30)
    assert koehler_score(photo, [other, photo]) == KoehlerScore(float("inf"), 1.0)


def test_opposed_structures_have_no_likeness(photo):
    grey = photo.mean(-1)
    assert multi_scale_ssim(255 - grey, grey) == 0.0


def test_a_wide_blur_costs_the_coarse_scales_too(photo):
    ndimage = pytest.importorskip("scipy.ndimage")
    grey = photo.mean(-1)
    values = [
        multi_scale_ssim(ndimage.uniform_filter(grey, size), grey)
        for size in (1, 3, 7, 15)
    ]
    assert values[0] == pytest.approx(1, abs=1e-12)
    assert values == sorted(values, reverse=True)


def test_one_frame_is_missing():
    left_out = [
        (image, trajectory, frame)
        for image in IMAGES
        for trajectory in TRAJECTORIES
        for frame in range(1, 201)
        if not koehler_counts(image, trajectory, frame)
    ]
    assert left_out == [(1, 3, 30), (1, 3, 199), (1, 3, 200)]
    assert len(IMAGES) * len(TRAJECTORIES) == 48


def test_what_cannot_be_scored_is_named(photo):
    with pytest.raises(ValueError, match=r"needs 176x176 .*got \(175, 190, 3\)"):
        koehler_score(photo[:175], [photo[:175]])
    with pytest.raises(ValueError, match=r"\(181, 189, 3\) cannot judge an image of"):
        koehler_score(photo, [photo[:, 1:]])
    with pytest.raises(ValueError, match="one sharp frame or more, got none"):
        koehler_score(photo, [])
