"""Clips of a manifest: pictures at a rate, the sound of the same span, and words."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.clip_manifest import (
    Clip,
    as_labels,
    label_classes,
    parse_records,
    read_manifest,
)
from zoo_jax.data.clip_window import (
    MODALITIES,
    Place,
    Short,
    clip_span,
    lengthen,
    make_window,
    place_window,
    read_clip,
    window_share,
)
from zoo_jax.data.folder import resolve
from zoo_jax.data.words import Vocabulary


class Clips:
    """The clips of a manifest, decoded when they are asked for.

    An example has, as far as `modalities` says: ``video`` (uint8 [t, h, w, 3]), picture `k` the
    one shown at ``start + k / frame_rate``; ``audio`` (float32 [s] in [-1, 1]) of the same
    span; ``text`` (int32 [1 + context, words]), the clip's own sentence and then its neighbours,
    with ``text_mask`` (float32: 0 for a clip without a known word, whose text is all 0). A
    clip with fewer neighbours has its sentences repeated in turn. With labels in the manifest
    there is ``label``: int32, or float32 [num_classes] with ones if a clip may have several.

    `info` has ``vocabulary``, ``names`` (of the clip of each example), ``without_text`` (the
    number of clips without a known word), and with labels ``num_classes``, ``classes`` (if they are names) and ``labels`` (if a clip has just one).

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
            "without_text": sum(
                not self._texts.has_words(c.texts) for c in self._clips
            ),
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

        def choose(duration: Fraction | None) -> tuple[Fraction, int]:
            span = clip_span(clip, duration, self.window)
            return place_window(span, share, self.window, clip)

        taken = read_clip(
            clip,
            choose,
            self.window,
            modalities=self._modalities,
            short_side=self._short_side,
            max_damages=self._max_damages,
            may_be_silent=self._no_audio == "silence",
        )
        example = lengthen(
            taken,
            self.window,
            self._short,
            modalities=self._modalities,
            place=clip.place,
        )
        if "audio" in self._modalities and self._no_audio == "silence":
            example["audio_mask"] = np.float32(taken.sound is not None)
        if "text" in self._modalities:
            example["text"], example["text_mask"] = self._texts(clip.texts)
        return {**example, **self._labels(clip.label)}


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
        if not self.has_words(texts):
            return np.zeros((self._sentences, self._words), np.int32), np.float32(0)
        known = [t for t in texts if self.vocabulary.knows(t)]
        rows = [
            self.vocabulary.encode(known[i % len(known)], length=self._words)
            for i in range(self._sentences)
        ]
        return np.stack(rows), np.float32(1)

    def has_words(self, texts: Sequence[str]) -> bool:
        """Whether the first text has a known word."""
        return bool(texts) and self.vocabulary.knows(texts[0])


class LabelEncoder:
    """Labels of clips as numbers, or as ones among zeros if a clip may have several.

    Args:
      clips: All clips, of every split: they say which classes there are.
      classes: Names in order, or the number of numbers, if not those of the clips.
    """

    def __init__(
        self, clips: Sequence[Clip], classes: Sequence[str] | int | None = None
    ):
        kind = label_classes(clips)
        self._several = any(isinstance(clip.label, tuple) for clip in clips)
        if isinstance(classes, int):
            kind, classes = classes, None
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
