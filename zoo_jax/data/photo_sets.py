"""Known sets of photographs, read from their files as published: layouts stand in docs/data.md."""

from collections.abc import Sequence

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.folder import resolve
from zoo_jax.data.photos import PhotoFolder, SegmentedPhotos
from zoo_jax.data.source import ArraySource, Source

CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence"),
    *("car", "pedestrian", "bicyclist"),
)
_CAMVID_VOID = 11
_SPLITS = {"train": "train", "valid": "val", "test": "test"}


def camvid(
    split: str,
    *,
    root: PathLike = "camvid",
    size: int | Sequence[int] | None = None,
    every: int = 1,
    in_memory: bool = False,
) -> Source:
    """Road scenes with 11 classes: 367 frames to train on, 101 valid, 233 test.

    The layout of the SegNet tutorial: ``<root>/{train,val,test}`` with the frames and
    ``{train,val,test}annot`` with index masks of the same names, 11 for void.

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``.
      root: The folder; a relative path is below ``$ZOO_DATA``.
      size: As in `SegmentedPhotos`; frames are 360x480.
      every: Only every so-many-th frame.
      in_memory: Decodes everything at once; needs frames of one size.

    Returns:
      ``image`` (uint8 [h, w, 3]), ``segmentation`` (int32 [h, w], 0..10, 255 for void).

    Raises:
      ConfigError: for an unknown split.
      DataError: if the files are absent.
      MediaError: while reading, as `SegmentedPhotos`.
    """
    _require_split(split)
    folder = resolve(root) / _SPLITS[split]
    source = SegmentedPhotos(
        folder,
        masks=folder.with_name(f"{folder.name}annot"),
        void=_CAMVID_VOID,
        num_classes=len(CAMVID_CLASSES),
        size=size,
        every=every,
    )
    source.info |= {"classes": CAMVID_CLASSES}
    return _in_memory(source) if in_memory else source


def voc2012(
    split: str,
    *,
    root: PathLike = "voc2012",
    size: int | Sequence[int] | None = None,
    crop: int | None = None,
) -> SegmentedPhotos:
    """PASCAL VOC 2012 for segmentation: 20 classes and the background, palette masks as indices.

    The layout of the archive: ``<root>/JPEGImages``, ``SegmentationClass`` and
    ``ImageSets/Segmentation/{train,val}.txt``. Void, 255, is no class (by colour it would
    become background).

    Args:
      split: ``"train"`` or ``"valid"``; the test masks were never published.
      root: The folder; a relative path is below ``$ZOO_DATA``.
      size: As in `SegmentedPhotos`.
      crop: As in `SegmentedPhotos`.

    Raises:
      ConfigError: for an unknown split.
      DataError: if the files are absent.
      MediaError: while reading, as `SegmentedPhotos`.
    """
    _require_split(split, ("train", "valid"))
    folder = resolve(root)
    return SegmentedPhotos(
        folder / "JPEGImages",
        masks=folder / "SegmentationClass",
        names=folder / "ImageSets" / "Segmentation" / f"{_SPLITS[split]}.txt",
        num_classes=21,
        size=size,
        crop=crop,
    )


def bsds500(
    split: str, *, root: PathLike = "bsds500", crop: int | None = None
) -> PhotoFolder:
    """Berkeley's photographs: 200 to train on, 100 valid, 200 test, 321x481 or upright.

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``; 68 of the last are CBSD68.
      root: A folder with ``train``, ``val`` and ``test`` (in the repository of the set:
        ``BSDS500/data/images``); a relative path is below ``$ZOO_DATA``.
      crop: Side of the centre square that is kept; None keeps the whole image.

    Raises:
      ConfigError: for an unknown split.
      DataError: if the files are absent.
    """
    _require_split(split)
    return PhotoFolder(resolve(root) / _SPLITS[split], crop=crop)


def kodak24(*, root: PathLike = "kodak24", crop: int | None = None) -> PhotoFolder:
    """Kodak's 24 photographs, 512x768 or upright, in the order of their names.

    Args:
      root: The folder of the images; a relative path is below ``$ZOO_DATA``.
      crop: Side of the centre square that is kept; None keeps the whole image.

    Raises:
      DataError: if the folder has not exactly 24 images.
    """
    return _whole_set(root, 24, crop)


def cbsd68(*, root: PathLike = "cbsd68", crop: int | None = None) -> PhotoFolder:
    """The 68 colour photographs that denoisers are compared on, 321x481 or upright.

    Args:
      root: The folder of the images; a relative path is below ``$ZOO_DATA``.
      crop: Side of the centre square that is kept; None keeps the whole image.

    Raises:
      DataError: if the folder has not exactly 68 images.
    """
    return _whole_set(root, 68, crop)


def _whole_set(root: PathLike, count: int, crop: int | None) -> PhotoFolder:
    source = PhotoFolder(root, crop=crop)
    if len(source) != count:
        raise DataError(
            f"{source.root} has {len(source)} images where the set has {count}: put exactly "
            "those there, or read any folder with the source photo_folder"
        )
    return source


def _require_split(split: str, known: Sequence[str] = tuple(_SPLITS)) -> None:
    if split not in known:
        raise ConfigError(f"unknown split {split!r}: {closest(split, known)}")


def _in_memory(source: Source) -> ArraySource:
    examples = [source[i] for i in range(len(source))]
    sizes = {example["image"].shape for example in examples}
    if len(sizes) > 1:
        raise DataError(
            f"in_memory needs images of one size, these have {sorted(sizes)}: give size"
        )
    arrays = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
    return ArraySource(arrays, **source.info)
