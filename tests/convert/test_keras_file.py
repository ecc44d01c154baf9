"""Keras files of several ages give the same arrays; damaged and unsafe ones one line."""

import numpy as np
import pytest

from zoo_jax.convert import apply, open_weights, read_weights
from zoo_jax.convert.keras import keras_entries, keras_norm_entries
from zoo_jax.convert.table import Table
from zoo_jax.core.errors import WeightsError

# Names within the groups of the layers conv1 and bn1, as files of 2016, 2017 and today have them.
AGES = {
    "keras 1": (
        "conv1_{}_1:0",
        "W b",
        "bn1_{}_1:0",
        "gamma beta running_mean running_std",
    ),
    "keras 2": (
        "conv1/{}:0",
        "kernel bias",
        "bn1_1/{}:0",
        "gamma beta moving_mean moving_variance",
    ),
    "keras 3": (
        "vars/{}",
        "kernel bias",
        "net/bn1/{}",
        "gamma beta moving_mean moving_variance",
    ),
}


@pytest.fixture(scope="module")
def h5py():
    return pytest.importorskip("h5py")


def arrays():
    rng = np.random.default_rng(0)
    shapes = {"conv1/kernel": (3, 5, 2, 4), "conv1/bias": (4,)}
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    shapes |= {f"bn1/{name}": (4,) for name in norm}
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("model", [False, True])
def test_files_of_all_ages_have_the_same_keys(h5py, tmp_path, age, model):
    expected, values = arrays(), iter(arrays().values())
    with h5py.File(tmp_path / "a.h5", "w") as f:
        root = f.create_group("model_weights") if model else f
        conv, names, norm, others = AGES[age]
        for name in names.split():
            root[f"conv1/{conv.format(name)}"] = next(values)
        for name in others.split():
            root[f"bn1/{norm.format(name)}"] = next(values)
        root.create_group("flatten")
        f.create_group("top_level_model_weights")
    found = read_weights(tmp_path / "a.h5")
    assert found.keys() == expected.keys()
    for key, array in found.items():
        np.testing.assert_array_equal(array, expected[key])
    assert not open_weights(tmp_path / "a.h5").ours
    table = Table((*keras_entries("conv1", "a"), *keras_norm_entries("bn1", "n")))
    template = {
        "params": {
            "a": {"kernel": np.zeros((3, 5, 2, 4), "f4"), "bias": np.zeros(4, "f4")},
            "n": {"scale": np.zeros(4, "f4"), "bias": np.zeros(4, "f4")},
        },
        "batch_stats": {"n": {"mean": np.zeros(4, "f4"), "var": np.zeros(4, "f4")}},
    }
    variables = apply(table, found, template)
    np.testing.assert_array_equal(
        variables["batch_stats"]["n"]["var"], expected["bn1/moving_variance"]
    )


def test_what_is_damaged_or_unsafe_is_one_line(h5py, tmp_path):
    path = tmp_path / "a.h5"

    def refused(message):
        with pytest.raises(WeightsError, match=message):
            read_weights(path)

    with h5py.File(path, "w") as f:
        f["a/kernel:0"] = np.zeros((50, 50), np.float32)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("is no intact HDF5")
    with h5py.File(path, "w") as f:
        f.create_group("a")
    refused("without weights")
    with h5py.File(path, "w") as f:
        f["a/a_W:0"], f["a/kernel:0"] = np.zeros(2), np.zeros(2)
    refused("holds a/kernel twice")
    with h5py.File(path, "w") as f:
        f["a/kernel:0"] = "text"
    refused("not real numbers")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    with h5py.File(path, "w") as f:
        f.create_dataset("a/kernel", (2,), "f8", external=[(str(secret), 0, 16)])
    refused("lies in another file")
    with h5py.File(path, "w") as f:  # a gigabyte out of a few bytes
        f.create_dataset("a/kernel", (2**28,), "f4", chunks=(2**20,), compression=9)
    refused("claims to hold 1,073,741,824 bytes")
    with h5py.File(tmp_path / "b.h5", "w") as f:
        f["kernel"] = np.zeros(2)
    with h5py.File(path, "w") as f:
        f["a/kernel"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "kernel")
    refused("without weights")
