"""GRID: windows around the words of real sentences, each with picture, sound and text."""

import csv
import functools
import math
import pathlib
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, MediaError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.audio import read_audio
from zoo_jax.data.folder import resolve
from zoo_jax.data.source import ArraySource
from zoo_jax.data.video import VideoReader
from zoo_jax.data.words import SPECIALS, Vocabulary

SLOTS = ("command", "color", "preposition", "letter", "digit", "adverb")
_RATE = 25  # frames per second of every clip
_COLUMNS = ("clip", "split") + tuple(
    f"{slot}{end}" for slot in SLOTS for end in ("", "_start_frame", "_end_frame")
)


class _Word(NamedTuple):
    text: str
    centre: float  # in frames


def grid_words(
    split: str,
    *,
    root: PathLike = "grid_av",
    frames: int = 8,
    size: int = 32,
    audio_rate: int = 16_000,
    context: int = 4,
    words: int = 1,
    slots: tuple[str, ...] = SLOTS,
) -> ArraySource:
    """Every word of the sentences with the pictures and the sound around it, in memory.

    A window has `frames` consecutive pictures of the 25 a second, with the middle of the word
    in its own middle, moved as far as needed to lie within the clip. The sound is that of the
    same span, to the sample. The text is the word itself, then the `context` words of the
    sentence that are nearest in time (of two equally near, the earlier).

    Of each clip all words are in one split. One person speaks: results say nothing of others.

    Args:
      split: ``"train"`` (193 clips, 1,158 words) or ``"test"`` (47 clips, 282 words).
      root: Folder with ``clips.tsv`` and ``clips/``; a relative path is below ``$ZOO_DATA``.
      frames: Pictures of a window, at most 75.
      size: Height and width to which the square pictures are made smaller.
      audio_rate: Samples per second.
      context: Neighbours in the text, 0 to 5.
      words: Length of each sentence [l, words]; each is one word, then zeros.
      slots: Which words of a sentence; all six by default.

    Returns:
      ``video`` (uint8 [n, frames, size, size, 3]), ``audio`` (float32 [n, s], s = frames / 25
      s), ``text`` (int32 [n, 1 + context, words]), ``text_mask`` (float32, all 1) and
      ``label`` (int32: the place of the word among the 51). ``info`` has ``vocabulary``,
      ``num_classes``, ``classes``, and for each window ``groups`` (its clip) and ``slots``.

    Raises:
      ConfigError: for an unknown split or slot, or a number out of range.
      DataError: if files are absent or the table is another.
      MediaError: for a clip that cannot be read.
    """
    if split not in ("train", "test"):
        raise ConfigError(
            f"unknown split {split!r}: {closest(split, ('train', 'test'))}"
        )
    for slot in slots:
        if slot not in SLOTS:
            raise ConfigError(f"unknown slot {slot!r}: {closest(slot, SLOTS)}")
    if not (1 <= frames <= 75 and 0 <= context < len(SLOTS) and min(size, words) >= 1):
        raise ConfigError(
            "grid_words: frames must be in 1..75, context in 0..5, size and words positive, "
            f"got {frames}, {context}, {size}, {words}"
        )
    folder = resolve(root)
    table = _read_table(folder / "clips.tsv")
    classes = sorted({word.text for _, _, row in table for word in row})
    vocabulary = Vocabulary([*SPECIALS, *classes])
    made: dict[str, list] = {k: [] for k in ("video", "audio", "text", "label")}
    groups, places = [], []
    for clip, part, row in table:
        if part != split:
            continue
        pictures, sound = _read_clip(folder / "clips" / f"{clip}.mp4", size, audio_rate)
        for slot in slots:
            place = SLOTS.index(slot)
            first = _window(row[place].centre, frames, len(pictures))
            start = first * audio_rate // _RATE
            made["video"].append(pictures[first : first + frames])
            made["audio"].append(sound[start : start + frames * audio_rate // _RATE])
            near = sorted(range(len(row)), key=lambda i: abs(i - place))
            text = [row[i].text for i in near[: 1 + context]]
            made["text"].append([vocabulary.encode(t, length=words) for t in text])
            made["label"].append(classes.index(row[place].text))
            groups.append(clip)
            places.append(slot)
    if not groups:
        raise DataError(f"{folder / 'clips.tsv'}: has no clip of split {split!r}")
    arrays = {
        name: np.stack(values) for name, values in made.items() if name != "label"
    }
    arrays["text_mask"] = np.ones(len(groups), np.float32)
    arrays["label"] = np.array(made["label"], np.int32)
    return ArraySource(
        arrays,
        num_classes=len(classes),
        classes=tuple(classes),
        vocabulary=vocabulary.words,
        groups=tuple(groups),
        slots=tuple(places),
        labels=arrays["label"],
        audio_rate=audio_rate,
    )


def _window(centre: float, frames: int, length: int) -> int:
    """The first frame of a window around `centre`; frame i is shown from i to i + 1."""
    return min(max(math.floor(centre - frames / 2 + 0.5), 0), length - frames)


def _read_table(path: pathlib.Path) -> list[tuple[str, str, list[_Word]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}): GRID needs clips.tsv and clips/ in "
            "one folder (layouts: docs/data.md)"
        ) from None
    missing = sorted(set(_COLUMNS) - set(rows[0] if rows else ()))
    if missing:
        raise DataError(
            f"{path}: has no column {missing[0]!r} ({len(missing)} are missing): it is not "
            "the table of sentences with timed words"
        )
    try:
        return [
            (r["clip"], r["split"], [_word(r, slot) for slot in SLOTS]) for r in rows
        ]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a time is not a number: {error}") from None


def _word(row: dict[str, Any], slot: str) -> _Word:
    start, end = float(row[f"{slot}_start_frame"]), float(row[f"{slot}_end_frame"])
    return _Word(row[slot], (start + end) / 2)


@functools.lru_cache(maxsize=512)  # several streams and runs share the clips
def _read_clip(
    path: pathlib.Path, size: int, audio_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    with VideoReader(path, short_side=size) as reader:
        pictures = np.stack([frame.image for frame in reader.frames()])
        origin = reader.first
    if len(pictures) != 75 or pictures.shape[1:] != (size, size, 3):
        raise MediaError(
            f"{path}: has pictures of the shape {pictures.shape}, not 75 square ones of "
            f"{size} pixels or more"
        )
    samples = math.ceil(Fraction(75 * audio_rate, _RATE))
    return pictures, read_audio(path, rate=audio_rate, samples=samples, origin=origin)
