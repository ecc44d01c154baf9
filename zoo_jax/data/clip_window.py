"""Windows of clips: where they lie, what is read of a file, and how it gets its length."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.data.audio import audio_info, read_audio
from zoo_jax.data.clip_manifest import Clip
from zoo_jax.data.video import VideoReader

MODALITIES = ("video", "audio", "text")
Place = Literal["start", "middle", "random"]
Short = Literal["loop", "pad", "skip"]
Choose = Callable[[Fraction | None], tuple[Fraction, int]]
_FAR = 2  # s: windows behind it are sought, those before are read up to


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
    return start, min(pictures_within(end - start, window), window.frames)


def pictures_within(seconds: Fraction, window: Window) -> int:
    """Pictures that start in so long a time, but for one in the last thousandth of its share.

    Times in manifests are rounded, and 0.8 s at 10 a second are to have 8 pictures.
    """
    return max(math.ceil(seconds * window.frame_rate - Fraction(1, 1000)), 1)


def sound_length(pictures: int, window: Window) -> int:
    """Samples of the time in which so many pictures are shown."""
    return max(math.floor(pictures / window.frame_rate * window.audio_rate), 1)


class Taken(NamedTuple):
    """What was read of a clip; `count` pictures' time of it."""

    pictures: list[UInt8[np.ndarray, "h w 3"]] | None  # None: of no interest
    sound: Float32[np.ndarray, "s"] | None  # None: of no interest, or there is none
    count: int


def read_clip(
    clip: Clip,
    choose: Choose,
    window: Window,
    *,
    modalities: Sequence[str] = MODALITIES,
    short_side: int | None = None,
    max_damages: int = 0,
    may_be_silent: bool = False,
) -> Taken:
    """Reads pictures and sound of one stretch of a clip.

    Args:
      clip: Its files.
      choose: From the length of the file in seconds, as far as it says it, to the start of
        the stretch and its number of pictures. There may be fewer.
      window: For its rates.
      modalities: Of ``"video"`` and ``"audio"``, what to read.
      short_side: See `VideoReader`.
      max_damages: See `VideoReader`.
      may_be_silent: Whether a file without sound is no error.

    Raises:
      MediaError: for a file that is damaged, or has nothing of the stretch.
    """
    want_sound = "audio" in modalities
    if "video" not in modalities:
        if not want_sound:
            return Taken(None, None, window.frames)
        path = clip.audio or clip.video
        start, count = choose(audio_info(path).duration)
        samples = sound_length(count, window)
        sound = read_audio(path, rate=window.audio_rate, start=start, samples=samples)
        return Taken(None, sound, count)
    with VideoReader(
        clip.video, short_side=short_side, max_damages=max_damages
    ) as reader:
        start, count = choose(reader.info.duration)
        first = reader.first + start
        if start > _FAR:
            reader.seek(first)
        times = (first + k / window.frame_rate for k in range(count))
        pictures = list(reader.shown_at(times))
        has_sound, origin = reader.info.has_audio, reader.first
    if not pictures:
        raise MediaError(
            f"{clip.place}: has no picture at {float(start):g} s: {_outside(clip)}"
        )
    sound = None
    if want_sound and (clip.audio or has_sound or not may_be_silent):
        sound = read_audio(
            clip.audio or clip.video,
            rate=window.audio_rate,
            start=start,
            samples=sound_length(len(pictures), window),
            origin=None if clip.audio else origin,
        )
    return Taken(pictures, sound, len(pictures))


def lengthen(
    taken: Taken,
    window: Window,
    short: Short,
    *,
    modalities: Sequence[str],
    place: str,
) -> dict[str, Any]:
    """Brings pictures and sound to the length of the window, in step with each other.

    Returns:
      ``video`` and ``audio``, as far as `modalities` has them; zeros where there is no sound.

    Raises:
      MediaError: for a shorter clip with ``short="skip"``.
    """
    there = taken.count
    if there < window.frames and short == "skip":
        raise MediaError(
            f"{place}: has {there} of the {window.frames} pictures of a window: it is "
            'shorter (short="loop" repeats it)'
        )
    chosen = np.arange(window.frames)
    chosen = chosen % there if short == "loop" else np.minimum(chosen, there - 1)
    out: dict[str, Any] = {}
    if taken.pictures is not None:
        out["video"] = np.stack([taken.pictures[i] for i in chosen])
    if "audio" in modalities:
        sound = np.zeros(0, np.float32) if taken.sound is None else taken.sound
        if short == "loop" and len(sound):
            out["audio"] = np.resize(sound, window.samples)
        else:
            out["audio"] = np.pad(sound, (0, window.samples - len(sound)))
    return out


def _outside(clip: Clip) -> str:
    if clip.caption is None:
        return "the clip lies outside the file"
    start, end = clip.caption
    return f"the caption {clip.texts[0][:40]!r} of {start:g} to {end:g} s lies outside the file"
