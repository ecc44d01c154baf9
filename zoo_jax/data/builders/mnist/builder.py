"""The TFDS builder of MNIST."""

from typing import ClassVar

import numpy as np

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.base import LabelledImages
from zoo_jax.data.builders.mnist.idx import read_idx

_PREFIX = {"train": "train", "test": "t10k"}


class Mnist(LabelledImages, skip_registration=True):
    """MNIST: 28x28 grey images of handwritten digits."""

    name = "mnist"
    SHAPE = (28, 28, 1)
    CLASSES = tuple("0123456789")
    COUNTS: ClassVar = {"train": 60_000, "test": 10_000}
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    CITATION = (
        "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner. Gradient-based learning applied "
        "to document recognition. Proceedings of the IEEE, 1998."
    )

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Reads the image and the label file of a split."""
        images = self._file(f"{_PREFIX[split]}-images-idx3-ubyte")
        labels = self._file(f"{_PREFIX[split]}-labels-idx1-ubyte")
        if images.shape[1:] != (28, 28) or labels.ndim != 1:
            raise DataError(
                f"{self.source_dir}: split {split!r} has images {images.shape} and labels "
                f"{labels.shape}, not [n, 28, 28] and [n]: get the official files again"
            )
        return images[..., None], labels

    def _file(self, name: str) -> np.ndarray:
        for path in (self.source_dir / name, self.source_dir / f"{name}.gz"):
            if path.is_file():
                return read_idx(path)
        names = " ".join(
            f"{p}-{kind}-ubyte"
            for p in _PREFIX.values()
            for kind in ("images-idx3", "labels-idx1")
        )
        raise DataError(
            f"no {name} in {self.source_dir}: expected {names}, each plain or .gz"
        )
