"""Published sets of blurred and sharp pairs, after `experiments.prepare_data`."""

from typing import Any, Literal

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.pairs import decode_pair, every_nth
from zoo_jax.data.tfds import example_sequences, open_prepared


class PreparedPairs:
    """A split of a prepared set of pairs.

    An example is ``image`` (blurred) and ``sharp``, uint8 [h, w, 3]. A record that is damaged
    raises `MediaError`, as a file would. ``info["groups"]`` names the sequence of each.

    Args:
      name: A key of `BUILDERS`, e.g. ``"gopro/linear"``.
      split: A split of TFDS, whole or a part: ``"train"``, ``"train[90%:]"``, ...
      data_dir: Where the prepared files are; default ``$ZOO_DATA/tfds``.
      every: Only every so-many-th pair.

    Raises:
      DataError: if the set is not prepared; the message has the command.
      ConfigError: for an unknown split, or a value out of range.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        data_dir: PathLike | None = None,
        every: int = 1,
    ):
        builder, self._records = open_prepared(
            name, split, data_dir, encoded=("image", "sharp")
        )
        self._chosen = every_nth(range(len(self._records)), every)
        self._name = name
        groups = example_sequences(builder, split)
        self.info = {"groups": tuple(groups[i] for i in self._chosen)}

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[self._chosen[index]]
        place = f"{self._name} {record['sequence'].decode()}/{record['index']}"
        return decode_pair(
            record["image"], record["sharp"], f"{place} blurred", f"{place} sharp"
        )

    def place(self, index: int) -> tuple[str, int]:
        """Sequence and number of the frame of an example."""
        record = self._records[self._chosen[index]]
        return record["sequence"].decode(), int(record["index"])


def gopro(
    split: str,
    *,
    light: Literal["linear", "gamma"] = "linear",
    data_dir: PathLike | None = None,
    every: int = 1,
) -> PreparedPairs:
    """GoPro: 2,103 train and 1,111 test pairs. See `PreparedPairs`.

    Args:
      split: ``"train"``, ``"test"`` or a part.
      light: Which blurred images: means of values (``blur``), on which papers report, or
        means of light (``blur_gamma``).
      data_dir: See `PreparedPairs`.
      every: See `PreparedPairs`.
    """
    if light not in ("linear", "gamma"):
        raise ConfigError(
            f"unknown light {light!r}: {closest(light, ('linear', 'gamma'))}"
        )
    return PreparedPairs(f"gopro/{light}", split, data_dir=data_dir, every=every)


def koehler(
    split: str = "test", *, data_dir: PathLike | None = None, every: int = 1
) -> PreparedPairs:
    """Koehler's 48 pictures, each with the sharp frame in the middle. See `PreparedPairs`.

    Its place is the number of the photograph (as text) and that of the trajectory. The
    official protocol needs all frames: `builders.koehler.builder.sharp_frames`.
    """
    return PreparedPairs("koehler", split, data_dir=data_dir, every=every)


def reds(
    split: str,
    *,
    compressed: bool = False,
    data_dir: PathLike | None = None,
    every: int = 1,
) -> PreparedPairs:
    """REDS: 24,000 train and 3,000 valid pairs. See `PreparedPairs`.

    Args:
      split: ``"train"``, ``"valid"`` or a part.
      compressed: Take the blurred frames that were compressed as video.
      data_dir: See `PreparedPairs`.
      every: See `PreparedPairs`.
    """
    name = "reds/blur_comp" if compressed else "reds/blur"
    return PreparedPairs(name, split, data_dir=data_dir, every=every)


def dvd(
    split: str, *, data_dir: PathLike | None = None, every: int = 1
) -> PreparedPairs:
    """DVD: 5,708 train and 1,000 test pairs. See `PreparedPairs`."""
    return PreparedPairs("dvd", split, data_dir=data_dir, every=every)


def nfs(
    split: str = "train", *, data_dir: PathLike | None = None, every: int = 1
) -> PreparedPairs:
    """Need for Speed: pairs made of 240 frames a second. See `PreparedPairs`."""
    return PreparedPairs("nfs", split, data_dir=data_dir, every=every)
