"""Light, paths and exposures, against computations of another kind."""

import itertools
import zipfile

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.data import motion_blur
from zoo_jax.data.media import decode_image

GAMMAS = [1, 2.2, "srgb"]
STILL = np.zeros((3, 3))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def path(seed=0, frames=9, length=11.0, degrees=2.0):
    rng = np.random.RandomState(seed)
    return motion_blur.camera_path(rng, frames, length=length, degrees=degrees)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_every_level_survives_the_way_to_light_and_back(gamma):
    levels = np.arange(256, dtype=np.uint8)
    light = motion_blur.to_light(levels, gamma=gamma)
    assert light[0] == 0
    assert light[255] == 1
    assert (np.diff(light) > 0).all()
    np.testing.assert_array_equal(motion_blur.from_light(light, gamma=gamma), levels)


def test_srgb_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    levels = np.arange(256, dtype=np.uint8)
    grey = np.repeat(levels[:, None, None] / 255, 3, axis=-1)
    expected = color.rgb2xyz(grey)[:, 0, 1]  # luminance of grey is its light
    light = motion_blur.to_light(levels, gamma="srgb")
    # The library's rows of its matrix add up to 1 within 1e-6.
    np.testing.assert_allclose(light, expected, atol=2e-6)


@pytest.mark.parametrize("gamma", [0.5, 5, "SRGB", True, None])
def test_other_responses_are_refused(gamma):
    with pytest.raises(ConfigError, match=r"gamma must be 'srgb' or in 1\.\.4, got"):
        motion_blur.to_light(noise(2, 3), gamma=gamma)


@pytest.mark.parametrize("gamma", [1, 2.2])
def test_an_exposure_is_the_mean_light_of_its_frames(gamma):
    frames = noise(7, 5, 6, 3)
    light = np.mean([(f / 255.0) ** gamma for f in frames], axis=0)
    expected = 255 * light ** (1 / gamma)
    found = motion_blur.mean_frame(frames, gamma=gamma)
    assert np.abs(found - expected).max() < 0.501  # rounded once, at the end


@pytest.mark.parametrize("blends", [1, 2, 5])
def test_weights_equal_explicit_blends_between_frames(blends):
    frames = noise(7, 4, 5, 3)
    light = (frames / 255.0) ** 2.2
    dense = [
        (1 - k / blends) * a + k / blends * b
        for a, b in itertools.pairwise(light)
        for k in range(blends)
    ] + [light[-1]]
    expected = 255 * np.mean(dense, axis=0) ** (1 / 2.2)
    found = motion_blur.mean_frame(frames, gamma=2.2, interpolate=blends)
    assert np.abs(found - expected).max() < 0.501


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("frames", "length", "degrees"), [(7, 3.0, 0.5), (13, 12, 2)])
def test_a_path_has_its_length_and_its_mean_at_the_origin(
    seed, frames, length, degrees
):
    p = path(seed, frames, length, degrees)
    assert p.shape == (frames, 3)
    np.testing.assert_allclose(p.mean(axis=0), 0, atol=1e-12)
    steps = np.hypot(*np.diff(p[:, :2], axis=0).T)
    np.testing.assert_allclose(steps.sum(), length)
    np.testing.assert_allclose(np.degrees(p[:, 2].max() - p[:, 2].min()), degrees)


def test_paths_are_smooth_curves_and_not_all_lines():
    turns = []
    for seed in range(30):
        step = np.diff(path(seed, frames=13)[:, :2], axis=0)
        # A cubic: its fourth differences vanish.
        np.testing.assert_allclose(np.diff(step, n=3, axis=0), 0, atol=1e-9)
        a, b = step[:-1], step[1:]
        turns.append(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum())
    assert np.median(turns) > 0.5


def test_a_camera_at_rest_takes_the_sharp_picture():
    scene = noise(15, 18, 3)
    found = motion_blur.shake(scene, STILL, margin=3, gamma="srgb")
    np.testing.assert_array_equal(found, scene[3:-3, 3:-3])


def test_whole_pixel_shifts_are_means_of_windows():
    scene, margin = noise(20, 23, 3), 5
    shifts = [(-2, 1), (0, 0), (3, -2)]  # down, right
    poses = np.array([[y, x, 0] for y, x in shifts], float)
    windows = [scene[5 + y : 15 + y, 5 + x : 18 + x] for y, x in shifts]
    expected = motion_blur.mean_frame(windows, gamma=2.2)
    found = motion_blur.shake(scene, poses, margin=margin, gamma=2.2)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.99


def test_a_roll_turns_about_the_centre():
    scene, margin = noise(22, 22, 3), 4
    poses = np.tile([0.0, 0.0, np.pi / 2], (2, 1))
    found = motion_blur.shake(scene, poses, margin=margin, gamma=1)
    # The camera rolls clockwise, so its picture turns the other way.
    np.testing.assert_array_equal(found, np.rot90(scene[4:-4, 4:-4]))


@pytest.mark.parametrize("seed", range(6))
def test_blur_does_not_move_the_picture(seed):
    poses = path(seed, frames=11, length=9, degrees=2)
    margin = motion_blur.path_margin(poses, 41, 37)
    scene = np.zeros((41 + 2 * margin, 37 + 2 * margin, 3), np.uint8)
    scene[margin + 20, margin + 18] = 255  # in the centre: rolls leave it there
    found = motion_blur.shake(scene, poses, margin=margin, gamma=2.2)
    light = motion_blur.to_light(found, gamma=2.2)[..., 0].astype(np.float64)
    y, x = np.mgrid[:41, :37]
    total = light.sum()
    np.testing.assert_allclose(total, 1, rtol=0.02)  # rounding to levels
    np.testing.assert_allclose((light * y).sum() / total, 20, atol=0.05)
    np.testing.assert_allclose((light * x).sum() / total, 18, atol=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_beyond_the_margin_is_read(seed):
    poses = path(seed, length=7, degrees=6)
    margin = motion_blur.path_margin(poses, 30, 40)
    scene = noise(30 + 2 * margin + 20, 40 + 2 * margin + 20, 3, seed=seed)
    wide = motion_blur.shake(scene, poses, margin=margin + 10, gamma="srgb")
    inner = scene[10:-10, 10:-10]
    close = motion_blur.shake(inner, poses, margin=margin, gamma="srgb")
    np.testing.assert_array_equal(wide, close)


def test_gopro_pictures_of_mean_light_are_brighter_and_so_are_ours(shared):
    archive = shared("data", "deblur_pairs", "deblur_pairs.zip")
    with zipfile.ZipFile(archive) as z:
        names = [n for n in z.namelist() if "/blur_lin/" in n and n.endswith(".webp")]
        assert len(names) == 7
        for seed, name in enumerate(names):
            values = decode_image(z.read(name))
            light = decode_image(z.read(name.replace("blur_lin", "blur_gamma")))
            assert light.mean() > values.mean()
            poses = path(seed, frames=11, length=12)
            margin = motion_blur.path_margin(poses, 100, 100)
            ours = [
                motion_blur.shake(values, poses, margin=margin, gamma=gamma)
                for gamma in (1, 2.2)
            ]
            assert ours[1].mean() > ours[0].mean()
