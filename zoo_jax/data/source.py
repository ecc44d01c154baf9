"""Sources: random access to single examples. A config section names one and its arguments."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from zoo_jax.core.config import to_dict
from zoo_jax.core.errors import ConfigError, DataError, closest

Example = dict[str, Any]  # name -> numpy array or scalar


class Source(Protocol):
    """A finite data set with random access.

    Three attributes are optional. ``take(indices: Int[np.ndarray, "b"]) -> dict`` returns whole
    batches; the loader prefers it, so give it only to data in memory. ``draw(index, rng)``
    returns an example of which a part is chosen at random, such as a window of a long clip;
    the loader calls it in place of ``[index]``, with the generator that the transform then goes
    on with. ``info: dict`` holds facts such as ``num_classes``.

    Reading an example must depend on its index (and `rng`) alone, may happen in several
    processes at once, and raises `MediaError` for a file that cannot be decoded.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class ArraySource:
    """Arrays in memory that share their leading axis.

    Args:
      arrays: Name -> array [n, ...].
      **info: Facts about the data, e.g. ``num_classes=10``.

    Raises:
      DataError: without arrays, or if their leading axes differ.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], **info: Any):
        self.arrays = {name: np.asarray(value) for name, value in arrays.items()}
        self.info = info
        lengths = {k: v.shape[0] if v.ndim else None for k, v in self.arrays.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            raise DataError(
                f"arrays of a source need one common leading axis, got {lengths}"
            )

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Example:
        return {name: value[index] for name, value in self.arrays.items()}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices` [b], stacked."""
        return {name: value[indices] for name, value in self.arrays.items()}


SOURCES: dict[str, str] = {
    "blurred_photos": "zoo_jax.data.blurred:BlurredPhotos",
    "blurred_sample_clips": "zoo_jax.data.blurred:blurred_sample_clips",
    "blurred_video": "zoo_jax.data.blurred:BlurredVideo",
    "bsds500": "zoo_jax.data.photo_sets:bsds500",
    "camvid": "zoo_jax.data.photo_sets:camvid",
    "cbsd68": "zoo_jax.data.photo_sets:cbsd68",
    "cifar10": "zoo_jax.data.tfds:cifar10",
    "clips": "zoo_jax.data.clips:Clips",
    "digits": "zoo_jax.data.samples:digits",
    "dvd": "zoo_jax.data.prepared_pairs:dvd",
    "esc10": "zoo_jax.data.clip_samples:esc10",
    "gopro": "zoo_jax.data.prepared_pairs:gopro",
    "grid_words": "zoo_jax.data.grid_words:grid_words",
    "image_folder": "zoo_jax.data.folder:ImageFolder",
    "joined": "zoo_jax.data.pairs:JoinedSources",
    "kodak24": "zoo_jax.data.photo_sets:kodak24",
    "koehler": "zoo_jax.data.prepared_pairs:koehler",
    "mispaired": "zoo_jax.data.mispaired:mispaired",
    "mnist": "zoo_jax.data.tfds:mnist",
    "mnist_5k": "zoo_jax.data.samples:mnist_5k",
    "nfs": "zoo_jax.data.prepared_pairs:nfs",
    "noisy_images": "zoo_jax.data.degrade:NoisyImages",
    "paired_folder": "zoo_jax.data.pairs:PairedFolder",
    "photo_folder": "zoo_jax.data.photos:PhotoFolder",
    "prepared_clips": "zoo_jax.data.prepared_clips:PreparedClips",
    "reds": "zoo_jax.data.prepared_pairs:reds",
    "sample_film": "zoo_jax.data.clip_samples:sample_film",
    "sample_photos": "zoo_jax.data.photos:SamplePhotos",
    "segmented_photos": "zoo_jax.data.photos:SegmentedPhotos",
    "synthetic_clips": "zoo_jax.data.synthetic_clips:SyntheticClips",
    "synthetic_images": "zoo_jax.data.synthetic:SyntheticImages",
    "ug2_crops": "zoo_jax.data.ug2_crops:Ug2Crops",
    "voc2012": "zoo_jax.data.photo_sets:voc2012",
}

LOADER_KEYS = frozenset(
    {"batch_size", "transform", "shuffle", "workers", "on_error", "max_skipped"}
)


def split_spec(section: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a config section into what `open_source` takes and what the loader takes.

    Args:
      section: E.g. ``dict(name="mnist_5k", split="train", batch_size=64)``.

    Returns:
      ``(source_spec, loader_kwargs)``; the second has only keys of `LOADER_KEYS` and goes to
      `train_batches` (or, without ``shuffle``, to `eval_batches`) as keyword arguments.
    """
    plain = to_dict(section)
    spec = {k: v for k, v in plain.items() if k not in LOADER_KEYS}
    return spec, {k: v for k, v in plain.items() if k in LOADER_KEYS}


def open_source(spec: Mapping[str, Any]) -> Source:
    """Opens the source that a config section names.

    Args:
      spec: ``name`` is a key of `SOURCES`, or ``"module:function"`` for a source of your own.
        All other entries are keyword arguments of that function.

    Raises:
      ConfigError: for an unknown name, or an argument that the source does not have.
      DataError: if the data is absent or damaged; the message says how to get it.
    """
    kwargs = to_dict(spec)
    name = kwargs.pop("name", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"a data section needs a name, got {name!r}: {closest('', SOURCES)}"
        )
    target = name if ":" in name else SOURCES.get(name)
    if target is None:
        raise ConfigError(f"unknown data source {name!r}: {closest(name, SOURCES)}")
    module, _, attribute = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as e:
        if name in SOURCES:
            raise
        raise ConfigError(f"data source {name!r} cannot be imported: {e}") from e
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in kwargs:
            if key not in parameters:
                raise ConfigError(
                    f"data source {name!r} has no argument {key!r}: "
                    f"{closest(key, parameters)}"
                )
    for key, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and key not in kwargs:
            raise ConfigError(f"data source {name!r} needs the argument {key!r}")
    return factory(**kwargs)
