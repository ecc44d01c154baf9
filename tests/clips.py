"""Small videos for tests, made with PyAV."""

import pathlib
from fractions import Fraction

import av
import numpy as np

RATE = 48000


def frame_image(index, width=48, height=32):
    """A picture that differs from frame to frame, in every corner: a gradient and a square."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, 0 * x + 40], -1)
    image[2:10, 2 + index : 12 + index] = 230
    return image.astype(np.uint8)


def write_clip(
    path,
    *,
    times=range(12),
    time_base=Fraction(1, 25),
    size=(48, 32),
    codec="libx264",
    rotation=0,
    mirrored=False,
    sound=None,
    wave=None,
    gop=4,
    format=None,
    options=None,
):
    """Frame i is `frame_image(i)`, shown at ``times[i] * time_base``; `sound` names a codec.

    The sound is a tone for as long as the pictures, or `wave` [s] at `RATE` in both channels.
    A player turns the frames clockwise by `rotation` degrees, then mirrors left and right.
    """
    width, height = size
    with av.open(str(path), "w", format=format, container_options=options or {}) as out:
        video = out.add_stream(codec, rate=1 / time_base)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.gop_size = gop
        video.codec_context.time_base = time_base
        if rotation or mirrored:
            video.set_display_rotation(-rotation, hflip=mirrored)
        if sound:
            audio = out.add_stream(sound, rate=RATE, layout="stereo")
        for index, time in enumerate(times):
            image = frame_image(index, width, height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, time_base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if sound:
            seconds = float((max(times) + 1) * time_base)
            for packet in tone(audio, seconds, wave=wave):
                out.mux(packet)
    return path


def write_sound(path, channels, rate=RATE, codec="pcm_s16le", format=None):
    """A sound file of `channels` [c, s] in [-1, 1]."""
    channels = np.asarray(channels, np.float64)
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    with av.open(str(path), "w", format=format) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        form = stream.codec_context.format.name
        step = stream.codec_context.frame_size or 1024
        for start in range(0, channels.shape[1], step):
            part = _in_form(channels[:, start : start + step], form)
            frame = av.AudioFrame.from_ndarray(part, form, layout)
            frame.sample_rate, frame.pts = rate, start
            frame.time_base = Fraction(1, rate)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def _in_form(channels, form):
    """Samples [c, s] in [-1, 1] as FFmpeg has them in the format `form`."""
    if form.startswith("s"):
        most = 2.0 ** (int(form[1:3]) - 1)
        out = np.rint(channels * most).clip(-most, most - 1)
        out = out.astype(f"i{int(form[1:3]) // 8}")
    elif form.startswith("u8"):
        out = np.rint(channels * 128 + 128).clip(0, 255).astype("u1")
    else:
        out = channels.astype("f8" if form.startswith("dbl") else "f4")
    return np.ascontiguousarray(out if form.endswith("p") else out.T.reshape(1, -1))


def tone(stream, seconds, hertz=440, wave=None):
    """Packets of a sine, or of `wave`, in both channels."""
    context = stream.codec_context
    form = context.format.name
    step = context.frame_size or 1024
    if wave is None:
        count = -(-int(seconds * RATE) // step) * step
        wave = np.sin(2 * np.pi * hertz * np.arange(count) / RATE) * 0.5
    for start in range(0, len(wave), step):
        part = wave[start : start + step]
        both = _in_form(np.stack([part, part]), form)
        frame = av.AudioFrame.from_ndarray(both, form, "stereo")
        frame.sample_rate, frame.pts = RATE, start
        frame.time_base = Fraction(1, RATE)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def spoil(path, which):
    """Overwrites the payload of the packets of these numbers."""
    with av.open(str(path)) as file:
        packets = [p for p in file.demux(video=0) if p.size]
        places = [(packets[i].pos, packets[i].size) for i in which]
    data = bytearray(pathlib.Path(path).read_bytes())
    for position, size in places:
        data[position : position + size] = b"\xff" * size
    pathlib.Path(path).write_bytes(data)


def facts(path):
    """What a probe of a video says: streams, durations, times of frames, sound packets."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        out = {
            "duration": file.duration,
            "size": (video.width, video.height),
            "rate": video.average_rate,
            "aspect": video.sample_aspect_ratio or 1,
            "sounds": [
                (s.codec_context.name, s.rate, s.layout.name)
                for s in file.streams.audio
            ],
        }
    with av.open(str(path)) as file:
        out["frames"] = [
            (f.pts * f.time_base, f.duration * f.time_base)
            for f in file.decode(video=0)
        ]
    with av.open(str(path)) as file:
        out["sound packets"] = (
            [
                (p.stream_index, bytes(p), p.pts * p.time_base)
                for p in file.demux(*file.streams.audio)
                if p.size
            ]
            if file.streams.audio
            else []
        )
    return out
