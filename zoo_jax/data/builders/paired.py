"""What the builders of blurred and sharp pairs share."""

import abc
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.base import OfficialFiles
from zoo_jax.data.pairs import decode_pair, match_pairs

# Examples of one file. TFDS keeps what it writes to one in memory until the file is closed.
_SHARD = 64


class FramePair(NamedTuple):
    """Two files of one frame."""

    image: pathlib.Path
    sharp: pathlib.Path
    sequence: str
    index: int  # number of the frame in its sequence, as the files say


# Not a GeneratorBasedBuilder: that needs TensorFlow itself for splits beyond 1 GB, and keeps
# all of a split in memory if its order is to stay.
class PairedImages(OfficialFiles, tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder of `image`, `sharp`, `sequence` and `index` from files of a folder.

    Files are copied as they are, after each has been decoded once to see that it can be and
    that both of a pair have one size. Arguments as `OfficialFiles`.
    """

    UNIT: ClassVar[str] = "pairs"  # what is counted

    @abc.abstractmethod
    def find(self, split: str) -> Sequence[Any]:
        """What `example` makes the examples of a split of, in order. Raises `DataError`."""

    def count(self, found: Sequence[Any]) -> int:
        """How many of `UNIT` were found."""
        return len(found)

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

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator]]]:
        del dl_manager  # nothing is downloaded
        # All splits are found and counted before the first example is written.
        found = {split: self._checked(split) for split in self.counts}
        # Beside the records, since to ask each for its sequence would read all images.
        for split, pairs in found.items():
            self.info.metadata[split] = [pair.sequence for pair in pairs]
        return {
            split: [
                _Shard(self, split, pairs[start : start + _SHARD], start, len(pairs))
                for start in range(0, len(pairs), _SHARD)
            ]
            for split, pairs in found.items()
        }

    def _checked(self, split: str) -> Sequence[Any]:
        found, expected = self.find(split), self.counts[split]
        number = self.count(found)
        if number != expected:
            raise DataError(
                f"{self.source_dir}: split {split!r} has {number:,} {self.UNIT}, not "
                f"{expected:,}: get the official files again"
            )
        return found


class _Shard(NamedTuple):
    builder: PairedImages
    split: str
    pairs: Sequence[Any]
    start: int
    total: int

    def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        bar = tqdm.tqdm(
            self.pairs,
            desc=f"{self.builder.name} {self.split}",
            initial=self.start,
            total=self.total,
            unit="pair",
            leave=False,
            disable=None,  # shown on a terminal only
        )
        for number, pair in enumerate(bar, self.start):
            yield number, self.builder.example(pair)


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
