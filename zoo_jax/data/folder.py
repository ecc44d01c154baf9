"""Folders of images on disk, and where data sets live."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.files import PathLike
from zoo_jax.data.media import EXTENSIONS, decode_image


def data_root() -> pathlib.Path:
    """The folder of all data sets: ``$ZOO_DATA``.

    Raises:
      DataError: if the variable is not set, or names no folder.
    """
    value = os.environ.get("ZOO_DATA")
    if not value:
        raise DataError(
            "the environment variable ZOO_DATA is not set: let it name the folder of your "
            "data sets, e.g. export ZOO_DATA=$HOME/data (layouts: docs/data.md)"
        )
    root = pathlib.Path(value).expanduser()
    if not root.is_dir():
        raise DataError(f"ZOO_DATA={value} is not a folder: make it, or name another")
    return root


def resolve(path: PathLike) -> pathlib.Path:
    """An absolute path as it is; a relative one below `data_root`."""
    path = pathlib.Path(path).expanduser()
    return path if path.is_absolute() else data_root() / path


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The image files directly in `folder`, by name; hidden ones left out."""
    return sorted(
        (
            p
            for p in folder.iterdir()
            if p.suffix.lower() in EXTENSIONS
            and not p.name.startswith(".")
            and p.is_file()
        ),
        key=lambda p: p.name,
    )


class ImageFolder:
    """``root/<class>/<image>``: classes and images in the order of their names.

    An example is ``image`` (uint8 [h, w, c]), ``label`` (int32, index into `classes`) and
    ``id`` (int32, index into `paths`). Images of one batch must have one size: put ``resize``
    or ``random_crop`` into the transform.

    Args:
      root: The folder; a relative path is below ``$ZOO_DATA``.
      mode: ``"RGB"``, ``"RGBA"`` or ``"L"``, see `decode_image`.
      per_class: ``(start, stop)``: of each class only these images in the order of their
        names, to hold some out; all by default.

    Raises:
      ConfigError: for another `per_class`.
      DataError: if the folder is absent or has no ``<class>/<image>`` there.
    """

    def __init__(
        self,
        root: PathLike,
        *,
        mode: str = "RGB",
        per_class: Sequence[int] | None = None,
    ):
        start, stop = _range(per_class)
        self.root, self.mode = resolve(root), mode
        layout = (
            f"expected {self.root}/<class>/<image> with {' '.join(sorted(EXTENSIONS))}"
        )
        if not self.root.is_dir():
            raise DataError(f"no folder {self.root}: {layout}")
        folders = sorted(
            (p for p in self.root.iterdir() if p.is_dir() and p.name[0] != "."),
            key=lambda p: p.name,
        )
        self.classes = tuple(p.name for p in folders)
        found = [
            (path, label)
            for label, folder in enumerate(folders)
            for path in image_files(folder)[start:stop]
        ]
        if not found:
            where = f" from number {start} on" if start else ""
            raise DataError(f"no images{where} in the folders of {self.root}: {layout}")
        self.paths = [path for path, _ in found]
        self._labels = np.array([label for _, label in found], np.int32)
        self.info = {"num_classes": len(self.classes), "classes": self.classes}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = decode_image(self.paths[index], mode=self.mode)
        return {
            "image": image,
            "label": self._labels[index],
            "id": np.int32(index % len(self)),
        }


def _range(per_class: Sequence[int] | None) -> tuple[int, int | None]:
    if per_class is None:
        return 0, None
    numbers = list(per_class)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if len(numbers) != 2 or not whole or not 0 <= numbers[0] < numbers[1]:
        raise ConfigError(
            f"per_class must be [start, stop] with 0 <= start < stop, got {numbers}"
        )
    return numbers[0], numbers[1]
