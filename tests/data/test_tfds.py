import gzip
import importlib.util
import os
import pickle
import shutil
import struct
import tarfile

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.builders.cifar10.batches import read_batch
from zoo_jax.data.builders.mnist.idx import read_idx
from zoo_jax.data.loader import train_batches
from zoo_jax.data.source import open_source
from zoo_jax.data.tfds import prepare_dataset, tfds_source

COUNTS = {"cifar10": {"train": 5, "test": 3}, "mnist": {"train": 4, "test": 3}}
SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1)}


@pytest.fixture
def fixtures(root):
    return root / "tests" / "fixtures"


@pytest.fixture(scope="module")
def made(root):
    """The arrays that the fixture script wrote, drawn again with its rule."""
    path = root / "tests" / "fixtures" / "make_data.py"
    spec = importlib.util.spec_from_file_location("make_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for name, counts in COUNTS.items():
        found = prepare_dataset(
            name,
            source_dir=root / "tests" / "fixtures" / name,
            data_dir=folder,
            counts=counts,
        )
        assert found == counts
    return folder


def cifar10_expected():
    """Independent of the reader: redraws the numbers and lays them out pixel by pixel."""
    rng = np.random.default_rng(0)
    out = {"train": [], "test": []}
    for split, n in [("train", 1)] * 5 + [("test", 3)]:
        labels = rng.integers(0, 10, n)
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        for row, label in zip(data, labels, strict=True):
            image = np.zeros((32, 32, 3), np.uint8)
            for c in range(3):
                for y in range(32):
                    image[y, :, c] = row[1024 * c + 32 * y : 1024 * c + 32 * y + 32]
            out[split].append((image, label))
    return out


def mnist_expected():
    rng = np.random.default_rng(1)
    out = {}
    for split, n in (("train", 4), ("test", 3)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)[..., None]
        out[split] = list(
            zip(images, rng.integers(0, 10, n, dtype=np.uint8), strict=True)
        )
    return out


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_prepared_examples_are_the_official_ones_in_order(
    prepared, name, split, in_memory
):
    source = tfds_source(name, split, prepared, in_memory=in_memory)
    expected = {"cifar10": cifar10_expected, "mnist": mnist_expected}[name]()[split]
    assert len(source) == len(expected) == COUNTS[name][split]
    assert source.info == {"num_classes": 10, "image_shape": SHAPES[name]}
    for i, (image, label) in enumerate(expected):
        assert source[i]["image"].dtype == np.uint8
        np.testing.assert_array_equal(source[i]["image"], image)
        assert source[i]["label"] == label


def test_parts_of_splits_and_the_loader_work(prepared):
    spec = {"name": "cifar10", "data_dir": str(prepared), "in_memory": False}
    source = open_source({**spec, "split": "train[:60%]"})
    with train_batches(source, batch_size=3, seed=0) as batches:
        batch = next(batches)
    assert batch["image"].shape == (3, 32, 32, 3)
    expected = sorted(int(label) for _, label in cifar10_expected()["train"][:3])
    assert sorted(batch["label"].tolist()) == expected


@pytest.mark.parametrize("split", ["valid", "train[:x]"])
def test_unknown_splits_are_named(prepared, split):
    with pytest.raises(ConfigError, match=r"mnist has no split .*\['test', 'train'\]"):
        tfds_source("mnist", split, prepared)


def test_a_set_that_is_not_prepared_gives_the_command(tmp_path):
    command = r"python -m experiments\.prepare_data --dataset=mnist"
    with pytest.raises(DataError, match=command):
        tfds_source("mnist", "train", tmp_path)


def test_the_default_folders_are_below_zoo_data(tmp_path, monkeypatch, fixtures):
    shutil.copytree(fixtures / "mnist", tmp_path / "mnist")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    assert prepare_dataset("mnist", counts=COUNTS["mnist"]) == COUNTS["mnist"]
    assert len(open_source({"name": "mnist", "split": "test"})) == 3
    assert sorted(os.listdir(tmp_path)) == ["mnist", "tfds"]


def test_the_official_archive_is_unpacked(tmp_path, fixtures):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as t:
        folder = "cifar-10-batches-py"
        t.add(fixtures / "cifar10" / folder, arcname=folder)
    counts = prepare_dataset(
        "cifar10",
        source_dir=tmp_path,
        data_dir=tmp_path / "out",
        counts=COUNTS["cifar10"],
    )
    assert counts == COUNTS["cifar10"]


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_counts_are_checked_and_nothing_half_written_stays(tmp_path, fixtures, name):
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"split 'train' has \d images .* not \d\d,000"):
        prepare_dataset(name, source_dir=fixtures / name, data_dir=out)
    assert [p for p in out.rglob("*") if p.is_file()] == []
    with pytest.raises(DataError, match="not prepared"):
        tfds_source(name, "train", out)


@pytest.mark.parametrize(
    ("name", "match"),
    [("cifar10", "expected cifar-10-python.tar.gz or"), ("mnist", "each plain or .gz")],
)
def test_missing_files_name_the_layout(tmp_path, name, match):
    with pytest.raises(DataError, match=match):
        prepare_dataset(name, source_dir=tmp_path, data_dir=tmp_path / "out")


def test_unknown_data_sets_get_a_hint(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        prepare_dataset("cifar-10", source_dir=tmp_path, data_dir=tmp_path)


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_hostile_pickle_runs_no_code(tmp_path, protocol):
    bomb = Hostile()
    bomb.path = tmp_path / "ran"
    (tmp_path / "x").write_bytes(pickle.dumps({b"data": bomb}, protocol=protocol))
    with pytest.raises(DataError, match=r"it asks for (posix|nt)\.system"):
        read_batch(tmp_path / "x")
    pickle.loads((tmp_path / "x").read_bytes())  # the bomb was live
    assert bomb.path.exists()


@pytest.mark.parametrize(
    "value",
    [
        {b"data": b"no array", b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.float64), b"labels": [1]},
        {b"data": np.array([os.sep], object), b"labels": [1]},
        {b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"labels": [1]},
        [1, 2],
    ],
)
def test_other_pickles_are_refused(tmp_path, value):
    (tmp_path / "x").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(DataError):
        read_batch(tmp_path / "x")


def test_pickles_of_todays_numpy_are_read_too(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    value = {b"data": data, b"labels": [3, 4]}
    (tmp_path / "x").write_bytes(pickle.dumps(value, protocol=2))
    images, labels = read_batch(tmp_path / "x")
    np.testing.assert_array_equal(images[1, 2, :, 1], data[1, 1024 + 64 : 1024 + 96])
    assert labels.tolist() == [3, 4]


@pytest.mark.parametrize("keep", [0, 1, 100, 2000])
def test_truncated_batches_are_refused(tmp_path, fixtures, keep):
    batch = fixtures / "cifar10" / "cifar-10-batches-py" / "test_batch"
    (tmp_path / "x").write_bytes(batch.read_bytes()[:keep])
    with pytest.raises(DataError, match="is not a batch of CIFAR-10"):
        read_batch(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "damaged"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "fewer bytes than its shape"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "more bytes than its shape"),
        (b"\0\0\x0d\x01\0\0\0\x02abc", "no idx file of unsigned bytes"),
        (b"\0\0\x08\x03" + struct.pack(">III", *[2**32 - 1] * 3), "too large"),
        (b"PNG", "damaged"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files_are_refused(tmp_path, data, match, zipped):
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(DataError, match=match):
        read_idx(path)


def test_a_truncated_gzip_is_refused(tmp_path, fixtures):
    data = (fixtures / "mnist" / "train-images-idx3-ubyte.gz").read_bytes()
    (tmp_path / "x.gz").write_bytes(data[:1000])
    with pytest.raises(DataError, match="damaged"):
        read_idx(tmp_path / "x.gz")


def test_the_committed_fixtures_are_what_the_script_writes(tmp_path, made, fixtures):
    made.cifar10(tmp_path / "cifar10" / "cifar-10-batches-py", np.random.default_rng(0))
    made.mnist(tmp_path / "mnist", np.random.default_rng(1))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 10
    for path in files:
        committed = fixtures / path.relative_to(tmp_path)
        if path.suffix == ".gz":  # compressors differ, their content does not
            same = gzip.decompress(path.read_bytes())
            assert gzip.decompress(committed.read_bytes()) == same
        else:
            assert committed.read_bytes() == path.read_bytes()
