"""The TFDS builder of CIFAR-10."""

import functools
import pathlib
import tempfile
from typing import ClassVar

import numpy as np

from zoo_jax.core.errors import DataError
from zoo_jax.data.archive import extract
from zoo_jax.data.builders.base import LabelledImages
from zoo_jax.data.builders.cifar10.batches import read_batch

FILES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


class Cifar10(LabelledImages, skip_registration=True):
    """CIFAR-10: 32x32 colour images of ten classes."""

    name = "cifar10"
    SHAPE = (32, 32, 3)
    CLASSES = tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    )
    COUNTS: ClassVar = {"train": 50_000, "test": 10_000}
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
    CITATION = (
        "A. Krizhevsky. Learning multiple layers of features from tiny images, 2009."
    )

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Reads the batch files of a split, from the folder or from the archive."""
        return self._all[split]

    @functools.cached_property
    def _all(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        for folder in (self.source_dir / FOLDER, self.source_dir):
            if (folder / "test_batch").is_file():
                return _read(folder)
        archive = self.source_dir / ARCHIVE
        if not archive.is_file():
            names = " ".join(sum(FILES.values(), ()))
            raise DataError(
                f"no CIFAR-10 in {self.source_dir}: expected {ARCHIVE} or "
                f"{FOLDER}/ with {names}, from {self.HOMEPAGE}"
            )
        with tempfile.TemporaryDirectory(prefix="zoo_jax_cifar10_") as parent:
            root = extract(
                archive, pathlib.Path(parent, "out"), max_bytes=1 << 30, max_files=100
            )
            return _read(root / FOLDER)


def _read(folder: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    out = {}
    for split, names in FILES.items():
        images, labels = zip(*(read_batch(folder / n) for n in names), strict=True)
        out[split] = (np.concatenate(images), np.concatenate(labels))
    return out
