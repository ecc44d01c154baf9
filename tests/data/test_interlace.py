"""Interlaced frames: which rows move, how far, and what is refused."""

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.interlace import Interlace, move_right, weave
from zoo_jax.data.transforms import make_transform


def photo():
    return np.random.default_rng(0).integers(0, 256, (7, 12, 3), np.uint8)


def test_whole_pixels_move_bit_for_bit_and_borders_repeat():
    out = move_right(photo(), 3)
    np.testing.assert_array_equal(out[:, 3:], photo()[:, :-3])
    np.testing.assert_array_equal(out[:, :3], np.repeat(photo()[:, :1], 3, 1))
    out = move_right(photo(), -2)
    np.testing.assert_array_equal(out[:, :-2], photo()[:, 2:])
    np.testing.assert_array_equal(move_right(photo(), 0.0), photo())


def test_parts_of_pixels_are_interpolated():
    row = np.array([[[0], [100], [200], [40]]], np.uint8)
    assert move_right(row, 0.25)[0, :, 0].tolist() == [0, 75, 175, 80]


def test_only_odd_rows_are_of_the_second_frame():
    a, b = photo(), 255 - photo()
    out = weave(a, b)
    np.testing.assert_array_equal(out[::2], a[::2])
    np.testing.assert_array_equal(out[1::2], b[1::2])


def test_the_transform_pans_within_its_range_and_keeps_the_truth():
    step = make_transform([dict(name="interlace", pixels=[2.0, 2.0])])
    out = step({"image": photo()}, np.random.default_rng(0))
    np.testing.assert_array_equal(out["sharp"], photo())
    np.testing.assert_array_equal(out["image"], weave(photo(), move_right(photo(), 2)))
    still = Interlace(pixels=(0, 0), truth="")
    out = still({"image": photo()}, np.random.default_rng(0))
    np.testing.assert_array_equal(out["image"], photo())
    assert "sharp" not in out


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"pixels must be \(least, largest\)"):
        Interlace(pixels=(1, -1))
    with pytest.raises(DataError, match="put it before to_float"):
        Interlace()(
            {"image": np.zeros((4, 4, 3), np.float32)}, np.random.default_rng(0)
        )
