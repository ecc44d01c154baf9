"""Photographs of differing sizes, one by one: from packages, from a folder, with index masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, MediaError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.folder import image_files, resolve
from zoo_jax.data.geometry import Resize
from zoo_jax.data.media import EXTENSIONS, decode_image, decode_indices
from zoo_jax.data.pairs import every_nth
from zoo_jax.data.samples import photos

# The two pictures of the motorcycle are a stereo pair: both on one side.
_SAMPLES = {
    "train": ("flower", "hubble_deep_field", "motorcycle_left", "motorcycle_right")
    + ("retina", "rocket"),
    "valid": ("astronaut",),
    "test": ("chelsea", "china", "coffee"),
}


class SamplePhotos:
    """Colour photographs that scikit-image and scikit-learn carry, split by image.

    6 train, 1 valid, 3 test; the split is ours. An example is ``image``, uint8 [h, w, 3].

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``.
      crop: Side of the centre square that is kept; None keeps the whole picture.

    Raises:
      ConfigError: for an unknown split.
      DataError: if a package is absent, or a picture smaller than `crop`.
    """

    def __init__(self, split: str, *, crop: int | None = None):
        if split not in _SAMPLES:
            raise ConfigError(f"unknown split {split!r}: {closest(split, _SAMPLES)}")
        self.names, paths = _SAMPLES[split], photos()
        images = [decode_image(paths[name]) for name in self.names]
        pairs = zip(self.names, images, strict=True)
        self._images = [centre_crop(image, crop, name) for name, image in pairs]
        self.info = {"names": self.names}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._images[index]}


class PhotoFolder:
    """The images directly in a folder, in the order of their names.

    An example is ``image``, uint8 [h, w, 3]. Sizes may differ: measure them with a batch size
    of 1 (which compiles once per size), or keep a centre square of each.

    Args:
      root: The folder; a relative path is below ``$ZOO_DATA``.
      names: A text file with one image name (without extension) per line: these, in that order.
      crop: Side of the centre square that is kept; None keeps the whole image.
      every: Only every so-many-th image of these.

    Raises:
      ConfigError: for an `every` below 1.
      DataError: if the folder is absent or has no images, or not those of the list.
      MediaError: while reading, for an image smaller than `crop`.
    """

    def __init__(
        self,
        root: PathLike,
        *,
        names: PathLike | None = None,
        crop: int | None = None,
        every: int = 1,
    ):
        self.root, self._crop = resolve(root), crop
        found = image_files(self.root) if self.root.is_dir() else []
        if not found:
            raise DataError(
                f"no images in {self.root}: expected files of {' '.join(sorted(EXTENSIONS))}"
            )
        if names is not None:
            by_name, chosen = {path.stem: path for path in found}, _read_names(names)
            absent = [name for name in chosen if name not in by_name]
            if absent or not chosen:
                raise DataError(
                    f"{names} lists {len(chosen)} images, of which {len(absent)} are not in "
                    f"{self.root}: {', '.join(absent[:3])}"
                )
            found = [by_name[name] for name in chosen]
        self.paths = every_nth(found, every)
        self.info = {"names": tuple(path.stem for path in self.paths)}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        return {"image": centre_crop(decode_image(path), self._crop, str(path))}


class SegmentedPhotos(PhotoFolder):
    """Photographs with index masks of the same name: PASCAL VOC, CamVid.

    An example is ``image`` (uint8 [h, w, 3]) and ``segmentation`` (int32 [h, w], 255 for
    pixels of no class). Masks are read as indices, with or without a palette: their colours
    never matter.

    Args:
      root: Folder of the images; a relative path is below ``$ZOO_DATA``.
      masks: Folder of the masks, ``<name>.png``.
      names: As in `PhotoFolder` (VOC's lists).
      crop: As in `PhotoFolder`.
      every: As in `PhotoFolder`.
      void: A further index that counts as no class (CamVid: 11).
      num_classes: Indices from here on are an error, but for `void` and 255; None takes all.
      size: (height, width), or one number for both, that every pair is resized to after the crop:
        the image bilinearly with antialiasing, the mask by the pixel under each new centre.

    Raises:
      ConfigError: for fewer than 2 classes or a size below 1.
      DataError: as `PhotoFolder`, and if a mask is absent.
      MediaError: while reading, for a pair that differs in size or a mask with an unknown index.
    """

    def __init__(
        self,
        root: PathLike,
        *,
        masks: PathLike,
        names: PathLike | None = None,
        crop: int | None = None,
        every: int = 1,
        void: int | None = None,
        num_classes: int | None = None,
        size: int | Sequence[int] | None = None,
    ):
        if num_classes is not None and num_classes < 2:
            raise ConfigError(f"num_classes must be 2 or more, got {num_classes}")
        self._size = [size, size] if isinstance(size, int) else size
        if size is not None and (len(self._size) != 2 or min(self._size) < 1):
            raise ConfigError(f"size must be [height, width] from 1, got {size}")
        super().__init__(root, names=names, every=every)
        folder = resolve(masks)
        self._masks = [folder / f"{path.stem}.png" for path in self.paths]
        absent = [str(path) for path in self._masks if not path.is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(self.paths)} masks are absent, the first is {absent[0]}"
            )
        self._side, self._void, self._classes = crop, void, num_classes
        if num_classes is not None:
            self.info |= {"num_classes": num_classes}

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = super().__getitem__(index)["image"]
        labels = decode_indices(self._masks[index])
        if image.shape[:2] != labels.shape:
            raise MediaError(
                f"{self.paths[index]} has {image.shape[:2]} pixels and {self._masks[index]} "
                f"{labels.shape}: a mask must be as large as its image"
            )
        name = str(self.paths[index])
        image, labels = (centre_crop(a, self._side, name) for a in (image, labels))
        labels = labels.astype(np.int32)
        if self._void is not None:
            labels = np.where(labels == self._void, np.int32(255), labels)
        self._check(labels, self._masks[index])
        if self._size is not None:
            image = Resize(self._size)({"image": image}, None)["image"]
            labels = _nearest(labels, self._size)
        return {"image": image, "segmentation": labels}

    def _check(self, labels: np.ndarray, path: Any) -> None:
        if self._classes is None:
            return
        unknown = np.unique(labels[(labels >= self._classes) & (labels != 255)])
        if unknown.size:
            void = "255" if self._void is None else f"{self._void} or 255"
            raise MediaError(
                f"{path} has the index {unknown[0]}: classes are 0 to {self._classes - 1}, "
                f"void is {void}; a mask holds indices, not grey levels of colours"
            )


def centre_crop(image: np.ndarray, side: int | None, name: str) -> np.ndarray:
    """The centre square of an image [h, w, ...]; `name` is for the error.

    Raises:
      MediaError: if the image is smaller.
    """
    if side is None:
        return image
    h, w = image.shape[:2]
    if side < 1 or min(h, w) < side:
        raise MediaError(f"{name}: an image of {h}x{w} has no centre square of {side}")
    top, left = (h - side) // 2, (w - side) // 2
    return image[top : top + side, left : left + side]


def _nearest(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The label under the centre of each new pixel."""
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows][:, columns]


def _read_names(path: PathLike) -> list[str]:
    try:
        lines = resolve(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no list of image names: {error}") from None
    return [line.split()[0] for line in lines if line.strip()]
