"""The TFDS builders of UG^2: annotated frames, and the objects cut out of them."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.base import ShardedExamples
from zoo_jax.data.builders.ug2.annotations import Annotation, read_annotations, usable
from zoo_jax.data.builders.ug2.collections import (
    CLASSES,
    COLLECTIONS,
    LAYOUT,
    VideoSequence,
    find_sequences,
)
from zoo_jax.data.builders.ug2.crops import crop_object
from zoo_jax.data.media import decode_image

_CITATION = (
    "R. G. Vidal, S. Banerjee, K. Grm, V. Struc and W. J. Scheirer. UG^2: a video benchmark "
    "for assessing the impact of image restoration and enhancement on automatic visual "
    "recognition. WACV 2018."
)


class AnnotatedFrame(NamedTuple):
    """A file with the objects in full view in it."""

    path: pathlib.Path
    sequence: str  # the video
    number: int
    objects: tuple[Annotation, ...]


class _Ug2(ShardedExamples, skip_registration=True):
    """What both builders share: where frames are, and which count.

    Videos must have been taken apart into frames, see `LAYOUT`; train and test are parted by
    video, as published. Frames without an object in full view are left out.
    """

    COUNTS: ClassVar[Mapping[str, int]] = {}  # depend on the collection
    HOMEPAGE = "http://www.ug2challenge.org"
    CITATION = _CITATION
    OF_PARTITION: ClassVar[str]  # which published number `UNIT` is

    def __init__(self, *, counts: Mapping[str, int] | None = None, **kwargs: Any):
        super().__init__(counts={} if counts is None else counts, **kwargs)
        if counts is None:
            parts = COLLECTIONS[self.collection]
            self.counts = {s: getattr(p, self.OF_PARTITION) for s, p in parts.items()}

    @property
    def collection(self) -> str:
        """Of `COLLECTIONS`."""
        return self.builder_config.name.partition("_")[0]

    def frames(self, split: str) -> list[AnnotatedFrame]:
        """The frames of a split, by video and number. Raises `DataError`."""
        sequences = find_sequences(self.source_dir / self.collection / split)
        return [frame for sequence in sequences for frame in _frames(sequence)]


class Frames(_Ug2, skip_registration=True):
    """UG^2: frames of videos from drones, gliders and the ground, with the objects in full view.

    Boxes are ``[ymin, xmin, ymax, xmax]`` in pixels; the maxima are outside.
    """

    name = "ug2"
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=f"{name}_frames", description=f"{name}, frames")
        for name in COLLECTIONS
    ]
    UNIT = "annotated frames"
    OF_PARTITION = "frames"

    def find(self, split: str) -> Sequence[AnnotatedFrame]:
        """See `frames`."""
        return self.frames(split)

    def example(self, found: AnnotatedFrame) -> dict[str, Any]:
        """Copies the file as it is, after it has been decoded once."""
        _decode(found)
        return {
            "image": str(found.path),
            "video": found.sequence,
            "frame": found.number,
            "objects": [
                {
                    "box": np.array([o.box[1], o.box[0], o.box[3], o.box[2]], np.int32),
                    "label": o.label,
                    "track": o.track,
                }
                for o in found.objects
            ],
        }

    def _info(self) -> tfds.core.DatasetInfo:
        one = {
            "box": tfds.features.Tensor(shape=(4,), dtype=np.int32),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
            "track": tfds.features.Scalar(np.int32),
        }
        return _make_info(self, {"objects": tfds.features.Sequence(one)}, keys=None)


class AnnotatedObject(NamedTuple):
    """One object of one frame."""

    frame: AnnotatedFrame
    annotation: Annotation

    @property
    def sequence(self) -> str:
        """The video."""
        return self.frame.sequence


class Crops(_Ug2, skip_registration=True):
    """UG^2: squares around the objects in full view, not resized, 224 pixels or more.

    By the published rule; in frames smaller than that the square is as large as fits.
    """

    name = "ug2"
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=f"{name}_crops", description=f"{name}, objects")
        for name in COLLECTIONS
    ]
    UNIT = "objects"
    OF_PARTITION = "objects"

    def find(self, split: str) -> Sequence[AnnotatedObject]:
        """The objects of all frames."""
        return [AnnotatedObject(f, o) for f in self.frames(split) for o in f.objects]

    def example(self, found: AnnotatedObject) -> dict[str, Any]:
        """Cuts the square out and stores it as PNG."""
        crop = crop_object(_decode(found.frame), found.annotation.box)
        out = io.BytesIO()
        Image.fromarray(crop).save(out, format="png")
        return {
            "image": out.getvalue(),
            "label": found.annotation.label,
            "track": found.annotation.track,
            "video": found.sequence,
            "frame": found.frame.number,
        }

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
            "track": tfds.features.Scalar(np.int32),
        }
        return _make_info(self, features, keys=("image", "label"))


def _make_info(
    builder: _Ug2, features: Mapping[str, Any], *, keys: tuple[str, str] | None
) -> tfds.core.DatasetInfo:
    common = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "video": tfds.features.Text(),
        "frame": tfds.features.Scalar(np.int32),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=type(builder).__doc__,
        features=tfds.features.FeaturesDict({**common, **features}),
        supervised_keys=keys,
        homepage=builder.HOMEPAGE,
        citation=builder.CITATION,
        metadata=tfds.core.MetadataDict(),
        disable_shuffling=True,
    )


def _frames(sequence: VideoSequence) -> list[AnnotatedFrame]:
    by_number: dict[int, list[Annotation]] = {}
    for annotation in usable(read_annotations(sequence.annotations, classes=CLASSES)):
        by_number.setdefault(annotation.frame, []).append(annotation)
    out = []
    for number, objects in sorted(by_number.items()):
        path = sequence.frames / f"{number}.png"
        if not path.is_file():
            raise DataError(
                f"no frame {path}, which {sequence.annotations} names: expected {LAYOUT}"
            )
        out.append(AnnotatedFrame(path, sequence.video, number, tuple(objects)))
    return out


def _decode(frame: AnnotatedFrame) -> np.ndarray:
    """The picture of a frame whose boxes are all inside."""
    image = decode_image(frame.path)
    height, width, _ = image.shape
    for annotation in frame.objects:
        annotation.require_inside((height, width), where=str(frame.path))
    return image
