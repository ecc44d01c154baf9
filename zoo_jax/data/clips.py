"""Clips of a manifest: pictures at a rate, the sound of the same span, and words."""

import math
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from zoo_jax.core.errors import ConfigError, DataError, MediaError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.audio import audio_info, read_audio
from zoo_jax.data.clip_manifest import (
    Clip,
    as_labels,
    label_classes,
    parse_records,
    read_manifest,
)
from zoo_jax.data.folder import resolve
from zoo_jax.data.video import VideoReader
from zoo_jax.data.words import Vocabulary

MODALITIES = ("video", "audio", "text")
Place = Literal["start", "middle", "random"]
Short = Literal["loop", "pad", "skip"]
_FAR = 10  # s: windows behind it are sought, those before are read up to


class Window(NamedTuple):
    """What is cut out of a clip: `frames` pictures and the sound of the same time."""

    frames: int = 32
    frame_rate: Fraction = Fraction(10)
    audio_rate: int = 48_000

    @property
    def seconds(self) -> Fraction:
        """Of pictures and of sound."""
        return self.frames / self.frame_rate

    @property
    def samples(self) -> int:
        """Of sound; the reference rounds down too."""
        return math.floor(self.seconds * self.audio_rate)


class Clips:
    """The clips of a manifest, decoded when they are asked for.

    An example has, as far as `modalities` says: ``video`` (uint8 [t, h, w, 3]), picture `k` the
    one shown at ``start + k / frame_rate``; ``audio`` (float32 [s] in [-1, 1]) of the same
    span; ``text`` (int32 [1 + context, words]), the clip's own sentence and then its neighbours,
    with ``text_mask`` (float32: 0 for a clip without a known word, whose text is all 0). A
    clip with fewer neighbours has its sentences repeated in turn. With labels in the manifest
    there is ``label``: int32, or float32 [num_classes] with ones if a clip may have several.

    `info` has ``vocabulary``, ``names`` (of the clip of each example), and with labels
    ``num_classes``, ``classes`` (if they are names) and ``labels`` (if a clip has just one).

    Args:
      manifest: See `clip_manifest.read_manifest`; a relative path is below ``$ZOO_DATA``. Or
        its lines, as dicts.
      root: Folder of the media; default that of the manifest.
      split: Only lines of this ``split``.
      folds: Only lines of these ``fold`` numbers.
      modalities: Which of ``"video"``, ``"audio"``, ``"text"``.
      frames: Pictures of a window. VATT takes 32 at 10 a second.
      frame_rate: Pictures per second.
      audio_rate: Samples per second; VATT has 48,000.
      short_side: Pictures are made smaller to this while they are decoded. None keeps them.
      context: Neighbouring sentences; VATT has 4.
      words: Numbers of a sentence; VATT has 16.
      vocabulary: A vocabulary file, or words; None builds one of all texts of the manifest.
      classes: Names of the classes in order; default those of the whole manifest, sorted.
      place: Where a window lies in a longer clip. ``"random"`` is drawn by the loader; without
        a loader it is the middle.
      windows: So many windows per clip, evenly spread from its start to its end: example ``i``
        is window ``i % windows`` of clip ``i // windows``. Excludes ``place="random"``.
      short: What becomes of a clip shorter than the window. ``"loop"`` repeats it, as the
        reference does; ``"pad"`` repeats the last picture, with silence; ``"skip"`` makes it a
        `MediaError`, which the loader can skip, count and report.
      no_audio: A clip without sound is an ``"error"`` (`MediaError`), or ``"silence"``: zeros,
        and examples gain ``audio_mask`` (float32).
      max_damages: Of pictures, see `VideoReader`.

    Raises:
      ConfigError: for a value out of range.
      DataError: for a manifest that is wrong, or without one of the modalities.
      MediaError: while reading, for a file that is absent, damaged, cut off, not what it should
        be, without sound, or a window or caption that lies outside of it.
    """

    def __init__(
        self,
        manifest: PathLike | Sequence[Mapping[str, Any]],
        *,
        root: PathLike | None = None,
        split: str | None = None,
        folds: Sequence[int] | None = None,
        modalities: Sequence[str] = MODALITIES,
        frames: int = 32,
        frame_rate: float = 10,
        audio_rate: int = 48_000,
        short_side: int | None = None,
        context: int = 4,
        words: int = 16,
        vocabulary: PathLike | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        place: Place = "middle",
        windows: int = 1,
        short: Short = "loop",
        no_audio: Literal["error", "silence"] = "error",
        max_damages: int = 0,
    ):
        check_reading(modalities, place, windows, short, no_audio)
        self.window = make_window(frames, frame_rate, audio_rate)
        if isinstance(manifest, str | os.PathLike):
            everything = read_manifest(manifest, root=root, context=context)
        else:
            everything = parse_records(manifest, root=root or ".", context=context)
            manifest = "the manifest"
        if vocabulary is None:
            own = (text for clip in everything for text in clip.texts[:1])
            vocabulary = Vocabulary.build(own).words
        self._texts = TextEncoder(vocabulary, context=context, words=words)
        self._clips = [
            clip
            for clip in everything
            if (split is None or clip.split == split)
            and (folds is None or clip.fold in folds)
        ]
        if not self._clips:
            splits = {clip.split for clip in everything if clip.split}
            raise DataError(
                f"{manifest}: no clip of split {split!r} and folds {folds}: "
                f"{closest(str(split), splits)}"
            )
        self._modalities = tuple(modalities)
        _require_files(self._clips, modalities, manifest)
        self._short_side, self._max_damages = short_side, max_damages
        self._place, self._windows = place, windows
        self._short, self._no_audio = short, no_audio
        self._labels = LabelEncoder(everything, classes)
        self.info = {
            **self._labels.info(self._clips, windows),
            "names": [c.name for c in self._clips for _ in range(windows)],
            "vocabulary": self._texts.vocabulary.words,
        }
        if place == "random":
            self.draw = self._draw

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The sentences of each example, in words: its own, then its neighbours."""
        return [c.texts for c in self._clips for _ in range(self._windows)]

    def __len__(self) -> int:
        return len(self._clips) * self._windows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._read(index, self._share(index))

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return self._read(index, Fraction(rng.random()))

    def _share(self, index: int) -> Fraction:
        return window_share(self._place, index % self._windows, self._windows)

    def _read(self, index: int, share: Fraction) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        clip = self._clips[index // self._windows]
        example: dict[str, Any] = {}
        if "video" in self._modalities:
            pictures, sound = self._pictures_and_sound(clip, share)
            example["video"] = pictures
        elif "audio" in self._modalities:
            sound = self._sound_alone(clip, share)
        if "audio" in self._modalities:
            silent = sound is None
            example["audio"] = np.zeros(self.window.samples, "f4") if silent else sound
            if self._no_audio == "silence":
                example["audio_mask"] = np.float32(not silent)
        if "text" in self._modalities:
            example["text"], example["text_mask"] = self._texts(clip.texts)
        return {**example, **self._labels(clip.label)}

    def _pictures_and_sound(
        self, clip: Clip, share: Fraction
    ) -> tuple[UInt8[np.ndarray, "t h w 3"], Float[np.ndarray, "s"] | None]:
        with VideoReader(
            clip.video, short_side=self._short_side, max_damages=self._max_damages
        ) as reader:
            span = clip_span(clip, reader.info.duration, self.window)
            start, count = place_window(span, share, self.window, clip)
            first = reader.first + start
            if start > _FAR:
                reader.seek(first)
            step = 1 / self.window.frame_rate
            pictures = list(reader.shown_at([first + k * step for k in range(count)]))
            has_sound, origin = reader.info.has_audio, reader.first
        if not pictures:
            raise MediaError(
                f"{clip.place}: has no picture at {float(start):g} s: {_outside(clip)}"
            )
        sound = None
        if "audio" in self._modalities and (
            clip.audio or has_sound or self._no_audio == "error"
        ):
            sound = read_audio(
                clip.audio or clip.video,
                rate=self.window.audio_rate,
                start=start,
                samples=sound_length(len(pictures), self.window),
                origin=None if clip.audio else origin,
            )
        return lengthen(pictures, sound, self.window, self._short, clip.place)

    def _sound_alone(
        self, clip: Clip, share: Fraction
    ) -> Float[np.ndarray, "s"] | None:
        path = clip.audio or clip.video
        span = clip_span(clip, audio_info(path).duration, self.window)
        start, count = place_window(span, share, self.window, clip)
        sound = read_audio(
            path,
            rate=self.window.audio_rate,
            start=start,
            samples=sound_length(count, self.window),
        )
        _, sound = lengthen([None] * count, sound, self.window, self._short, clip.place)
        return sound


class TextEncoder:
    """Sentences of a clip as numbers of words.

    Args:
      vocabulary: A file, or all words.
      context: Neighbouring sentences.
      words: Numbers of a sentence.
    """

    def __init__(
        self, vocabulary: PathLike | Sequence[str], *, context: int, words: int
    ):
        if context < 0 or words < 1:
            raise ConfigError(
                f"context must not be negative and words positive, got {context}, {words}"
            )
        is_list = isinstance(vocabulary, Sequence) and not isinstance(vocabulary, str)
        self.vocabulary = (
            Vocabulary(vocabulary) if is_list else Vocabulary.read(resolve(vocabulary))
        )
        self._sentences, self._words = 1 + context, words

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "l words"], np.float32]:
        """Numbers, and 1 if the first text has a known word; else all is 0."""
        if not texts or not self.vocabulary.knows(texts[0]):
            return np.zeros((self._sentences, self._words), np.int32), np.float32(0)
        known = [t for t in texts if self.vocabulary.knows(t)]
        rows = [
            self.vocabulary.encode(known[i % len(known)], length=self._words)
            for i in range(self._sentences)
        ]
        return np.stack(rows), np.float32(1)


class LabelEncoder:
    """Labels of clips as numbers, or as ones among zeros if a clip may have several.

    Args:
      clips: All clips, of every split: they say which classes there are.
      classes: Names in order, if not those of the clips.
    """

    def __init__(self, clips: Sequence[Clip], classes: Sequence[str] | None = None):
        kind = label_classes(clips)
        self._several = any(isinstance(clip.label, tuple) for clip in clips)
        self.classes = tuple(classes) if classes is not None else None
        if kind is not None and not isinstance(kind, int):
            self.classes = self.classes or kind
            unknown = sorted(set(kind) - set(self.classes))
            if unknown:
                raise DataError(
                    f"the label {unknown[0]!r} is none of the classes: "
                    f"{closest(unknown[0], self.classes)}"
                )
        self.count = len(self.classes) if self.classes is not None else kind
        self._numbers = {name: i for i, name in enumerate(self.classes or ())}

    def __call__(self, label: Any) -> dict[str, Any]:
        """``{"label": ...}``, or nothing where clips have none."""
        if self.count is None or label is None:
            return {}
        numbers = [self._numbers.get(v, v) for v in as_labels(label)]
        if not self._several:
            return {"label": np.int32(numbers[0])}
        out = np.zeros(self.count, np.float32)
        out[numbers] = 1
        return {"label": out}

    def info(self, clips: Sequence[Clip], windows: int) -> dict[str, Any]:
        """What a source says of its labels."""
        if self.count is None:
            return {}
        out: dict[str, Any] = {"num_classes": self.count}
        if self.classes is not None:
            out["classes"] = self.classes
        if not self._several:
            labels = [self(clip.label)["label"] for clip in clips]
            out["labels"] = np.repeat(np.array(labels, np.int32), windows)
        return out


# --- windows --------------------------------------------------------------------------------


def make_window(frames: int, frame_rate: float, audio_rate: int) -> Window:
    """A checked `Window`. Raises `ConfigError`."""
    if frames < 1 or not 0 < frame_rate <= 1000 or audio_rate < 1:
        raise ConfigError(
            "frames, frame_rate and audio_rate must be positive, got "
            f"{frames}, {frame_rate}, {audio_rate}"
        )
    window = Window(frames, Fraction(frame_rate).limit_denominator(1001), audio_rate)
    if window.samples < 1:
        raise ConfigError(f"a window of {float(window.seconds):g} s holds no sound")
    return window


def window_share(place: Place, number: int, windows: int) -> Fraction:
    """Where window `number` of `windows` starts: 0 at the first place, 1 at the last."""
    if windows > 1:
        return Fraction(number, windows - 1)
    return Fraction(0) if place == "start" else Fraction(1, 2)


def clip_span(
    clip: Clip, duration: Fraction | None, window: Window
) -> tuple[Fraction, Fraction | None]:
    """Start and end of a clip; that of a caption is made as long as the window.

    The end is that of the file where the manifest has none; None if neither says it.
    """
    start = Fraction(str(clip.start))  # 0.8 is 4/5, where a picture may start
    end = duration if clip.end is None else Fraction(str(clip.end))
    if clip.caption == (clip.start, clip.end) and end - start < window.seconds:
        start = max(start - (window.seconds - (end - start)) / 2, Fraction(0))
        end = start + window.seconds
    return start, end


def place_window(
    span: tuple[Fraction, Fraction | None], share: Fraction, window: Window, clip: Clip
) -> tuple[Fraction, int]:
    """Where the window starts, and how many of its pictures lie in the span.

    Raises:
      MediaError: if the file ends before the span starts.
    """
    start, end = span
    if end is None:
        return start, window.frames
    if end <= start:
        raise MediaError(f"{clip.place}: {_outside(clip)}: it ends at {float(end):g} s")
    spare = end - start - window.seconds
    if spare >= 0:
        return start + spare * share, window.frames
    return start, min(math.ceil((end - start) * window.frame_rate), window.frames)


def sound_length(pictures: int, window: Window) -> int:
    """Samples of the time in which so many pictures are shown."""
    if pictures == window.frames:
        return window.samples
    return max(math.floor(pictures / window.frame_rate * window.audio_rate), 1)


def lengthen(
    pictures: Sequence[Any],
    sound: Float[np.ndarray, "s"] | None,
    window: Window,
    short: Short,
    place: str,
) -> tuple[UInt8[np.ndarray, "t h w 3"], Float32[np.ndarray, "s"] | None]:
    """Brings pictures and sound to the length of the window, in step with each other.

    Raises:
      MediaError: for a shorter clip with ``short="skip"``.
    """
    there = len(pictures)
    if there < window.frames and short == "skip":
        raise MediaError(
            f"{place}: has {there} of the {window.frames} pictures of a window: it is "
            'shorter (short="loop" repeats it)'
        )
    chosen = np.arange(window.frames)
    chosen = chosen % there if short == "loop" else np.minimum(chosen, there - 1)
    if sound is not None:
        sound = sound[: sound_length(there, window)]
        if short == "loop":
            sound = np.resize(sound, window.samples)
        else:
            sound = np.pad(sound, (0, window.samples - len(sound)))
    video = None if pictures[0] is None else np.stack([pictures[i] for i in chosen])
    return video, sound


def check_reading(
    modalities: Sequence[str], place: str, windows: int, short: str, no_audio: str
) -> None:
    """Raises `ConfigError` for choices that there are not."""
    if isinstance(modalities, str) or not modalities:
        raise ConfigError(
            f"modalities must be a list of {', '.join(MODALITIES)}, got {modalities!r}"
        )
    for name, value, choices in (
        *(("modality", m, MODALITIES) for m in modalities),
        ("place", place, ("start", "middle", "random")),
        ("short", short, ("loop", "pad", "skip")),
        ("no_audio", no_audio, ("error", "silence")),
    ):
        if value not in choices:
            raise ConfigError(f"unknown {name} {value!r}: {closest(value, choices)}")
    if windows < 1 or (windows > 1 and place == "random"):
        raise ConfigError(
            f'windows must be positive, and 1 with place="random", got {windows}'
        )


def _require_files(
    clips: Sequence[Clip], modalities: Sequence[str], manifest: PathLike
) -> None:
    if "video" in modalities:
        bare = [clip for clip in clips if clip.video is None]
        if bare:
            raise DataError(
                f"{manifest}: {len(bare)} clips have no video (first: {bare[0].name}): "
                'leave "video" out of the modalities'
            )


def _outside(clip: Clip) -> str:
    if clip.caption is None:
        return "the clip lies outside the file"
    start, end = clip.caption
    return f"the caption {clip.texts[0][:40]!r} of {start:g} to {end:g} s lies outside the file"
