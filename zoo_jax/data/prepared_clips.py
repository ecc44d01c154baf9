"""Windows of clips that `experiments.prepare_data` has decoded and stored."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.core.files import PathLike
from zoo_jax.data.clip_manifest import Clip
from zoo_jax.data.clip_shards import WORDS, decode_pictures, decode_record, open_index
from zoo_jax.data.clip_window import (
    Place,
    Short,
    Taken,
    lengthen,
    make_window,
    sound_length,
    window_share,
)
from zoo_jax.data.clips import LabelEncoder, TextEncoder, check_reading


class PreparedClips:
    """The examples of `Clips`, read from shards; only the pictures of a window are decoded.

    Rates, size of pictures and what becomes of silent clips were settled by the preparation.
    A window starts with a stored picture, so that sound stays in step.

    Args:
      root: Folder of the shards; a relative path is below ``$ZOO_DATA``.
      modalities: Of ``"video"``, ``"audio"`` and ``"text"``; those stored, by default.
      frames: Pictures of a window.
      context: Neighbouring sentences.
      words: Numbers of a sentence.
      vocabulary: As of `Clips`; by default the one that was written with the shards.
      classes: Names of the classes in order; by default those of the manifest.
      place: As of `Clips`.
      windows: As of `Clips`.
      short: As of `Clips`.

    Raises:
      ConfigError: for a value out of range, or a modality that is not stored.
      DataError: if nothing is prepared there.
      MediaError: while reading, for a damaged record.
    """

    def __init__(
        self,
        root: PathLike,
        *,
        modalities: Sequence[str] | None = None,
        frames: int = 32,
        context: int = 4,
        words: int = 16,
        vocabulary: PathLike | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        place: Place = "middle",
        windows: int = 1,
        short: Short = "loop",
    ):
        from array_record.python import array_record_data_source as array_record

        folder, index = open_index(root)
        form = index["form"]
        stored = (*form["modalities"], "text")
        self._modalities = tuple(stored if modalities is None else modalities)
        check_reading(self._modalities, place, windows, short, "error")
        absent = [m for m in self._modalities if m not in stored]
        if absent:
            raise ConfigError(f"{folder}: {absent[0]} was not prepared, only {stored}")
        self.window = make_window(frames, form["frame_rate"], form["audio_rate"])
        self._texts = TextEncoder(
            folder / WORDS if vocabulary is None else vocabulary,
            context=context,
            words=words,
        )
        self._folder, self._short = folder, short
        self._silent = form["may_be_silent"]
        self._place, self._windows = place, windows
        # Each shard gets a reader of its own in each process, when it is first read.
        self._records = array_record.ArrayRecordDataSource(
            [str(folder / s["file"]) for s in index["shards"] if s["clips"]]
        )
        clips = [
            Clip(str(i), None, None, label=tuple(v) if isinstance(v, list) else v)
            for i, v in enumerate(index["labels"])
        ]
        self._labels = LabelEncoder(clips, classes or index["classes"])
        self.info = {
            **self._labels.info(clips, windows),
            "vocabulary": self._texts.vocabulary.words,
        }
        if place == "random":
            self.draw = self._draw

    def __len__(self) -> int:
        return len(self._records) * self._windows

    def __getitem__(self, index: int) -> dict[str, Any]:
        share = window_share(self._place, index % self._windows, self._windows)
        return self._read(index, share)

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return self._read(index, Fraction(rng.random()))

    def _read(self, index: int, share: Fraction) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = index // self._windows
        where = f"{self._folder} clip {number}"
        try:
            data = self._records[number]
        except Exception as error:  # of a damaged file, in C++
            raise MediaError(f"{where}: cannot be read: {error}") from None
        stored = decode_record(data, where)
        pictures, sound = stored.pictures, stored.sound
        window = self.window
        if pictures is not None:
            length = len(pictures)
        elif sound is not None:
            length = math.ceil(len(sound) * window.frame_rate / window.audio_rate)
        else:
            length = window.frames
        first = math.floor(max(length - window.frames, 0) * share)
        count = min(length - first, window.frames)
        if pictures is not None and "video" in self._modalities:
            pictures = decode_pictures(stored, range(first, first + count), where)
        else:
            pictures = None
        if sound is not None:
            start = math.floor(first / window.frame_rate * window.audio_rate)
            sound = sound[start : start + sound_length(count, window)]
        taken = Taken(pictures, sound, count)
        example = lengthen(
            taken, window, self._short, modalities=self._modalities, place=where
        )
        if "audio" in self._modalities and self._silent:
            example["audio_mask"] = np.float32(sound is not None)
        if "text" in self._modalities:
            texts = stored.facts["texts"]
            example["text"], example["text_mask"] = self._texts(texts)
        return {**example, **self._labels(_plain(stored.facts["label"]))}


def _plain(label: Any) -> Any:
    return tuple(label) if isinstance(label, list) else label
