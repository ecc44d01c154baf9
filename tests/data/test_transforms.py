import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.transforms import (
    CenterCrop,
    HorizontalFlip,
    Normalize,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    ToFloat,
    ToRgb,
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


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_to_rgb_repeats_a_grey_channel_and_leaves_three_alone(image, dtype):
    grey = image[..., :1].astype(dtype)
    out = ToRgb()({"image": grey, "label": 1}, None)
    assert out["label"] == 1
    assert out["image"].dtype == dtype
    np.testing.assert_array_equal(out["image"], np.concatenate([grey] * 3, axis=-1))
    np.testing.assert_array_equal(ToRgb()({"image": image}, None)["image"], image)
    # A whole batch at once, as the loader does it.
    batch = make_transform([{"name": "to_rgb"}]).batch({"image": grey[None]}, [None])
    np.testing.assert_array_equal(batch["image"][0], out["image"])
    with pytest.raises(DataError, match="1 or 3 channels"):
        ToRgb()({"image": np.zeros((H, W, 4), dtype)}, None)


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


@pytest.mark.parametrize("size", [(8, 4), (5, 9), (9, 12), 7, 40])
def test_small_images_are_padded_with_mirrors_before_the_crop(image, size):
    h, w = (size, size) if isinstance(size, int) else size
    dy, dx = max(h - H, 0), max(w - W, 0)
    sides = ((dy // 2, dy - dy // 2), (dx // 2, dx - dx // 2), (0, 0))
    padded = np.pad(image, sides, mode="reflect")
    middle = CenterCrop(size, pad_if_needed=True)({"image": image}, None)["image"]
    expected = CenterCrop(size)({"image": padded}, None)["image"]
    np.testing.assert_array_equal(middle, expected, strict=True)
    seen = set()
    for seed in range(60):
        crop = RandomCrop(size, pad_if_needed=True)
        out = crop({"image": image}, rng(seed))["image"]
        places = [
            (y, x)
            for y in range(padded.shape[0] - h + 1)
            for x in range(padded.shape[1] - w + 1)
            if np.array_equal(padded[y : y + h, x : x + w], out)
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == (max(H - h, 0) + 1) * (max(W - w, 0) + 1)


def test_padding_when_needed_changes_no_draw_of_a_large_image(image):
    for seed in range(9):
        one, other = (
            RandomCrop((3, 4), pad_if_needed=flag)({"image": image}, rng(seed))["image"]
            for flag in (False, True)
        )
        np.testing.assert_array_equal(one, other)


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


def test_resizing_antialiases_and_the_shorter_side_keeps_the_aspect():
    # Halved, a pixel is a triangle over four: weights 3/7, 3/7, 1/7 at a border.
    row = np.array([10, 30, 80, 210, 250], np.uint8)[None, :, None]
    for image, transpose in [
        (np.repeat(row[:, :4], 2, 0), (0, 1, 2)),  # wide: 2x4 -> 1x2
        (np.repeat(row[:, :4], 2, 0), (1, 0, 2)),  # tall: 4x2 -> 2x1
        (np.repeat(row[:, :4], 2, 0).repeat(3, 2), (0, 1, 2)),
    ]:
        image = image.transpose(transpose)
        out = Resize(size=1, keep_aspect=True)({"image": image}, None)["image"]
        assert out.shape == np.zeros((1, 2, image.shape[2])).transpose(transpose).shape
        for c in range(image.shape[2]):
            assert out[..., c].ravel().tolist() == [
                round((3 * 10 + 3 * 30 + 80) / 7),
                round((30 + 3 * 80 + 3 * 210) / 7),
            ]
    # The longer side is rounded down: 2 * 5 / 3.
    odd = Resize(size=2, keep_aspect=True)({"image": np.repeat(row, 3, 0)}, None)
    assert odd["image"].shape == (2, 3, 1)
    same = Resize(size=3, keep_aspect=True)({"image": np.repeat(row, 3, 0)}, None)
    np.testing.assert_array_equal(same["image"], np.repeat(row, 3, 0))


@pytest.mark.parametrize(
    ("size", "top", "left"),
    # Half a pixel goes to the even place: 1.5 -> 2, 0.5 -> 0, 2.5 -> 2.
    [((3, 5), 1, 1), ((2, 4), 2, 2), ((4, 2), 0, 2), (5, 0, 1), ((5, 7), 0, 0)],
)
def test_center_crop_is_the_middle(image, size, top, left):
    out = CenterCrop(size)({"image": image, "label": 3}, None)
    h, w = (size, size) if isinstance(size, int) else size
    np.testing.assert_array_equal(
        out["image"], image[top : top + h, left : left + w], strict=True
    )
    assert out["label"] == 3


def test_the_usual_evaluation_takes_images_of_all_sizes_in_one_batch():
    steps = make_transform(
        [
            {"name": "resize", "size": 6, "keep_aspect": True},
            {"name": "center_crop", "size": 5},
            {"name": "to_float"},
        ]
    )
    for h, w in [(9, 14), (14, 9), (8, 8)]:
        images = rng(3).integers(0, 256, (2, h, w, 3), dtype=np.uint8)
        out = steps.batch({"image": images}, [None, None])["image"]
        assert out.shape == (2, 5, 5, 3)
        short = Image.fromarray(images[1]).resize(
            (6 * w // min(h, w), 6 * h // min(h, w)), Image.Resampling.BILINEAR
        )
        dy, dx = (short.height - 5) // 2, (short.width - 5) // 2
        expected = np.asarray(short)[dy : dy + 5, dx : dx + 5] / np.float32(255)
        np.testing.assert_allclose(out[1], expected)


def test_random_resized_crops_cover_the_ranges_of_area_and_aspect():
    crop, generator = RandomResizedCrop(size=4), rng()
    windows = np.array([crop.window(300, 400, generator) for _ in range(3000)])
    y, x, h, w = windows.T
    assert (y.min(), x.min()) == (0, 0)
    assert ((y + h).max(), (x + w).max()) == (300, 400)
    area, aspect = h * w / (300 * 400), w / h
    assert 0.079 < area.min() < 0.09
    assert 0.95 < area.max() < 1.01
    assert 0.74 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.35
    small = area < 0.5  # all of these fit: evenly drawn
    assert area[small].mean() == pytest.approx(0.29, abs=0.01)
    assert np.log(aspect[small]).mean() == pytest.approx(0, abs=0.01)
    assert (y[small] / (300 - h[small])).mean() == pytest.approx(0.5, abs=0.02)


def test_a_random_resized_crop_is_a_resized_window():
    image = rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    crop = RandomResizedCrop(size=(5, 6), area=(0.2, 0.9))
    for seed in range(20):
        y, x, h, w = crop.window(12, 10, rng(seed))
        window = Image.fromarray(np.ascontiguousarray(image[y : y + h, x : x + w]))
        expected = np.asarray(window.resize((6, 5), Image.Resampling.BILINEAR))
        out = crop({"image": image}, rng(seed))["image"]
        np.testing.assert_array_equal(out, expected, strict=True)


@pytest.mark.parametrize(
    ("shape", "window"), [((3, 100), (0, 48, 3, 4)), ((90, 2), (43, 0, 3, 2))]
)
def test_images_in_which_no_window_fits_give_the_largest_in_the_middle(shape, window):
    assert RandomResizedCrop(size=4).window(*shape, rng()) == window


def test_crops_and_sizes_that_do_not_fit_are_named(image):
    with pytest.raises(DataError, match="5x7 is smaller than the crop 6x6"):
        CenterCrop(6)({"image": image}, None)
    with pytest.raises(DataError, match=r"random_resized_crop: takes uint8 .* float32"):
        RandomResizedCrop(2)({"image": image.astype(np.float32)}, rng())


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
        (
            [{"name": "random_crop", "pad": 2, "pad_if_needed": True}],
            "pad=2 adds zeros, pad_if_needed mirrors: choose one",
        ),
        ([{"name": "horizontal_flip", "probability": 2}], r"in \[0, 1\], got 2"),
        ([{"name": "resize", "size": 4, "method": "cubic"}], "did you mean 'bicubic'"),
        (
            [{"name": "resize", "size": (4, 5), "keep_aspect": True}],
            r"length of the shorter side, got size=\(4, 5\)",
        ),
        (
            [{"name": "random_resized_crop", "size": 4, "area": (0.5, 1.5)}],
            r"area must be a range .* up to 1, got \(0.5, 1.5\)",
        ),
        (
            [{"name": "random_resized_crop", "size": 4, "area": 0.5}],
            r"area must be a range .* got 0.5",
        ),
        (
            [{"name": "random_resized_crop", "size": 4, "aspect": (0, 2)}],
            r"aspect must be a range .* above 0, got \(0, 2\)",
        ),
        (
            [{"name": "random_resized_crop", "size": 4, "method": "box"}],
            "random_resized_crop: unknown method 'box'",
        ),
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
