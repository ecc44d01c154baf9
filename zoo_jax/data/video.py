"""Reading of untrusted videos: frames one after the other, upright, each with its time.

What a file says of itself (frame count, rate, index) is never used to find a frame: packets
are decoded from the first on, and every frame has the time that its packet had. Memory does
not grow with the length.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Self

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from zoo_jax.core.errors import MediaError
from zoo_jax.data.geometry import fit_short_side

EXTENSIONS = frozenset((".mp4", ".mov", ".mkv", ".webm"))
MAX_PIXELS = 8192 * 4320  # of one frame: a decoder holds up to 16 of them

# What is sniffed for. Left out on purpose: play lists and others that open further files.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
_UNSPECIFIED, _BT709, _BT601 = 2, 1, 5  # colour matrices, as FFmpeg numbers them
# The fast path of the scaler repeats chroma samples and loses 9 dB there and back.
SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
SCALER |= Interpolation.FULL_CHR_H_INT


class VideoInfo(NamedTuple):
    """What a video says of itself; `frames`, `rate` and `duration` need not be true."""

    width: int  # of an upright frame
    height: int
    rotation: int  # clockwise, in degrees, that makes a stored frame upright: 0 .. 270
    frames: int | None
    rate: Fraction  # mean frames per second; 0 where the file has none
    duration: Fraction | None  # of the pictures, in seconds
    has_audio: bool
    codec: str
    time_base: Fraction  # every time of a frame is a multiple of it
    pixel_aspect: Fraction  # width / height of a pixel of an upright frame
    colour: tuple[int, int, int, int]  # matrix, range, transfer, primaries (FFmpeg's)


class Frame(NamedTuple):
    """One picture of a video."""

    image: UInt8[np.ndarray, "h w 3"]  # upright RGB
    time: Fraction  # when it is shown, in seconds; may be negative
    duration: Fraction  # 0 where the file does not say


class VideoReader:
    """Decodes the first video stream of a file; a context manager.

    Rotations by quarter turns and mirrorings in the file are applied. Pixels of 10 and more
    bits are rounded to 8, transparency is dropped, and interlaced frames stay as they are.
    Without a colour matrix in the file, BT.709 is taken from 720 rows on and BT.601 below.

    A packet that cannot be read or decoded, a frame whose time is not later than that of the
    one before, and an end before the time that a Matroska file states, are damages. The
    decoder hides smaller errors inside a packet, and those are not seen here.

    Args:
      path: A local file. The content decides the format, not the name.
      max_damages: So many are passed over and counted in `damages`; the next is an error.
      max_pixels: Larger frames are refused.
      short_side: Frames are made smaller so that their shorter side has so many pixels, in
        the step that makes them RGB; smaller ones stay. None keeps the size.

    Attributes:
      info: What the file says of itself.
      first: The time of its first picture.
      damages: How many were passed over.

    Raises:
      MediaError: if the file is absent, empty, no video, or has no picture that can be decoded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_damages: int = 0,
        max_pixels: int = MAX_PIXELS,
        short_side: int | None = None,
    ):
        self.path = pathlib.Path(path)
        self.damages = 0
        self._short_side = short_side
        self._max_damages, self._max_pixels = max_damages, max_pixels
        self._scaler = VideoReformatter()
        self._shape: tuple[int, int] | None = None  # of a stored frame
        self._last: Fraction | None = None
        self.container = open_media(self.path)
        try:
            cover = Disposition.attached_pic  # a still picture beside music
            videos = (
                s for s in self.container.streams.video if not s.disposition & cover
            )
            self._stream = next(videos, None)
            if self._stream is None or self._stream.codec_context is None:
                raise MediaError(
                    f"{self.path}: has no video stream that can be decoded"
                )
            self._check_size(self._stream.width, self._stream.height)
            self._stream.thread_type = "AUTO"
            self._events = self._decode()
            self._head: list[_Decoded | av.Packet] = []  # up to the first frame
            self.info = self._read_head()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder."""
        self.container.close()

    @property
    def audio(self) -> tuple[av.AudioStream, ...]:
        """The audio streams, whose packets `read` yields."""
        return tuple(s for s in self.container.streams.audio if s.codec_context)

    @property
    def metadata(self) -> dict[str, str]:
        """Title and the like."""
        return self.container.metadata

    @property
    def left_out(self) -> tuple[str, ...]:
        """Kinds of the streams that `read` yields nothing of."""
        yielded = {self._stream.index, *(s.index for s in self.audio)}
        return tuple(s.type for s in self.container.streams if s.index not in yielded)

    def read(self) -> Iterator[Frame | av.Packet]:
        """Yields frames in order of time, and audio packets between them as they are stored.

        Raises:
          MediaError: for one damage more than allowed.
        """
        for event in self._read():
            yield self._make(event) if isinstance(event, _Decoded) else event

    def frames(self) -> Iterator[Frame]:
        """Yields the frames. Raises as `read`."""
        return (event for event in self.read() if isinstance(event, Frame))

    def shown_at(
        self, times: Sequence[Fraction]
    ) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Yields the picture that is shown at each time; the rest is never made RGB.

        That is the last picture that starts at or before the time, and the first one for a
        time before it. It ends early where the video does: at the last picture's end, or half
        a second behind its start where the file does not say.

        Args:
          times: In seconds, none before its predecessor, on the clock of `Frame.time`.

        Raises:
          MediaError: as `read`.
        """
        decoded = (e for e in self._read() if isinstance(e, _Decoded))
        shown, made, coming = next(decoded, None), None, next(decoded, None)
        for time in times:
            while coming is not None and coming.time <= time:
                shown, made, coming = coming, None, next(decoded, None)
            if shown is None:
                return
            if coming is None and time >= shown.time + (
                shown.duration or Fraction(1, 2)
            ):
                return
            if made is None:
                made = self._make(shown).image
            yield made

    def seek(self, time: Fraction) -> None:
        """Goes on from a key frame at or before `time`.

        The index of a file only makes this fast: if it leads behind the time, or there is
        none, reading starts again from the beginning.

        Raises:
          MediaError: if there is no way back to the beginning.
        """
        for goal in (time, self.first):
            with contextlib.suppress(av.FFmpegError):
                place = math.floor(goal / self._stream.time_base)
                self.container.seek(place, stream=self._stream)
            self._head, self._last = [], None
            self._events = self._decode()
            for event in self._events:
                self._head.append(event)
                if isinstance(event, _Decoded):
                    if event.time <= max(goal, self.first):
                        return
                    break
        raise MediaError(f"{self.path}: cannot be searched: its index is damaged")

    # --- internals --------------------------------------------------------------------------

    def _read(self) -> Iterator["_Decoded | av.Packet"]:
        yield from self._head
        self._head = []
        yield from self._events

    def _read_head(self) -> VideoInfo:
        for event in self._events:
            self._head.append(event)
            if isinstance(event, _Decoded):
                break
        else:
            raise MediaError(f"{self.path}: has no frame that can be decoded")
        self.first = event.time
        stream = self._stream
        height, width = self._shape
        if self._turn.transpose:
            height, width = width, height
        duration = None
        if stream.duration:
            duration = stream.duration * stream.time_base
        elif self.container.duration:
            duration = Fraction(self.container.duration, av.time_base)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        return VideoInfo(
            width=width,
            height=height,
            rotation=self._turn.rotation,
            frames=stream.frames or None,
            rate=Fraction(stream.average_rate or stream.guessed_rate or 0),
            duration=duration,
            has_audio=bool(self.audio),
            codec=stream.codec_context.name,
            time_base=stream.time_base,
            pixel_aspect=1 / aspect if self._turn.transpose else aspect,
            colour=self._colour,
        )

    def _decode(self) -> Iterator["_Decoded | av.Packet"]:
        for packet in self._packets():
            if packet.stream is not self._stream:
                if packet.size:  # not the end mark of the stream
                    yield packet
                continue
            if packet.is_corrupt:
                self._damage("an incomplete packet: the file is cut off or damaged")
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._damage(f"a packet that cannot be decoded ({explain(error)})")
                continue
            for frame in frames:
                decoded = self._check(frame)
                if decoded is not None:
                    yield decoded
        self._check_end()

    def _packets(self) -> Iterator[av.Packet]:
        streams = [self._stream, *self.audio]
        while True:
            try:
                yield from self.container.demux(streams)
                return
            except av.FFmpegError as error:  # the next turn goes on behind it
                self._damage(f"unreadable data ({explain(error)}): cut off or damaged")

    def _check(self, frame: av.VideoFrame) -> "_Decoded | None":
        shape = (frame.height, frame.width)
        if self._shape is None:
            self._check_size(frame.width, frame.height)
            self._shape, self._turn = shape, _turn(frame, self.path)
            matrix = frame.colorspace
            if matrix == _UNSPECIFIED:
                matrix = _BT709 if frame.height >= 720 else _BT601
            stated = frame.color_range, frame.color_trc, frame.color_primaries
            self._colour = (matrix, *map(int, stated))
        if shape != self._shape:
            old, new = (f"{w}x{h}" for h, w in (self._shape, shape))
            raise MediaError(
                f"{self.path}: changes from {old} to {new} pixels within the video: convert"
                " it to one size first"
            )
        time = self._time(frame)
        if self._last is not None and time <= self._last:
            self._damage(f"a frame at {float(time):.3f} s behind a later one")
            return None
        self._last = time
        duration = (frame.duration or 0) * frame.time_base
        return _Decoded(frame, time, Fraction(duration))

    def _make(self, decoded: "_Decoded") -> Frame:
        size = {}
        if self._short_side and min(self._shape) > self._short_side:
            height, width = fit_short_side(self._shape, self._short_side)
            size = {"width": width, "height": height}
        rgb = self._scaler.reformat(
            decoded.frame,
            format="rgb24",
            src_colorspace=self._colour[0],
            interpolation=SCALER,
            **size,
        )
        return Frame(self._turn.apply(rgb.to_ndarray()), decoded.time, decoded.duration)

    def _time(self, frame: av.VideoFrame) -> Fraction:
        if frame.pts is not None:
            return Fraction(frame.pts * frame.time_base)
        if self._last is None:
            return Fraction(0)
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise MediaError(f"{self.path}: has neither frame times nor a frame rate")
        return self._last + 1 / Fraction(rate)

    def _check_size(self, width: int, height: int) -> None:
        # A width of 0 is one that the header does not have; the frame will tell.
        if width * height > self._max_pixels:
            raise MediaError(
                f"{self.path}: {width}x{height} pixels are more than the limit of"
                f" {self._max_pixels:,} for a frame of a video: shrink the video first"
            )

    def _check_end(self) -> None:
        # A Matroska file that was cut off reads as one that ends; but it may say how long it
        # should be. Others have an index, in which a missing end is seen.
        stated = _seconds(self._stream.metadata.get("DURATION", ""))
        rate = self._stream.average_rate or self._stream.guessed_rate
        if stated is None or not rate or self._last is None:
            return
        start = (self._stream.start_time or 0) * self._stream.time_base
        if self._last - start + max(2 / rate, Fraction(1, 2)) < stated:
            self._damage(f"its end: it should be {float(stated):.3f} s long (cut off)")

    def _damage(self, what: str) -> None:
        self.damages += 1
        if self.damages > self._max_damages:
            place = (
                "the beginning" if self._last is None else f"{float(self._last):.3f} s"
            )
            many = f", after {self._max_damages} damages before" * (
                self._max_damages > 0
            )
            raise MediaError(f"{self.path}: {what}, after {place}{many}")


class _Decoded(NamedTuple):
    """A frame as the decoder gave it, not yet RGB."""

    frame: av.VideoFrame
    time: Fraction
    duration: Fraction


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, rate and more of a video; its first frame is decoded. Raises `MediaError`."""
    with VideoReader(path) as reader:
        return reader.info


def read_frames(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    stop: int | None = None,
    max_damages: int = 0,
) -> Iterator[Frame]:
    """Yields the frames of a video, one at a time.

    Args:
      path: A local file.
      start: Number of the first frame, from 0. The ones before are decoded too: there is no
        way to find a frame by its number that can be trusted.
      stop: Number behind the last one; None for all. What follows is not read.
      max_damages: As in `VideoReader`.

    Raises:
      MediaError: for a file that is no video, or one damage more than allowed.
    """
    with VideoReader(path, max_damages=max_damages) as reader:
        for index, frame in enumerate(reader.frames()):
            if stop is not None and index >= stop:
                return
            if index >= start:
                yield frame


class _Turn(NamedTuple):
    """What makes a stored frame upright: a transposition first, then mirrorings."""

    transpose: bool
    mirror_rows: bool
    mirror_columns: bool

    @property
    def rotation(self) -> int:
        """Degrees clockwise; of a mirrored frame, of the rotation without the mirroring."""
        if self.transpose:
            return 90 if self.mirror_columns else 270
        return 180 if self.mirror_rows else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        if self.transpose:
            image = image.swapaxes(0, 1)
        rows, columns = (
            -1 if m else 1 for m in (self.mirror_rows, self.mirror_columns)
        )
        return np.ascontiguousarray(image[::rows, ::columns])


def _turn(frame: av.VideoFrame, path: pathlib.Path) -> _Turn:
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return _Turn(False, False, False)
    # (x, y) is shown at (a x + c y, b x + d y), with y downwards.
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), "<i4").astype(float).tolist()
    if max(abs(b), abs(c)) < 0.01 * min(abs(a), abs(d)):
        return _Turn(False, d < 0, a < 0)
    if max(abs(a), abs(d)) < 0.01 * min(abs(b), abs(c)):
        return _Turn(True, b < 0, c < 0)
    angle = round(math.degrees(math.atan2(b, a)))
    raise MediaError(
        f"{path}: is to be shown turned by {angle} degrees; only quarter turns can be read"
    )


def open_media(
    path: pathlib.Path, *, kind: str = "video", formats: str = FORMATS
) -> av.container.InputContainer:
    """Opens a local file and nothing that it may refer to.

    Args:
      path: The file.
      kind: What it should be, for the message.
      formats: What is sniffed for: names of FFmpeg's readers with commas between.

    Raises:
      MediaError: if it is absent, empty, or of none of these formats.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise MediaError(f"{path}: the file is empty")
        options = {"format_whitelist": formats, "protocol_whitelist": "file"}
        return av.open(
            f"file:{path.absolute()}",  # a bare "concat:..." would be more than a file
            "r",
            container_options=options,
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        raise MediaError(
            f"{path}: not a {kind} that can be opened: {explain(error)}"
        ) from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from None


def explain(error: av.FFmpegError) -> str:
    """What FFmpeg says of an error, in lower case."""
    return (error.strerror or str(error)).lower()


def _seconds(text: str) -> Fraction | None:
    """``"00:01:02.500000000"`` -> 125/2; None for anything else."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None
