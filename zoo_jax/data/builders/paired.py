"""What the builders of blurred and sharp pairs share."""

import abc
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.base import ShardedExamples
from zoo_jax.data.pairs import decode_pair, match_pairs


class FramePair(NamedTuple):
    """Two files of one frame."""

    image: pathlib.Path
    sharp: pathlib.Path
    sequence: str
    index: int  # number of the frame in its sequence, as the files say


class PairedImages(ShardedExamples, skip_registration=True):
    """A builder of `image`, `sharp`, `sequence` and `index` from files of a folder.

    Files are copied as they are, after each has been decoded once to see that it can be and
    that both of a pair have one size. Arguments as `OfficialFiles`.
    """

    UNIT: ClassVar[str] = "pairs"  # what is counted

    @abc.abstractmethod
    def find(self, split: str) -> Sequence[Any]:
        """What `example` makes the examples of a split of, in order. Raises `DataError`."""

    def example(self, pair: FramePair) -> dict[str, Any]:
        """Raises `MediaError` for damaged files or unequal sizes."""
        decode_pair(*pair[:2], *map(str, pair[:2]))
        return {
            "image": str(pair.image),
            "sharp": str(pair.sharp),
            "sequence": pair.sequence,
            "index": pair.index,
        }

    def _info(self) -> tfds.core.DatasetInfo:
        picture = tfds.features.Image(shape=(None, None, 3))
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": picture,
                    "sharp": picture,
                    "sequence": tfds.features.Text(),
                    "index": tfds.features.Scalar(np.int32),
                }
            ),
            supervised_keys=("image", "sharp"),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )


def match_frames(
    root: pathlib.Path, blurred: str, sharp: str, *, sequence: str = ""
) -> list[FramePair]:
    """`match_pairs`, with the number of each frame taken from the end of its name.

    Args:
      root: Above both folders.
      blurred: Folder of the blurred frames.
      sharp: Folder of the sharp ones.
      sequence: Of all frames; else the folder of each, or what stands before its number.
    """
    out = []
    for pair in match_pairs(root, blurred, sharp):
        folder, _, name = pair.name.rpartition("/")
        stem = name.rstrip("0123456789")
        if stem == name:
            raise DataError(
                f"{pair.image}: no number of a frame at the end of its name"
            )
        named = sequence or folder or stem.rstrip("-_")
        out.append(FramePair(pair.image, pair.sharp, named, int(name[len(stem) :])))
    return out


def first_folder(*candidates: pathlib.Path, layout: str) -> pathlib.Path:
    """The first that exists. Raises `DataError` with the layout if none does."""
    for path in candidates:
        if path.is_dir():
            return path
    raise DataError(f"no folder {candidates[0]}: expected {layout} (docs/data.md)")
