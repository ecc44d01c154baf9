"""Reading of untrusted sound: mono samples at one rate, cut out at an exact place.

A cut out of a file equals the same cut out of the whole: resampling knows the place of its
first sample, and enough of the sound before and behind is read. One exception: AAC may store
noise by its level alone, and a decoder that starts far inside the file draws another noise.
"""

import contextlib
import itertools
import math
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.core.files import PathLike
from zoo_jax.data.video import FORMATS as VIDEO_FORMATS
from zoo_jax.data.video import explain, open_media

EXTENSIONS = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac")
)
MAX_CHANNELS = 64
MAX_RATE = 768_000

FORMATS = f"{VIDEO_FORMATS},wav,flac,ogg,mp3,aac,aiff"
_FAR = 10  # s: cuts behind it are sought, those before are read up to
_PREROLL = Fraction(1, 2)  # s in which coders that look back (MP3, AAC, Opus) settle
_MARGIN = Fraction(1, 50)  # s of sound around a cut, for the resampling filter
_HOLE = Fraction(1, 20)  # s: where times jump by more, sound is missing
_LONGEST_HOLE = 600  # s: more is a damage, and would fill the memory
_LATE_END = Fraction(1, 2)  # s that may be missing at the end
_SCALES = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


class AudioInfo(NamedTuple):
    """What the first sound of a file says of itself; `duration` need not be true."""

    rate: int  # samples per second
    channels: int
    codec: str
    duration: Fraction | None  # seconds


def audio_info(path: PathLike) -> AudioInfo:
    """Rate, channels and length of the first sound of a file. Raises `MediaError`."""
    path = pathlib.Path(path)
    with open_media(path, kind="sound", formats=FORMATS) as container:
        return _info(container, _first_sound(container, path), path)


def read_audio(
    path: PathLike,
    *,
    rate: int,
    start: Fraction | float = 0,
    samples: int | None = None,
    origin: Fraction | None = None,
) -> Float[np.ndarray, "s"]:
    """Reads the first sound of a file, or of a video, as mono at `rate`.

    Channels are averaged. Resampling is that of FFmpeg (band-limited, linear phase). Sample
    `i` is that of the time ``start + i / rate``, to the nearest sample.

    Args:
      path: A local file. The content decides the format, not the name.
      rate: Samples per second of the result.
      start: Seconds from `origin`. None of the sound before it is in the result.
      samples: Length of the result; None reads to the end. What lies before the beginning or
        behind the end of the sound is zero.
      origin: The time on the clock of the file that `start` counts from, e.g. that of the
        first picture of a video. None is the time of the first sample.

    Returns:
      float32 in [-1, 1], exactly [samples] if that is given.

    Raises:
      MediaError: for a file that is absent, empty, damaged, cut off or without sound, or
        whose sound has nothing within the cut.
      ConfigError: for a rate or length that is not positive.
    """
    path = pathlib.Path(path)
    if rate < 1 or (samples is not None and samples < 1):
        raise ConfigError(
            f"rate and samples must be positive, got rate={rate}, samples={samples}"
        )
    start = Fraction(start)
    with open_media(path, kind="sound", formats=FORMATS) as container:
        stream = _first_sound(container, path)
        info = _info(container, stream, path)
        reading = _Reading(container, stream, info, path)
        begin = start + (reading.first if origin is None else origin)
        end = None if samples is None else begin + Fraction(samples, rate)
        sound, first = reading.read(
            begin - _MARGIN, None if end is None else end + _MARGIN
        )
    # Output sample k of the file's own grid is at k / rate behind `first` = n / info.rate.
    wave, lead = _resample(sound, info.rate, rate, first)
    skip = round(begin * rate) - lead
    if samples is None:
        samples = max(len(wave) - skip, 0)
    if samples == 0 or skip >= len(wave) or skip + samples <= 0:
        at = "" if end is None else f" to {float(start + Fraction(samples, rate)):.3f}"
        raise MediaError(
            f"{path}: has no sound from {float(start):.3f}{at} s on: the time lies outside"
        )
    out = np.zeros(samples, np.float32)
    inside = wave[max(skip, 0) : skip + samples]
    place = max(-skip, 0)
    out[place : place + len(inside)] = inside
    return np.clip(out, -1.0, 1.0)


class _Found(NamedTuple):
    sound: Float[np.ndarray, "s"]
    first: int  # place of its first sample, from the zero of the file's clock
    ended: bool  # whether it goes to the end of the file


class _Reading:
    """The sound of one open file as mono blocks at its own rate, each at its place."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.AudioStream,
        info: AudioInfo,
        path: pathlib.Path,
    ):
        self._container, self._stream = container, stream
        self._info, self._path = info, path
        blocks = self._blocks()
        block, self.first = next(blocks, (None, Fraction(0)))
        if block is None:
            raise MediaError(f"{path}: has no sound that can be decoded")
        self._from_start = itertools.chain([(block, self.first)], blocks)

    def read(
        self, begin: Fraction, end: Fraction | None
    ) -> tuple[Float[np.ndarray, "s"], int]:
        """What there is of [begin, end) of the file's clock, and the place of its start."""
        rate = self._info.rate
        low = math.floor(begin * rate)
        high = None if end is None else math.ceil(end * rate)
        far = begin > self.first + _FAR
        found = self._collect(self._sought(begin), low, high) if far else None
        if found is None or found.first > low:
            # Near the start; or the index of the file led behind the place.
            if far:
                self._container.seek(0)
                self._from_start = self._blocks()
            found = self._collect(self._from_start, low, high)
        if found is None:
            return np.zeros(0, np.float32), low
        if found.ended:
            self._check_end(Fraction(found.first + len(found.sound), rate))
        if not np.isfinite(found.sound).all():
            raise MediaError(f"{self._path}: its sound has values that are not finite")
        cut = max(low - found.first, 0)
        stop = None if high is None else max(high - found.first, 0)
        return found.sound[cut:stop], found.first + cut

    def _sought(self, begin: Fraction) -> Iterator[tuple[np.ndarray, Fraction]]:
        goal = (begin - _PREROLL) / self._stream.time_base
        with contextlib.suppress(av.FFmpegError):  # without an index: from here on
            self._container.seek(math.floor(goal), stream=self._stream)
        return self._blocks()

    def _collect(
        self, blocks: Iterator[tuple[np.ndarray, Fraction]], low: int, high: int | None
    ) -> "_Found | None":
        """The blocks from the one with `low` to the one with `high`; None if there are none."""
        parts: list[np.ndarray] = []
        first = place = 0
        hole = _HOLE * self._info.rate
        for block, time in blocks:
            stated = round(time * self._info.rate)
            if not parts:
                first = place = stated
            elif stated - place > hole:
                # Missing sound is silence, or the rest would come too early.
                if stated - place > _LONGEST_HOLE * self._info.rate:
                    raise MediaError(
                        f"{self._path}: the times of its sound jump from"
                        f" {place / self._info.rate:.3f} to {float(time):.3f} s"
                    )
                parts.append(np.zeros(stated - place, np.float32))
                place = stated
            elif place - stated > hole:
                block = block[place - stated :]
            parts.append(block)
            place += len(block)
            while len(parts) > 1 and first + len(parts[0]) <= low:
                first += len(parts.pop(0))
            if high is not None and place >= high:
                return _Found(np.concatenate(parts), first, ended=False)
        return _Found(np.concatenate(parts), first, ended=True) if parts else None

    def _blocks(self) -> Iterator[tuple[Float[np.ndarray, "s"], Fraction]]:
        last = None
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise MediaError(
                        f"{self._path}: an incomplete packet of sound: the file is cut off"
                        " or damaged"
                    )
                for frame in packet.decode():
                    if frame.sample_rate != self._info.rate:
                        raise MediaError(
                            f"{self._path}: changes from {self._info.rate} to"
                            f" {frame.sample_rate} samples per second: convert it first"
                        )
                    time = last
                    if frame.pts is not None:
                        time = Fraction(frame.pts * frame.time_base)
                    elif time is None:
                        time = Fraction(0)
                    yield _mono(frame), time
                    last = time + Fraction(frame.samples, self._info.rate)
        except av.FFmpegError as error:
            raise MediaError(
                f"{self._path}: its sound cannot be decoded ({explain(error)}): cut off or"
                " damaged"
            ) from None

    def _check_end(self, end: Fraction) -> None:
        stated = self._info.duration
        if self._container.streams.video and not self._stream.duration:
            return  # only the length of pictures and sound together is known
        if stated is not None and end - self.first + _LATE_END < stated:
            raise MediaError(
                f"{self._path}: its sound ends at {float(end):.3f} s and should be"
                f" {float(stated):.3f} s long: cut off"
            )


def _resample(
    sound: Float[np.ndarray, "s"], old: int, new: int, first: int
) -> tuple[Float[np.ndarray, "r"], int]:
    """Sound at another rate, and the place of its first sample on the grid of that rate.

    Both grids share their zero, so that the samples do not depend on where a cut begins.
    """
    if old == new:
        return sound, first
    common = math.gcd(old, new)
    up, down = new // common, old // common
    # Places that both grids have are `down` old samples apart: start at one of them.
    skip = -first % down
    sound = sound[skip:]
    if not len(sound):
        return np.zeros(0, np.float32), (first + skip) // down * up
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(sound[None], np.float32), "fltp", "mono"
    )
    frame.sample_rate, frame.pts, frame.time_base = old, 0, Fraction(1, old)
    made = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([f.to_ndarray()[0] for f in made]), (
        first + skip
    ) // down * up


def _mono(frame: av.AudioFrame) -> Float[np.ndarray, "s"]:
    name = frame.format.name
    values = frame.to_ndarray()
    if not name.endswith("p"):  # one row, channels one after the other
        values = values.reshape(-1, frame.layout.nb_channels).T
    mono = values.mean(axis=0, dtype=np.float64)
    if (scale := _SCALES.get(name.rstrip("p"))) is not None:
        mono = (mono - (128.0 if name.startswith("u8") else 0.0)) / scale
    return mono.astype(np.float32)


def _first_sound(
    container: av.container.InputContainer, path: pathlib.Path
) -> av.AudioStream:
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    raise MediaError(f"{path}: has no sound that can be decoded")


def _info(
    container: av.container.InputContainer, stream: av.AudioStream, path: pathlib.Path
) -> AudioInfo:
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not 0 < rate <= MAX_RATE or not 0 < channels <= MAX_CHANNELS:
        raise MediaError(
            f"{path}: sound of {channels} channels with {rate} samples per second cannot"
            " be read"
        )
    duration = None
    if stream.duration:
        duration = stream.duration * stream.time_base
    elif container.duration:
        duration = Fraction(container.duration, av.time_base)
    return AudioInfo(rate, channels, stream.codec_context.name, duration)
