"""Prepared data sets: written once by a TFDS builder, then read at random, no TensorFlow."""

import importlib
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.builders import BUILDERS
from zoo_jax.data.folder import data_root
from zoo_jax.data.source import ArraySource, Source
from zoo_jax.data.transforms import stack

_VERSION = "1.0.0"


def prepare_dataset(
    name: str,
    *,
    source_dir: PathLike | None = None,
    data_dir: PathLike | None = None,
    counts: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Reads the official files of a data set and writes them for random access.

    A set that is prepared already is left as it is.

    Args:
      name: A key of `BUILDERS`: ``"cifar10"``, ``"gopro/linear"``, ...
      source_dir: The folder of the official files; default ``$ZOO_DATA/<name>``, of which
        only what stands before the ``/``.
      data_dir: Where the prepared files go; default ``$ZOO_DATA/tfds``.
      counts: Split -> number of examples (NFS: of sequences); default: the documented ones.

    Returns:
      Split -> number of examples.

    Raises:
      ConfigError: for an unknown name.
      DataError: if files are absent or damaged, or the numbers are not as documented.
    """
    if name not in BUILDERS:
        forms = [key for key in BUILDERS if key.startswith(f"{name}/")]
        hint = f"choose {' or '.join(forms)}" if forms else closest(name, BUILDERS)
        raise ConfigError(f"unknown data set {name!r}: {hint}")
    module, _, attribute = BUILDERS[name].partition(":")
    builder_class = getattr(importlib.import_module(module), attribute)
    data_dir = _data_dir(data_dir)
    name, _, config = name.partition("/")
    try:
        builder = builder_class(
            source_dir=pathlib.Path(source_dir or data_root() / name).expanduser(),
            counts=counts,
            config=config or None,
            data_dir=data_dir,
            file_format="array_record",
        )
        with (
            tempfile.TemporaryDirectory() as unused
        ):  # else TFDS makes data_dir/downloads
            builder.download_and_prepare(download_dir=unused)
    except OSError as e:
        raise DataError(f"cannot write {data_dir}: {e}") from None
    return {split: info.num_examples for split, info in builder.info.splits.items()}


class TfdsSource:
    """A split of a prepared data set.

    Args:
      records: What ``as_data_source`` gave.
      **info: Facts, e.g. ``num_classes``.
    """

    def __init__(self, records: Any, **info: Any):
        self._records, self.info = records, info

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._records[index]
        return {"image": example["image"], "label": np.int32(example["label"])}


def open_prepared(
    name: str,
    split: str,
    data_dir: PathLike | None,
    *,
    encoded: Sequence[str] = (),
) -> tuple[Any, Sequence[Mapping[str, Any]]]:
    """Opens what `prepare_dataset` has written.

    Args:
      name: A key of `BUILDERS`.
      split: A split of TFDS, whole or a part.
      data_dir: As in `tfds_source`.
      encoded: Entries that stay the bytes of their files.

    Returns:
      The TFDS builder, and the records of the split.

    Raises:
      DataError: if the set is not prepared; the message has the command.
      ConfigError: if there is no such split.
    """
    import tensorflow_datasets as tfds

    folder = _data_dir(data_dir) / name / _VERSION
    if not (folder / "dataset_info.json").is_file():
        raise DataError(
            f"{name} is not prepared in {folder}: run python -m experiments.prepare_data "
            f"--dataset={name} (layouts: docs/data.md)"
        )
    builder = tfds.builder_from_directory(folder)
    try:
        records = builder.as_data_source(
            split=split,
            decoders={key: tfds.decode.SkipDecoding() for key in encoded} or None,
        )
        len(records)  # only this looks whether a part of a split is one
    except (ValueError, AssertionError) as e:
        raise ConfigError(
            f"{name} has no split {split!r}: choose from {sorted(builder.info.splits)} "
            f"or a part such as 'train[:90%]' ({_first_line(e)})"
        ) from None
    return builder, records


def example_sequences(builder: Any, split: str) -> list[str]:
    """The sequence (video) of every example of a split or of parts of splits.

    Args:
      builder: Of `open_prepared`, made by a builder of `builders.base.ShardedExamples`.
      split: As for `open_prepared`.
    """
    import tensorflow_datasets as tfds

    instruction = tfds.core.ReadInstruction.from_spec(split)
    parts = instruction.to_absolute(builder.info.splits)
    return [
        sequence
        for part in parts
        for sequence in builder.info.metadata[part.splitname][part.from_ : part.to]
    ]


def tfds_source(
    name: str,
    split: str,
    data_dir: PathLike | None = None,
    *,
    in_memory: bool = True,
) -> Source:
    """Opens a split of a data set that `prepare_dataset` has written.

    Args:
      name: A key of `BUILDERS`.
      split: A split of TFDS: ``"train"``, ``"train[:45000]"``, ``"train[90%:]"``, ...
      data_dir: Where the prepared files are; default ``$ZOO_DATA/tfds``.
      in_memory: Decode all images once, at the start; batches then cost next to nothing.

    Returns:
      ``image`` (uint8 [h, w, c]) and ``label`` (int32).

    Raises:
      DataError: if the set is not prepared; the message has the command.
      ConfigError: if there is no such split.
    """
    builder, records = open_prepared(name, split, data_dir)
    count = len(records)
    source = TfdsSource(
        records,
        num_classes=builder.info.features["label"].num_classes,
        image_shape=builder.info.features["image"].shape,
    )
    if not in_memory or not count:
        return source
    return ArraySource(stack([source[i] for i in range(count)]), **source.info)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _data_dir(data_dir: PathLike | None) -> pathlib.Path:
    return pathlib.Path(data_dir).expanduser() if data_dir else data_root() / "tfds"


def cifar10(
    split: str, *, data_dir: PathLike | None = None, in_memory: bool = True
) -> Source:
    """CIFAR-10: 50,000 train and 10,000 test images of 32x32x3. See `tfds_source`."""
    return tfds_source("cifar10", split, data_dir, in_memory=in_memory)


def mnist(
    split: str, *, data_dir: PathLike | None = None, in_memory: bool = True
) -> Source:
    """MNIST: 60,000 train and 10,000 test images of 28x28x1. See `tfds_source`."""
    return tfds_source("mnist", split, data_dir, in_memory=in_memory)
