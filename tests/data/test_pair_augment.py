"""Geometry shared by two images: against scipy's interpolation and matrices built by hand."""

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data import pair_augment
from zoo_jax.data.loader import train_batches
from zoo_jax.data.pair_augment import KINDS, PairAugment, bilinear
from zoo_jax.data.source import ArraySource
from zoo_jax.data.transforms import make_transform

H, W = 37, 53
SMOOTH = ("shift_scale_rotate", "optical_distortion", "elastic")


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(h=H, w=W, seed=0):
    return rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def grid(h=H, w=W):
    return np.arange(h, dtype=np.float64)[:, None], np.arange(w, dtype=np.float64)[None]


def homogeneous(at):
    """The 2x3 matrix of an affine map, from where three pixels come from."""
    rows, columns = at(*grid())
    origin = np.array([rows[0, 0], columns[0, 0]])
    down = np.array([rows[1, 0], columns[1, 0]]) - origin
    right = np.array([rows[0, 1], columns[0, 1]]) - origin
    for r, c in ((30, 7), (11, 51)):
        np.testing.assert_allclose(
            [rows[r, c], columns[r, c]], origin + r * down + c * right, atol=1e-9
        )
    return np.column_stack([down, right, origin])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 24, (61, 30)])
def test_equal_images_stay_equal_and_are_changed_as_one(kind, size):
    step = PairAugment(size=size, probability=1.0, kinds=[kind], bend=2.0)
    image = picture(41, 41)
    for seed in range(5):
        example = {"image": image, "sharp": image.copy(), "name": "a"}
        out = step(example, rng(seed))
        np.testing.assert_array_equal(out["image"], out["sharp"], strict=True)
        assert out["image"].dtype == np.uint8
        shape = (41, 41) if size is None else (size, size) if size == 24 else size
        assert out["image"].shape == (*shape, 3)
        assert out["name"] == "a"
        assert example["image"] is image
    np.testing.assert_array_equal(image, picture(41, 41))


@pytest.mark.parametrize("kind", KINDS)
def test_both_images_are_sampled_at_the_same_places(kind):
    # The truth is the input plus a constant, which any interpolation keeps.
    step = PairAugment(size=(20, 33), probability=1.0, kinds=[kind])
    image = picture() // 2
    out = step({"image": image, "sharp": image + 100}, rng(3))
    np.testing.assert_array_equal(out["image"] + 100, out["sharp"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_crop_is_a_window_of_the_whole_changed_image(kind, monkeypatch):
    # The same place of the same map, whatever the size of the window.
    monkeypatch.setattr(pair_augment, "random_place", lambda *_: (5, 9))
    image = picture(40, 40)
    small = PairAugment(size=(12, 17), probability=1.0, kinds=[kind], bend=1.0)
    whole = PairAugment(size=None, probability=1.0, kinds=[kind], bend=1.0)
    example = {"image": image, "sharp": image}
    window = small(example, rng(2))["image"]
    monkeypatch.setattr(pair_augment, "random_place", lambda *_: (0, 0))
    full = whole(example, rng(2))["image"]
    np.testing.assert_array_equal(window, full[5:17, 9:26])


def test_sampling_agrees_with_scipy_inside_and_outside_the_image():
    ndimage = pytest.importorskip("scipy.ndimage")
    rows, columns = rng(1).uniform(-60, 90, (2, 25, 31))
    images = [picture(seed=4), picture(seed=5)]
    for image, got in zip(images, bilinear(images, rows, columns), strict=True):
        for c in range(3):
            channel = image[..., c].astype(np.float64)
            expected = ndimage.map_coordinates(
                channel, [rows, columns], order=1, mode="mirror"
            )
            assert np.abs(got[..., c] - expected).max() < 0.5 + 1e-3


def test_sampling_a_one_pixel_wide_image_repeats_it():
    image = picture(1, 1)
    (got,) = bilinear([image], np.full((2, 3), -4.25), np.full((2, 3), 7.5))
    np.testing.assert_array_equal(got, np.broadcast_to(image, (2, 3, 3)))


def test_shift_scale_rotate_is_the_inverse_of_the_matrix_product():
    shift, scale, angle = (0.05, -0.03), 1.08, 30.0
    at = pair_augment.shift_scale_rotate((H, W), shift=shift, scale=scale, angle=angle)
    centre = np.array([(H - 1) / 2, (W - 1) / 2])
    t = np.deg2rad(angle)
    # (row, column): a turn that brings what is on the right to the top.
    turn = scale * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    matrix = homogeneous(at)
    for place in ((0.0, 0.0), (36.0, 5.0), (12.0, 50.0)):
        moved = centre + turn @ (np.array(place) - centre) + np.multiply(shift, (H, W))
        back = matrix[:, :2] @ moved + matrix[:, 2]
        np.testing.assert_allclose(back, place, atol=1e-9)


def test_a_quarter_turn_is_counter_clockwise():
    image = picture(9, 9)
    at = pair_augment.shift_scale_rotate((9, 9), shift=(0, 0), scale=1.0, angle=90.0)
    (got,) = bilinear([image], *at(*grid(9, 9)))
    np.testing.assert_array_equal(got, np.rot90(image))


@pytest.mark.parametrize("k", [-0.05, 0.03])
def test_optical_distortion_scales_the_radius(k):
    rows, columns = pair_augment.optical_distortion((H, W), k=k)(*grid())
    for r, c in ((0, 0), (18, 26), (30, 50)):
        radius = np.hypot(r - 18, c - 26) / W
        found = np.hypot(rows[r, c] - 18, columns[r, c] - 26) / W
        assert found == pytest.approx(radius * (1 + k * radius**2 + k * radius**4))
        straight = (r - 18) * (columns[r, c] - 26) - (c - 26) * (rows[r, c] - 18)
        assert straight == pytest.approx(0, abs=1e-9)


def test_the_elastic_map_takes_the_corners_where_they_should_go():
    corners = np.array([[2.0, -1.0], [0.5, 3.0], [-2.5, 1.5]])
    field = np.zeros((2, *pair_augment.knots((H, W))))
    matrix = homogeneous(pair_augment.elastic((H, W), corners=corners, field=field))
    for move, (dy, dx) in zip(corners, [(1, 1), (-1, 1), (-1, -1)], strict=True):
        corner = np.array([18 + dy * 37 / 3, 26 + dx * 37 / 3])
        back = matrix[:, :2] @ (corner + move) + matrix[:, 2]
        np.testing.assert_allclose(back, corner, atol=1e-9)


def test_the_elastic_field_is_a_cubic_spline_of_its_knots():
    interpolate = pytest.importorskip("scipy.interpolate")
    size = (200, 310)
    field = rng(7).normal(size=(2, *pair_augment.knots(size)))
    at = pair_augment.elastic(size, corners=np.zeros((3, 2)), field=field)
    rows, columns = at(*grid(*size))

    def spline(values, places):
        # Uniform knots; the basis of coefficient i peaks at (i - 1) knot distances.
        steps = (np.arange(len(values) + 4) - 3) * pair_augment.KNOTS
        return interpolate.BSpline(steps, values, 3)(places)

    for axis, got in ((0, rows - grid(*size)[0]), (1, columns - grid(*size)[1])):
        expected = spline(spline(field[axis], np.arange(200.0)).T, np.arange(310.0)).T
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_the_field_has_the_deviation_that_was_asked_for():
    found = []
    for seed in range(40):
        at = pair_augment._draw("elastic", (300, 300), 3.0, rng(seed))
        still = pair_augment._draw("elastic", (300, 300), 0.0, rng(seed))
        moved, unmoved = at(*grid(300, 300)), still(*grid(300, 300))
        found += [a - b for a, b in zip(moved, unmoved, strict=True)]
    assert np.std(found) == pytest.approx(3.0, rel=0.1)
    # What blurred white noise of albumentations' defaults has.
    ndimage = pytest.importorskip("scipy.ndimage")
    noise = rng(0).uniform(-1, 1, (700, 700))
    blurred = ndimage.gaussian_filter(noise, 50, mode="wrap")
    assert pair_augment.BEND == pytest.approx(blurred.std(), rel=0.15)


def test_flip_and_transposition_move_whole_pixels():
    image = picture(12, 12)
    example = {"image": image, "sharp": image}
    flip = PairAugment(probability=1.0, kinds=["flip"])
    np.testing.assert_array_equal(flip(example, rng())["sharp"], image[:, ::-1])
    swap = PairAugment(probability=1.0, kinds=["transpose"])
    np.testing.assert_array_equal(
        swap(example, rng())["sharp"], image.transpose(1, 0, 2)
    )


def test_oblong_images_keep_their_size_without_a_crop():
    step = PairAugment(probability=1.0)
    image = picture()
    shapes = {
        step({"image": image, "sharp": image}, rng(s))["image"].shape for s in range(30)
    }
    assert shapes == {(H, W, 3)}
    only = PairAugment(probability=1.0, kinds=["transpose"])
    out = only({"image": image, "sharp": image}, rng())
    np.testing.assert_array_equal(out["image"], image)


def test_every_kind_is_drawn_as_often_and_nothing_half_of_the_time():
    image = picture(30, 30)
    example = {"image": image, "sharp": image}
    plain = image.tobytes(), image[:, ::-1].tobytes(), image.swapaxes(0, 1).tobytes()
    counts = np.zeros(4)
    for seed in range(600):
        out = PairAugment()(example, rng(seed))["image"].tobytes()
        counts[plain.index(out) if out in plain else 3] += 1
    np.testing.assert_allclose(counts / 600, [0.5, 0.1, 0.1, 0.3], atol=0.06)


def test_small_images_are_continued_by_mirrors():
    image = picture(5, 7)
    step = PairAugment(size=(8, 10), probability=0.0)
    out = step({"image": image, "sharp": image}, rng())["image"]
    expected = np.pad(image, ((1, 2), (1, 2), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(out, expected)


def test_batches_depend_on_the_seed_alone():
    images = rng(1).integers(0, 256, (6, 20, 24, 3), dtype=np.uint8)
    source = ArraySource({"image": images, "sharp": images[..., ::-1]})
    steps = [dict(name="pair_augment", size=16), dict(name="corrupt")]

    def first(seed):
        batches = train_batches(source, batch_size=6, seed=seed, transform=steps)
        return next(iter(batches))

    one, again, other = first(0), first(0), first(1)
    for key in ("image", "sharp"):
        np.testing.assert_array_equal(one[key], again[key])
    assert (one["sharp"] != other["sharp"]).any()


@pytest.mark.parametrize(
    ("section", "match"),
    [
        (dict(probability=1.5), r"in \[0, 1\], got 1.5"),
        (dict(kinds=["fliip"]), "unknown kind 'fliip': did you mean 'flip'"),
        (dict(kinds=[]), "needs a kind"),
        (dict(bend=-1.0), "bend must not be negative, got -1.0"),
        (dict(sizes=3), "no argument 'sizes': did you mean 'size'"),
    ],
)
def test_wrong_sections_are_named(section, match):
    with pytest.raises(ConfigError, match=match):
        make_transform([dict(name="pair_augment", **section)])


def test_wrong_pairs_are_named():
    step = PairAugment()
    with pytest.raises(DataError, match=r"differ in size: .*\(37, 53, 3\).*\(37, 52"):
        step({"image": picture(), "sharp": picture(37, 52)}, rng())
    floats = picture().astype(np.float32)
    with pytest.raises(DataError, match=r"'image' is float32 \[37, 53, 3\]: put it"):
        step({"image": floats, "sharp": floats}, rng())
