"""Crops around objects: the published rule exactly, and its repair in small frames."""

import pathlib

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.builders.ug2.annotations import Box
from zoo_jax.data.builders.ug2.crops import (
    crop_object,
    crop_window,
    parse_name,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "fixtures" / "golden" / "ug2_metrics.npz"


def golden_windows():
    stored = np.load(GOLDEN)
    rows = stored["crop/frame_and_box"].tolist()
    for (width, height, *box), window in zip(rows, stored["crop/window"], strict=True):
        yield (height, width), Box(*box), tuple(window.tolist())


def test_windows_are_those_of_the_official_scorer():
    cases = list(golden_windows())
    assert len(cases) == 67
    for size, box, window in cases:
        assert crop_window(box, size, rule="official") == window


def test_the_safe_rule_differs_where_the_official_one_leaves_the_frame_only():
    outside = 0
    for size, box, (x, y, side) in golden_windows():
        inside = min(x, y) >= 0 and y + side <= size[0] and x + side <= size[1]
        assert (crop_window(box, size) == (x, y, side)) == inside
        assert inside or min(size) < 224
        outside += not inside
    assert outside == 10


@pytest.mark.parametrize("seed", range(3))
def test_safe_windows_are_inside_and_hold_the_middle_of_the_box(seed):
    rng = np.random.default_rng(seed)
    for _ in range(300):
        height, width = rng.integers(20, 900, 2).tolist()
        x0, x1 = sorted(rng.choice(width + 1, 2, replace=False).tolist())
        y0, y1 = sorted(rng.choice(height + 1, 2, replace=False).tolist())
        x, y, side = crop_window(Box(x0, y0, x1, y1), (height, width))
        assert 0 <= x <= x + side <= width
        assert 0 <= y <= y + side <= height
        assert x <= (x0 + x1) // 2 <= x + side
        assert y <= (y0 + y1) // 2 <= y + side


def picture(height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_crops_are_slices_and_keep_their_size():
    frame = picture(300, 420)
    box = Box(50, 10, 340, 60)  # 290 wide: larger than 224
    np.testing.assert_array_equal(crop_object(frame, box), frame[0:290, 50:340])


def test_resizing_is_bilinear_without_antialiasing():
    frame = picture(300, 420)
    crop = crop_object(frame, Box(50, 10, 340, 60), side=224)
    at = (np.arange(224) + 0.5) * 290 / 224 - 0.5  # middles of pixels, none is outside
    low = np.floor(at).astype(int)
    part = (at - low)[:, None]
    rows = frame[0:290, 50:340].astype(np.float64)
    for _ in range(2):  # rows, then columns
        wide = rows.reshape(290, -1)
        mixed = wide[low] * (1 - part) + wide[np.minimum(low + 1, 289)] * part
        rows = mixed.reshape(224, *rows.shape[1:]).swapaxes(0, 1)
    # Places up to 290 in float32 are off by 3.5e-5 pixels, and neighbours differ by up to 255:
    # 0.009 along each axis.
    assert np.abs(crop - rows).max() <= 0.5 + 0.02
    assert crop.dtype == np.uint8


def test_the_official_rule_refuses_to_leave_the_frame():
    frame, box = picture(100, 300), Box(200, 40, 220, 60)
    with pytest.raises(DataError, match="smaller than 224 need the rule 'safe'"):
        crop_object(frame, box, rule="official")
    assert crop_object(frame, box).shape == (100, 100, 3)
    assert crop_object(frame, box, side=224).shape == (224, 224, 3)
    with pytest.raises(ConfigError, match=r"unknown rule 'offical': .*'official'"):
        crop_window(box, (100, 300), rule="offical")


def test_names_of_published_crops(shared):
    import zipfile

    archive = zipfile.ZipFile(shared("data", "ug2_samples", "ug2_samples.zip"))
    names = [pathlib.Path(n) for n in archive.namelist()]
    crops = [n.stem for n in names if n.suffix in (".png", ".jpg")]
    assert len(crops) == 20
    found = [parse_name(stem) for stem in crops]
    assert None not in found
    assert sum(name.collection == "air" for name in found) == 10


@pytest.mark.parametrize(
    "stem", ["image_0001", "Car1", "Car1_AV00020_2_x", "Car1_AV00020_2_1_5", ""]
)
def test_other_names_are_not_read(stem):
    assert parse_name(stem) is None


def test_ground_names_hold_their_conditions():
    name = parse_name("Car_car_30_160_sunny_gopro_0_34")
    assert name == ("Car", "ground", "car_30_160_sunny_gopro", 0, 34)
