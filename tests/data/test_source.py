import ml_collections
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.source import SOURCES, ArraySource, open_source, split_spec
from zoo_jax.data.synthetic import SyntheticImages


def test_array_source_reads_single_examples_and_batches():
    x = np.arange(24).reshape(4, 3, 2)
    source = ArraySource({"x": x, "label": np.arange(4)}, num_classes=4)
    assert len(source) == 4
    np.testing.assert_array_equal(source[2]["x"], x[2])
    batch = source.take(np.array([3, 0, 3]))
    np.testing.assert_array_equal(batch["x"], x[[3, 0, 3]])
    np.testing.assert_array_equal(batch["label"], [3, 0, 3])
    assert source.info == {"num_classes": 4}


@pytest.mark.parametrize(
    "arrays", [{}, {"a": np.zeros(3), "b": np.zeros(4)}, {"a": np.array(1.0)}]
)
def test_arrays_without_a_common_axis_are_refused(arrays):
    with pytest.raises(DataError, match="one common leading axis"):
        ArraySource(arrays)


def test_a_section_is_split_into_source_and_loader():
    section = ml_collections.ConfigDict(
        {"name": "digits", "split": "test", "batch_size": 8, "shuffle": False}
    )
    section.transform = [{"name": "to_float"}]
    spec, loader = split_spec(section)
    assert spec == {"name": "digits", "split": "test"}
    assert loader["transform"] == [{"name": "to_float"}]
    assert loader.keys() == {"batch_size", "shuffle", "transform"}
    assert len(open_source(spec)) == 296


@pytest.mark.parametrize("name", SOURCES)
def test_every_name_leads_to_a_source_that_checks_its_arguments(name):
    spec = {"name": name, "splitt": "train"}
    with pytest.raises(ConfigError, match=f"{name}' has no argument 'splitt'"):
        open_source(spec)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"name": "mnist5k"}, "unknown data source 'mnist5k': did you mean 'mnist_5k'"),
        ({}, "needs a name, got None"),
        ({"name": "digits"}, "'digits' needs the argument 'split'"),
        ({"name": "digits", "split": "tset"}, "did you mean 'test'"),
        ({"name": "no_such_module:x"}, "cannot be imported"),
        ({"name": "zoo_jax.data.synthetic:None_"}, "cannot be imported"),
        ({"name": "synthetic_images", "size": 0}, "must be positive"),
        ({"name": "synthetic_images", "split": "x"}, "unknown split 'x'"),
    ],
)
def test_wrong_specs_are_named(spec, match):
    with pytest.raises(ConfigError, match=match):
        open_source(spec)


def test_a_source_of_ones_own_is_named_by_module_and_function():
    spec = {"name": "zoo_jax.data.synthetic:SyntheticImages", "size": 3}
    assert len(open_source(spec)) == 3


def test_synthetic_images_follow_from_their_index():
    kwargs = {"size": 12, "height": 5, "width": 9, "channels": 2, "num_classes": 4}
    a, b = SyntheticImages(**kwargs), SyntheticImages(**kwargs)
    assert a.info == {"num_classes": 4, "image_shape": (5, 9, 2)}
    for i in range(12):
        assert a[i]["label"] == i % 4
        assert a[i]["image"].shape == (5, 9, 2)
        assert a[i]["image"].dtype == np.uint8
        np.testing.assert_array_equal(a[i]["image"], b[i]["image"])
    assert (a[0]["image"] != a[4]["image"]).any()
    for other in ({"split": "test"}, {"seed": 1}):
        image = SyntheticImages(**kwargs, **other)[0]["image"]
        assert (image != a[0]["image"]).any()


def test_synthetic_classes_can_be_told_apart():
    def power_spectra(split):
        source = SyntheticImages(split=split, size=40, num_classes=4)
        images = np.stack([source[i]["image"] for i in range(40)]).astype(np.float64)
        labels = np.array([source[i]["label"] for i in range(40)])
        return np.abs(np.fft.fft2(images, axes=(1, 2))).reshape(40, -1), labels

    x, y = power_spectra("train")
    means = np.stack([x[y == k].mean(0) for k in range(4)])
    x, y = power_spectra("test")
    distance = ((x[:, None] - means) ** 2).sum(-1)
    assert (distance.argmin(1) == y).mean() == 1.0


def test_synthetic_images_end():
    with pytest.raises(IndexError):
        SyntheticImages(size=3)[3]
