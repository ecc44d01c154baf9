import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.transforms import (
    HorizontalFlip,
    Normalize,
    RandomCrop,
    Resize,
    ToFloat,
    make_transform,
    stack,
)

H, W, C = 5, 7, 3


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(1, 256, (H, W, C), dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_to_float_maps_the_integer_range_to_0_1(dtype):
    top = np.iinfo(dtype).max
    out = ToFloat()({"image": np.array([0, top // 5, top], dtype)}, None)["image"]
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [0, 0.2, 1], rtol=1e-6)


def test_to_float_keeps_the_range_of_floats():
    out = ToFloat()({"image": np.array([-3.0, 700.0])}, None)["image"]
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, [-3, 700])


def test_normalize_is_per_channel_in_units_of_0_1(image):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    out = Normalize(mean=mean, std=std)({"image": image, "label": 1}, None)
    assert out["label"] == 1
    assert out["image"].dtype == np.float32
    for c in range(C):
        expected = (image[..., c] / 255 - mean[c]) / std[c]
        np.testing.assert_allclose(out["image"][..., c], expected, rtol=1e-5, atol=1e-6)


def test_random_crop_is_a_window_of_the_padded_image(image):
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {
        padded[y : y + H, x : x + W].tobytes(): (y, x)
        for y in range(5)
        for x in range(5)
    }
    crop = RandomCrop(pad=2)
    generator = rng()
    seen = {
        windows[
            np.ascontiguousarray(crop({"image": image}, generator)["image"]).tobytes()
        ]
        for _ in range(500)
    }
    assert seen == set(windows.values())  # every place is reached, and nothing else


def test_random_crop_without_padding_stays_inside(image):
    crop = RandomCrop(size=(3, 6))
    generator = rng()
    seen = set()
    for _ in range(100):
        out = crop({"image": image}, generator)["image"]
        (place,) = [
            (y, x)
            for y in range(3)
            for x in range(2)
            if np.array_equal(image[y : y + 3, x : x + 6], out)
        ]
        seen.add(place)
    assert len(seen) == 6


def test_random_crop_can_leave_the_image():
    out = RandomCrop(size=1, pad=3)
    image = np.ones((1, 1, 1), np.uint8)
    values = {int(out({"image": image}, rng(s))["image"].sum()) for s in range(200)}
    assert values == {0, 1}


def test_a_crop_larger_than_the_image_is_named(image):
    with pytest.raises(DataError, match="5x7 padded by 0 is smaller than the crop 6x6"):
        RandomCrop(size=6)({"image": image}, rng())


@pytest.mark.parametrize(("probability", "flips"), [(0.0, 0), (1.0, 50), (0.5, None)])
def test_horizontal_flip_mirrors_with_its_probability(image, probability, flips):
    flip, generator = HorizontalFlip(probability), rng()
    count = 0
    for _ in range(50):
        out = flip({"image": image}, generator)["image"]
        mirrored = np.array_equal(out, image[:, ::-1])
        assert mirrored or np.array_equal(out, image)
        count += mirrored
    assert count == flips if flips is not None else 10 < count < 40


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resize_agrees_with_pillow_per_channel(channels):
    image = rng(1).integers(0, 256, (9, 14, channels), dtype=np.uint8)
    out = Resize(size=(4, 6))({"image": image}, None)["image"]
    assert out.shape == (4, 6, channels)
    for c in range(min(channels, 3)):
        if channels == 4:
            break  # Pillow weights colours by alpha
        one = Image.fromarray(image[..., c]).resize((6, 4), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(out[..., c], np.asarray(one))


def test_resize_refuses_floats():
    with pytest.raises(DataError, match="takes uint8 images, got float32"):
        Resize(size=4)({"image": np.zeros((2, 2, 3), np.float32)}, None)


def test_arguments_are_left_alone(image):
    before = image.copy()
    steps = make_transform(
        [
            {"name": "random_crop", "pad": 1},
            {"name": "horizontal_flip", "probability": 1.0},
            {"name": "normalize", "mean": 0.5, "std": 0.5},
        ]
    )
    example = {"image": image}
    steps(example, rng())
    assert example["image"] is image
    np.testing.assert_array_equal(image, before)


def test_a_batch_equals_its_stacked_examples():
    images = rng(2).integers(0, 256, (4, H, W, C), dtype=np.uint8)
    steps = make_transform(
        [
            {"name": "to_float"},
            {"name": "random_crop", "pad": 2},
            {"name": "normalize", "mean": [0.1, 0.2, 0.3], "std": 0.5},
            {"name": "horizontal_flip"},
        ]
    )
    whole = steps.batch({"image": images}, [rng(i) for i in range(4)])
    single = [steps({"image": images[i]}, rng(i)) for i in range(4)]
    np.testing.assert_array_equal(whole["image"], stack(single)["image"])


def test_functions_and_configs_mix(image):
    def double(example, rng):
        del rng
        return {**example, "label": 2 * example["label"]}

    steps = make_transform([double, {"name": "to_float"}])
    out = steps({"image": image, "label": 3}, None)
    assert out["label"] == 6
    assert out["image"].dtype == np.float32
    assert make_transform(double)({"label": 4}, None) == {"label": 8}
    assert make_transform(None)({"label": 4}, None) == {"label": 4}


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ([{"name": "random_cropp"}], "unknown transform .* did you mean 'random_crop'"),
        (
            [{"name": "random_crop", "padd": 4}],
            "no argument 'padd': did you mean 'pad'",
        ),
        ([{"name": "normalize", "mean": 0.5}], "'normalize' needs the argument 'std'"),
        ([{"name": "normalize", "mean": 0, "std": 0}], "std must be positive, got 0"),
        ([{"name": "random_crop", "pad": -1}], "must not be negative, got -1"),
        ([{"name": "horizontal_flip", "probability": 2}], r"in \[0, 1\], got 2"),
        ([{"name": "resize", "size": 4, "method": "cubic"}], "did you mean 'bicubic'"),
        ([{"pad": 4}], "a transform needs a name"),
        (["to_float"], "a transform needs a name"),
        ("to_float", "must be a list"),
        ({"name": "to_float"}, "must be a list"),
    ],
)
def test_wrong_configs_are_named(steps, match):
    with pytest.raises(ConfigError, match=match):
        make_transform(steps)


def test_wrong_channel_counts_are_named(image):
    with pytest.raises(ConfigError, match="mean has 2 entries, 'image' has 3 channels"):
        Normalize(mean=(0.1, 0.2), std=1.0)({"image": image}, None)


def test_examples_with_different_entries_are_named():
    with pytest.raises(DataError, match="different entries"):
        stack([{"a": 1}, {"b": 1}])
