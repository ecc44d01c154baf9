"""Writing of videos: H.264 or VP9 at given times, sound copied, whole files or none."""

import contextlib
import pathlib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from jaxtyping import UInt8

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.data.video import SCALER, VideoInfo, explain


class _Format(NamedTuple):
    """How one kind of file is written."""

    container: str
    video: str
    options: dict[str, str]
    audio: str  # for sound that the container cannot hold


_H264 = ("libx264", {"crf": "17", "preset": "medium"}, "aac")
_VP9 = (
    "libvpx-vp9",
    {"crf": "24", "b": "0", "cpu-used": "4", "row-mt": "1"},
    "libopus",
)
FORMATS = {
    ".mp4": _Format("mp4", *_H264),
    ".mov": _Format("mov", *_H264),
    ".mkv": _Format("matroska", *_H264),
    ".webm": _Format("webm", *_VP9),
}


@contextlib.contextmanager
def write_video(
    path: PathLike,
    *,
    like: VideoInfo,
    size: tuple[int, int] | None = None,
    audio: Sequence[av.AudioStream] = (),
    metadata: Mapping[str, str] = types.MappingProxyType({}),
    crf: int | None = None,
) -> Iterator["VideoWriter"]:
    """A file that appears under `path` only when the block ends without an error.

    Times are multiples of the source's time base and stay exact in MP4 and MOV; Matroska and
    WebM files hold milliseconds. Frames are stored upright, without a rotation. Pictures are
    8-bit 4:2:0; H.264 of odd width or height is 4:4:4, since it has no odd 4:2:0.

    Args:
      path: The suffix decides the format: see `FORMATS`.
      like: Where time base, rate, pixel aspect and colour come from.
      size: Width and height of the frames; those of `like` by default.
      audio: Streams whose packets `VideoWriter.add_audio` will be given. They are copied,
        except into a container that cannot hold their codec: see `VideoWriter.notes`.
      metadata: Title and the like.
      crf: The encoder's scale of loss, from 0; None for 17 of H.264 and 24 of VP9, where the
        loss is hard to see.

    Raises:
      ConfigError: for an unknown suffix or `crf`.
      MediaError: for frames, times or sound that cannot be written.
      OSError: if the file cannot be written.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(
            f"{path}: videos are written as {', '.join(FORMATS)}, not {suffix!r}"
        )
    form = FORMATS[suffix]
    require_crf(crf)
    if crf is not None:
        form = form._replace(options=form.options | {"crf": str(crf)})
    with (
        atomic_write(path, "wb") as file,
        av.open(file, "w", format=form.container) as container,
    ):
        container.metadata.update(metadata)
        writer = VideoWriter(
            container, form, like, size or (like.width, like.height), audio, str(path)
        )
        yield writer
        writer.finish()


def require_crf(crf: int | None) -> None:
    """Raises `ConfigError` for what is no scale of loss that both encoders know."""
    if crf is not None and not 0 <= crf <= 51:
        raise ConfigError(f"crf must be between 0 and 51, got {crf}")


class VideoWriter:
    """Encodes what `write_video` is given.

    Attributes:
      notes: What had to differ from the source, in words.
    """

    def __init__(
        self,
        container: av.container.OutputContainer,
        form: _Format,
        like: VideoInfo,
        size: tuple[int, int],
        audio: Sequence[av.AudioStream],
        name: str,
    ):
        self.notes: list[str] = []
        self._container, self._form, self._like = container, form, like
        self._size, self._name = size, name
        self._scaler = VideoReformatter()
        self._count = 0
        self._last: Fraction | None = None
        self._video = self._add_video()
        self._sounds = {s.index: self._add_sound(s) for s in audio}

    def add_frame(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        time: Fraction,
        duration: Fraction = Fraction(0),
    ) -> None:
        """Encodes one frame. Raises `ValueError` for another size, or a time not later."""
        height, width, _ = image.shape
        if (width, height) != self._size:
            raise ValueError(f"a frame of {width}x{height}, not {self._size}")
        if self._last is not None and time <= self._last:
            raise ValueError(f"a frame at {time} s behind one at {self._last} s")
        self._last = time
        rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
        matrix, full, *_ = self._like.colour
        frame = self._scaler.reformat(
            rgb,
            format=self._video.codec_context.pix_fmt,
            dst_colorspace=matrix,
            dst_color_range=ColorRange.JPEG if full == 2 else ColorRange.MPEG,
            interpolation=SCALER,
        )
        base = self._like.time_base
        frame.time_base, frame.pts = base, round(time / base)
        frame.duration = round(duration / base)
        with self._explained():
            self._container.mux(self._video.encode(frame))
        self._count += 1

    def add_audio(self, packet: av.Packet) -> None:
        """Adds a packet of one of the streams in `audio`."""
        sound = self._sounds[packet.stream.index]
        with self._explained():
            self._container.mux(sound.packets(packet))

    def finish(self) -> None:
        """Encodes what the encoders still hold."""
        if not self._count:
            raise MediaError(f"{self._name}: no frame was written")
        with self._explained():
            self._container.mux(self._video.encode(None))
            for sound in self._sounds.values():
                self._container.mux(sound.packets(None))

    # --- internals --------------------------------------------------------------------------

    def _add_video(self) -> av.VideoStream:
        like, form = self._like, self._form
        width, height = self._size
        rate = like.rate or Fraction(25)  # for the encoder's rate control
        options = dict(form.options)
        video = self._container.add_stream(form.video, rate, options=options)
        context = video.codec_context
        if form.container == "webm" and like.pixel_aspect != 1:
            self.notes.append(f"pixels of shape {like.pixel_aspect} become square")
        odd = form.video == "libx264" and (width % 2 or height % 2)
        context.width, context.height = width, height
        context.pix_fmt = "yuv444p" if odd else "yuv420p"
        if odd:
            self.notes.append(f"{width}x{height} is odd: H.264 4:4:4")
        context.time_base = video.time_base = like.time_base
        context.sample_aspect_ratio = like.pixel_aspect
        colour = like.colour
        context.colorspace, context.color_range = (
            colour[0],
            colour[1] or ColorRange.MPEG,
        )
        context.color_trc, context.color_primaries = colour[2:]
        return video

    def _add_sound(self, source: av.AudioStream) -> "_Copied | _Encoded":
        name = source.codec_context.name
        try:
            target = self._container.add_stream_from_template(source)
        except ValueError:
            self.notes.append(
                f"sound encoded anew: {self._form.container} holds no {name}, so"
                f" {self._form.audio}"
            )
            rate = 48000 if self._form.audio == "libopus" else source.rate
            target = self._container.add_stream(self._form.audio, rate)
            target.codec_context.layout = source.layout.name
            sound: _Copied | _Encoded = _Encoded(source, target)
        else:
            sound = _Copied(target)
        target.metadata.update(source.metadata)
        return sound

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise MediaError(
                f"{self._name}: frame or sound {self._count} cannot be written:"
                f" {explain(error)}"
            ) from None


class _Copied:
    """Sound that goes through as it is."""

    def __init__(self, target: av.AudioStream):
        self._target = target

    def packets(self, packet: av.Packet | None) -> Iterable[av.Packet]:
        if packet is None or packet.dts is None:
            return []
        packet.stream = self._target
        return [packet]


class _Encoded:
    """Sound that the container cannot hold as it is."""

    def __init__(self, source: av.AudioStream, target: av.AudioStream):
        self._source, self._target = source, target

    def packets(self, packet: av.Packet | None) -> Iterable[av.Packet]:
        frames = self._source.decode(packet) if packet else self._source.decode(None)
        out = [p for frame in frames for p in self._target.encode(frame)]
        return out if packet else [*out, *self._target.encode(None)]
