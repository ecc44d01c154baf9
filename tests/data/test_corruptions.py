"""Corruptions of the input, each against another program or a loop over pixels."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data import corruptions as c
from zoo_jax.data.corruptions import CORRUPTIONS, Corrupt
from zoo_jax.data.transforms import make_transform

H, W = 29, 41


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def image():
    coarse = rng(1).integers(0, 256, (8, 11, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((W, H), Image.Resampling.BICUBIC)
    return np.array(smooth)


def reflect(image, reach):
    return np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")


def test_cutout_blackens_squares_and_nothing_else(image):
    image = np.maximum(image, 1)
    out = c.cutout(image, np.array([[10, 20], [0, W]]), size=5)
    black = (out == 0).all(-1)
    expected = np.zeros((H, W), bool)
    for y in range(H):
        for x in range(W):
            near = [abs(y - a) <= 2 and abs(x - b) <= 2 for a, b in ((10, 20), (0, W))]
            expected[y, x] = any(near)
    np.testing.assert_array_equal(black, expected)
    np.testing.assert_array_equal(out[~black], image[~black])


def test_three_holes_of_25_pixels():
    white = np.full((200, 300, 3), 255, np.uint8)
    areas = [
        (CORRUPTIONS["cutout"](white, rng(s)) == 0).mean(-1).sum() for s in range(80)
    ]
    assert max(areas) == 3 * 25**2  # apart, and inside


@pytest.mark.parametrize("quality", [70, 90])
def test_jpeg_is_what_other_decoders_read(image, quality):
    got = c.jpeg(image, quality=quality)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    np.testing.assert_array_equal(got, np.array(Image.open(file).convert("RGB")))
    assert (got != image).any()


def test_better_quality_is_nearer(image):
    errors = [
        np.abs(c.jpeg(image, quality=q).astype(int) - image).mean()
        for q in (70, 80, 90)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("size", "ends"), [(3, ((0, 1), (2, 1))), (7, ((1, 0), (6, 5)))]
)
def test_motion_blur_is_the_mean_over_its_line(image, size, ends):
    line = c.draw_line(size, *ends)
    got, padded = c.motion_blur(image, line), reflect(image.astype(float), size // 2)
    for y, x in ((0, 0), (11, 17), (H - 1, W - 1), (20, 0)):
        values = padded[y : y + size, x : x + size][line]
        assert np.abs(got[y, x] - values.mean(0)).max() <= 0.5


def test_lines_join_their_ends():
    square = c.draw_line(7, (1, 2), (5, 4))
    assert square[2, 1]
    assert square[4, 5]
    assert square.sum() == 5  # one pixel per column
    for seed in range(50):
        white = np.full((9, 9, 3), 200, np.uint8)
        np.testing.assert_array_equal(CORRUPTIONS["motion_blur"](white, rng(seed)), 200)
        dot = np.zeros((31, 31, 3), np.uint8)
        dot[15, 15] = 255
        blurred = CORRUPTIONS["motion_blur"](dot, rng(seed))[..., 0]
        assert 2 <= (blurred > 0).sum() <= 7


@pytest.mark.parametrize("size", [3, 5, 7])
def test_median_blur_agrees_with_scipy(image, size):
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = ndimage.median_filter(image, (size, size, 1), mode="nearest")
    np.testing.assert_array_equal(c.median_blur(image, size=size), expected)


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
def test_gamma_agrees_with_scikit_image(image, exponent):
    exposure = pytest.importorskip("skimage.exposure")
    expected = exposure.adjust_gamma(image / 255.0, 1 / exponent) * 255
    assert np.abs(c.gamma(image, exponent=exponent) - expected).max() <= 0.5 + 1e-9


def test_rgb_shift_adds_and_clips(image):
    shift = np.array([20, -20, 3])
    expected = np.minimum(np.maximum(image.astype(int) + shift, 0), 255)
    np.testing.assert_array_equal(c.rgb_shift(image, shift), expected)


@pytest.mark.parametrize("shift", [(30.0, 0.0, 0.0), (-40.0, 20.0, -15.0)])
def test_hsv_shift_agrees_with_the_standard_library(image, shift):
    hue, saturation, value = shift
    got = c.hsv_shift(image, hue=hue, saturation=saturation, value=value)
    for y, x in rng(2).integers(0, (H, W), (60, 2)):
        a, b, v = colorsys.rgb_to_hsv(*image[y, x] / 255)
        b = min(max(b + saturation / 255, 0), 1)
        v = min(max(v + value / 255, 0), 1)
        expected = 255 * np.array(colorsys.hsv_to_rgb((a + hue / 360) % 1, b, v))
        # Hue has 256 levels of 1.4 degrees, of which 60 change a channel by up to 255.
        assert np.abs(got[y, x] - expected).max() <= 9


def test_sharpen_agrees_with_a_filter_of_scipy(image):
    ndimage = pytest.importorskip("scipy.ndimage")
    alpha, lightness = 0.3, 0.7
    kernel = -alpha * np.ones((3, 3))
    kernel[1, 1] = (1 - alpha) + alpha * (8 + lightness)
    exact = ndimage.correlate(image.astype(float), kernel[..., None], mode="mirror")
    got = c.sharpen(image, alpha=alpha, lightness=lightness)
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_touches_the_input_only_and_repeats(image, kind):
    step = Corrupt(probability=1.0, kinds=[kind])
    sharp, before = image[:, ::-1], image.copy()
    outs = []
    for seed in (0, 0, 1, 2, 3):
        example = {"image": image, "sharp": sharp, "index": 7}
        out = step(example, rng(seed))
        assert out["sharp"] is sharp
        assert out["index"] == 7
        assert out["image"].dtype == np.uint8
        assert out["image"].shape == image.shape
        outs.append(out["image"])
    np.testing.assert_array_equal(outs[0], outs[1])
    assert len({out.tobytes() for out in outs}) > 1
    assert all((out != image).any() for out in outs)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("kind", "function", "limits"),
    [
        ("jpeg", "jpeg", dict(quality=(70, 90))),
        ("median_blur", "median_blur", dict(size=(3, 7))),
        ("gamma", "gamma", dict(exponent=(0.8, 1.2))),
        (
            "hsv_shift",
            "hsv_shift",
            dict(hue=(-40, 40), saturation=(-30, 30), value=(-20, 20)),
        ),
        ("sharpen", "sharpen", dict(alpha=(0.2, 0.5), lightness=(0.5, 1.0))),
    ],
)
def test_draws_fill_the_published_ranges(kind, function, limits, monkeypatch):
    seen = []
    monkeypatch.setattr(c, function, lambda image, **drawn: seen.append(drawn) or image)
    tiny = np.zeros((2, 2, 3), np.uint8)
    for seed in range(400):
        CORRUPTIONS[kind](tiny, rng(seed))
    for name, (low, high) in limits.items():
        values = np.array([float(drawn[name]) for drawn in seen])
        assert low <= values.min() <= low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) <= values.max() <= high


def test_kinds_are_drawn_as_often_as_each_other(image, monkeypatch):
    seen = []
    for kind in CORRUPTIONS:
        monkeypatch.setitem(
            CORRUPTIONS, kind, lambda image, rng, kind=kind: seen.append(kind) or image
        )
    for seed in range(1600):
        Corrupt()({"image": image}, rng(seed))
    assert len(seen) == pytest.approx(800, abs=80)
    counts = [seen.count(kind) for kind in CORRUPTIONS]
    assert min(counts) > 60
    assert max(counts) < 140


@pytest.mark.parametrize(
    ("section", "match"),
    [
        (dict(probability=-0.5), r"in \[0, 1\], got -0.5"),
        (dict(kinds=["jpg"]), "unknown kind 'jpg': did you mean 'jpeg'"),
        (dict(kinds=[]), "needs a kind"),
    ],
)
def test_wrong_sections_are_named(section, match):
    with pytest.raises(ConfigError, match=match):
        make_transform([dict(name="corrupt", **section)])


@pytest.mark.parametrize(
    "bad", [np.zeros((5, 6, 3), np.float32), np.zeros((5, 6, 1), np.uint8)]
)
def test_other_images_are_refused(bad):
    with pytest.raises(DataError, match=r"takes uint8 images \[h, w, 3\], 'image' is"):
        Corrupt()({"image": bad}, rng())
