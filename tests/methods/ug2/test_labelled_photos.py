"""Squares of photographs that show what a class of ImageNet names."""

import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError
from zoo_jax.data.samples import photos
from zoo_jax.methods.ug2.photos import NAMED, labelled_photos


def test_squares_of_one_photograph_are_one_group_and_the_middle_comes_first():
    source = labelled_photos(size=40, squares=3)
    assert len(source) == 3 * len(NAMED)
    assert source.arrays["image"].shape == (15, 40, 40, 3)
    assert source.arrays["image"].dtype == np.uint8
    labels = source.arrays["label"]
    np.testing.assert_array_equal(labels, np.repeat(np.arange(5), 3))
    assert tuple(source.info["groups"]) == tuple(labels)
    cat = Image.open(photos()["chelsea"]).convert("RGB")
    w, h = cat.size
    left = (w - h) // 2
    middle = cat.crop((left, 0, left + h, h)).resize((40, 40), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(source[0]["image"], np.asarray(middle))
    # Another square of it: the upper left corner, a little closer.
    side = round(0.85 * h)
    corner = cat.crop((left, 0, left + side, side))
    corner = corner.resize((40, 40), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(source[1]["image"], np.asarray(corner))


def test_fewer_squares_are_the_first_ones():
    few, more = (labelled_photos(size=16, squares=n) for n in (1, 5))
    np.testing.assert_array_equal(
        few.arrays["image"], more.arrays["image"].reshape(5, 5, 16, 16, 3)[:, 0]
    )


def test_classes_are_among_the_thousand():
    for named in NAMED.values():
        assert named.classes
        assert all(0 <= c < 1000 for c in named.classes)


@pytest.mark.parametrize("options", [{"size": 0}, {"squares": 0}, {"squares": 6}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="size must be positive and squares 1 to 5"):
        labelled_photos(**options)
