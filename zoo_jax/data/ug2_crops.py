"""Objects of UG^2, cut out of its frames by `experiments.prepare_data`."""

from typing import Any

import numpy as np

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.builders.ug2.collections import CLASSES, COLLECTIONS
from zoo_jax.data.media import decode_image
from zoo_jax.data.tfds import example_sequences, open_prepared


class Ug2Crops:
    """The objects of one collection.

    An example is ``image`` (uint8 [s, s, 3], s >= 224 but in small frames) and ``label`` (int32,
    index into ``info["classes"]``). ``info["groups"]`` names the video of each.

    Args:
      split: ``"train"``, ``"test"`` or a part; published parts share no video.
      collection: ``"uav"``, ``"glider"`` or ``"ground"``.
      data_dir: Where the prepared files are; default ``$ZOO_DATA/tfds``.

    Raises:
      ConfigError: for an unknown collection or split.
      DataError: if the set is not prepared; the message has the command.
    """

    def __init__(
        self, split: str, *, collection: str, data_dir: PathLike | None = None
    ):
        if collection not in COLLECTIONS:
            raise ConfigError(
                f"unknown collection {collection!r}: {closest(collection, COLLECTIONS)}"
            )
        name = f"ug2/{collection}_crops"
        builder, self._records = open_prepared(
            name, split, data_dir, encoded=("image",)
        )
        self.info = {
            "num_classes": len(CLASSES),
            "classes": CLASSES,
            "groups": tuple(example_sequences(builder, split)),
        }

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        return {
            "image": decode_image(record["image"]),
            "label": np.int32(record["label"]),
        }
