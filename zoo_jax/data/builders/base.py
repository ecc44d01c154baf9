"""What builders share, and what those of labelled images share."""

import abc
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from PIL import Image

from zoo_jax.core.errors import DataError


class OfficialFiles:
    """The part of a builder that knows where files are and how many there must be.

    Args:
      source_dir: Where the official files are.
      counts: Split -> number that must be found; default: the documented ones.
      **kwargs: Of the TFDS builder, e.g. ``data_dir``.
    """

    VERSION = tfds.core.Version("1.0.0")
    COUNTS: ClassVar[Mapping[str, int]]
    HOMEPAGE: ClassVar[str]
    CITATION: ClassVar[str]

    def __init__(
        self,
        *,
        source_dir: pathlib.Path,
        counts: Mapping[str, int] | None = None,
        **kwargs: Any,
    ):
        self.source_dir = pathlib.Path(source_dir)
        self.counts = dict(self.COUNTS if counts is None else counts)
        super().__init__(**kwargs)


class LabelledImages(
    OfficialFiles, tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A builder of `image` and `label`; arguments as `OfficialFiles`."""

    SHAPE: ClassVar[tuple[int, int, int]]
    CLASSES: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images (uint8 [n, h, w, c]) and labels [n] of a split. Raises `DataError`."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=self.SHAPE),
                    "label": tfds.features.ClassLabel(names=list(self.CLASSES)),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            disable_shuffling=True,  # example i is example i of the official files
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        # All splits are read and checked before the first example is written.
        return {
            split: self._generate_examples(*self._checked(split))
            for split in self.counts
        }

    def _checked(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self.read(split)
        expected = self.counts[split]
        if len(images) != expected or len(labels) != expected:
            raise DataError(
                f"{self.source_dir}: split {split!r} has {len(images)} images and "
                f"{len(labels)} labels, not {expected:,}: get the official files again"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.CLASSES):
            raise DataError(
                f"{self.source_dir}: labels of split {split!r} lie in [{labels.min()}, "
                f"{labels.max()}], not in [0, {len(self.CLASSES) - 1}]"
            )
        return images, labels

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            yield i, {"image": picture, "label": int(label)}


# Examples of one file. TFDS keeps what it writes to one in memory until the file is closed.
_SHARD = 64


# Not a GeneratorBasedBuilder: that needs TensorFlow itself for splits beyond 1 GB, and keeps
# all of a split in memory if its order is to stay.
class ShardedExamples(
    OfficialFiles, tfds.core.ShardBasedBuilder, skip_registration=True
):
    """A builder of examples that are made one by one of what was found.

    The metadata has, for each split, the sequence (video) of every example.
    """

    UNIT: ClassVar[str] = "examples"  # what is counted

    @abc.abstractmethod
    def find(self, split: str) -> Sequence[Any]:
        """What `example` makes the examples of a split of, in order. Raises `DataError`.

        Each has a `sequence`.
        """

    @abc.abstractmethod
    def example(self, found: Any) -> dict[str, Any]:
        """One example. Raises `DataError`."""

    def count(self, found: Sequence[Any]) -> int:
        """How many of `UNIT` were found."""
        return len(found)

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator]]]:
        del dl_manager  # nothing is downloaded
        # All splits are found and counted before the first example is written.
        found = {split: self._checked(split) for split in self.counts}
        # Beside the records, since to ask each for its sequence would read all images.
        for split, some in found.items():
            self.info.metadata[split] = [item.sequence for item in some]
        return {
            split: [
                _Shard(self, split, some[start : start + _SHARD], start, len(some))
                for start in range(0, len(some), _SHARD)
            ]
            for split, some in found.items()
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
    builder: ShardedExamples
    split: str
    found: Sequence[Any]
    start: int
    total: int

    def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        bar = tqdm.tqdm(
            self.found,
            desc=f"{self.builder.name} {self.split}",
            initial=self.start,
            total=self.total,
            unit="example",
            leave=False,
            disable=None,  # shown on a terminal only
        )
        for number, item in enumerate(bar, self.start):
            yield number, self.builder.example(item)
