"""Interlacing: found to a tenth of a pixel, repaired, left alone where there is none."""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError
from zoo_jax.data.corruptions import jpeg
from zoo_jax.data.interlace import Interlace
from zoo_jax.methods.ug2.enhancers.ccre import blockiness, enhance_relevant
from zoo_jax.methods.ug2.enhancers.interlace import (
    deinterlace,
    detect_interlace,
    repair_interlace,
)

PANS = (0.0, 0.3, 0.5, 1.0, -2.3, 3.7, 6.0, -8.25)
HEIGHT, WIDTH = 41, 64


def scene(x, y):
    waves = 0.2 * np.sin(2 * np.pi * (x / 23 + y / 31))
    return 0.5 + waves + 0.15 * np.cos(2 * np.pi * (x / 11 - y / 17 + 0.3))


def pan(distance):
    """What a camera sees of a smooth scene that moves to the right, and its first field."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    first, second = scene(x, y), scene(x - distance, y)
    woven = first.copy()
    woven[1::2] = second[1::2]
    return tuple(
        np.repeat(p[..., None], 3, -1).astype(np.float32) for p in (woven, first)
    )


def interlaced():
    """By the transform of the data pipeline, 2.5 pixels."""
    image = np.uint8(np.round(255 * pan(0.0)[0]))
    example = Interlace(pixels=(2.5, 2.5))({"image": image}, np.random.default_rng(0))
    np.testing.assert_array_equal(example["sharp"], image)
    return np.float32(example["image"]) / 255


@pytest.fixture(scope="module")
def looked_at():
    """All pictures of this file together, so that one program is compiled."""
    woven, first = (list(x) for x in zip(*(pan(d) for d in PANS), strict=True))
    rows = np.linspace(0, 1, HEIGHT, dtype=np.float32).reshape(-1, 1, 1)
    flat = np.full((HEIGHT, WIDTH, 3), 0.3, np.float32)
    others = [flat, np.broadcast_to(rows, flat.shape), interlaced()]
    pictures = jnp.asarray(np.stack(woven + others))
    repaired, shift = jax.jit(repair_interlace)(pictures)
    return (
        np.asarray(pictures),
        np.stack(first),
        np.asarray(repaired),
        np.asarray(shift),
    )


def test_pans_are_measured_to_a_tenth_of_a_pixel(looked_at):
    *_, shift = looked_at
    np.testing.assert_allclose(shift[: len(PANS)], PANS, atol=0.1)


def test_a_picture_without_horizontal_detail_has_no_shift(looked_at):
    pictures, _, repaired, shift = looked_at
    np.testing.assert_array_equal(shift[len(PANS) : len(PANS) + 2], 0)
    np.testing.assert_array_equal(
        *(x[len(PANS) : len(PANS) + 2] for x in (repaired, pictures))
    )
    assert float(detect_interlace(jnp.ones((1, 2, 5, 3)))[0]) == 0


def test_an_interlaced_transform_is_found_by_the_detector(looked_at):
    *_, shift = looked_at
    assert float(shift[-1]) == pytest.approx(2.5, abs=0.1)


def test_interlaced_pictures_are_repaired_and_progressive_ones_untouched(looked_at):
    pictures, first, repaired, _ = looked_at
    woven, repaired = pictures[: len(PANS)], repaired[: len(PANS)]
    error = np.mean(np.square(repaired - first), axis=(1, 2, 3))
    before = np.mean(np.square(woven - first), axis=(1, 2, 3))
    np.testing.assert_array_equal(repaired[0], woven[0])
    assert (-10 * np.log10(error[1:]) > 30).all()
    strong = np.abs(PANS) >= 1
    assert (error[strong] < before[strong] / 10).all()


@pytest.mark.parametrize("field", ["even", "odd"])
def test_one_field_is_kept_bit_for_bit_and_cubics_are_filled_exactly(field):
    row = np.linspace(0, 1, 17, dtype=np.float64)
    cubic = 0.2 + 0.5 * row - 0.9 * row**2 + 0.7 * row**3
    image = np.broadcast_to(cubic[:, None, None], (17, 4, 3)).astype(np.float32)
    spoiled = image.copy()
    kept = 0 if field == "even" else 1
    spoiled[1 - kept :: 2] = 0
    out = np.asarray(deinterlace(jnp.asarray(spoiled[None]), field=field))[0]
    np.testing.assert_array_equal(out[kept::2], image[kept::2])
    np.testing.assert_allclose(out[4:-4], image[4:-4], atol=1e-6)


def test_no_official_sample_is_taken_for_interlaced(shared):
    archive = zipfile.ZipFile(shared("data", "ug2_samples", "ug2_samples.zip"))
    names = [n for n in archive.namelist() if n.lower().endswith((".png", ".jpg"))]
    assert len(names) == 20
    pictures = [
        np.array(Image.open(archive.open(name)).convert("RGB"))[:224, :224]
        for name in names
    ]
    pictures = jnp.asarray(np.stack(pictures), jnp.float32) / 255
    repaired, shift = jax.jit(repair_interlace)(pictures)
    assert np.abs(shift).max() < 0.1
    np.testing.assert_array_equal(repaired, pictures)


def test_only_what_a_picture_needs_is_done_and_told():
    clean, woven = pan(0.0)[0], pan(3.0)[0]
    compressed = np.float32(jpeg(np.uint8(np.round(255 * clean)), quality=5)) / 255
    pictures = jnp.asarray(np.stack([clean, woven, compressed]))

    def mark(x):  # stands for an AR-CNN
        return 0.5 * x

    @jax.jit
    def run(x):
        collections = (None, "glider", "ground")
        found = [enhance_relevant(x, arcnn=mark, collection=c) for c in collections]
        return blockiness(x), found

    blocks, (out, glider, ground) = run(pictures)
    assert blocks[0] < 1.2
    assert blocks[2] > 1.5
    assert out.steps() == [(), ("deinterlace",), ("arcnn",)]
    np.testing.assert_array_equal(out.images[0], pictures[0])
    np.testing.assert_array_equal(out.images[2], 0.5 * pictures[2])
    assert glider.steps() == [(), ("deinterlace",), ()]
    assert ground.steps()[1:] == [(), ("arcnn",)]
    np.testing.assert_array_equal(ground.shift, 0)
    with pytest.raises(ConfigError, match="did you mean 'glider'"):
        enhance_relevant(pictures, collection="gliders")
