"""TFLite networks against their published answers, on pictures that packages carry."""

import struct

import numpy as np
import pytest

from zoo_jax.core.errors import DataError, WeightsError
from zoo_jax.data.geometry import Resize
from zoo_jax.data.media import decode_image
from zoo_jax.data.photos import centre_crop
from zoo_jax.data.samples import photos
from zoo_jax.nn.tflite import TfliteNetwork

PHOTOS = ("coffee", "chelsea", "rocket", "china", "flower")
# (ImageNet class, score of 255) on each photo, as published with the files; the background
# class stands before them.
PUBLISHED = {
    "mobilenet_v2_1.0_224_quant": (
        ((967,), 249),
        ((282,), 144),
        ((657,), 159),
        ((698,), 183),
        ((599,), 245),
    ),
    "mobilenet_v1_0.5_160_quant": (
        ((967,), 217),
        ((285,), 156),
        ((682, 668), 53),
        ((724,), 85),
        ((996,), 112),
    ),
    "mobilenet_v1_0.25_128_quant": (
        ((967,), 198),
        ((285,), 85),
        ((668,), 114),
        ((595,), 30),
        ((328,), 39),
    ),
}


def square(name, size):
    pytest.importorskip("skimage")
    image = decode_image(photos()[name])
    image = centre_crop(image, min(image.shape[:2]), name)
    return Resize(size, method="bicubic")({"image": image}, None)["image"]


@pytest.fixture
def network(shared):
    pytest.importorskip("ai_edge_litert")
    return lambda name: TfliteNetwork(
        shared("weights", "tflite_quant", f"{name}.tflite")
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_classifiers_give_their_published_answers(network, name):
    judge = network(name)
    for photo, (labels, score) in zip(PHOTOS, PUBLISHED[name], strict=True):
        image = square(photo, judge.size)
        scores = judge(image[None])
        assert scores.shape == (1, 1001)
        assert np.argmax(scores) - 1 in labels
        # Of 255: the same bytes; interpreters may round the last step differently.
        assert scores.max() * 256 == pytest.approx(score, abs=2)
        same = judge(np.stack([image, 255 - image]) / np.float32(255))
        np.testing.assert_array_equal(same[0], scores[0])
        assert np.abs(same[1] - same[0]).max() > 0.1


def test_a_segmentation_judge_returns_class_indices(network):
    judge = network("deeplabv3_mnv2_dm05_pascal_quant")
    mask = judge(square("chelsea", judge.size)[None])
    assert mask.shape == (1, 513, 513)
    assert mask.dtype.kind == "i"
    assert np.sum(mask == 8) == pytest.approx(253_339, rel=0.005)  # pixels of the cat


def test_pictures_of_another_size_are_one_line(network):
    judge = network("mobilenet_v1_0.25_128_quant")
    for shape in ((1, 128, 127, 3), (128, 128, 3), (1, 128, 128, 4)):
        with pytest.raises(DataError, match=r"takes pictures \[b, 128, 128, 3\], got"):
            judge(np.zeros(shape, np.float32))


def test_files_that_are_no_network_are_one_line(tmp_path):
    with pytest.raises(WeightsError, match="no such TFLite file"):
        TfliteNetwork(tmp_path / "absent.tflite")
    path = tmp_path / "a.tflite"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(WeightsError, match="is no TFLite file"):
        TfliteNetwork(path)
    pytest.importorskip("ai_edge_litert")
    path.write_bytes(struct.pack("<I", 2**20) + b"TFL3" + bytes(60))
    with pytest.raises(WeightsError, match="is no intact TFLite file"):
        TfliteNetwork(path)
