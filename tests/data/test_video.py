"""Reading videos: frames, times, rotations, and every kind of damage; and writing them."""

import errno
import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import RATE, facts, frame_image, spoil, tone, write_clip

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.data.video import Frame, VideoReader, read_frames, video_info
from zoo_jax.data.video_writer import FORMATS, write_video

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")


def codec(suffix):
    return "libvpx-vp9" if suffix == ".webm" else "libx264"


def copy(source, target, **options):
    """Through reader and writer, without a change."""
    with (
        VideoReader(source) as reader,
        write_video(target, like=reader.info, audio=reader.audio, **options) as writer,
    ):
        for event in reader.read():
            if isinstance(event, Frame):
                writer.add_frame(*event)
            else:
                writer.add_audio(event)
    return writer


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_come_in_order_with_their_times(tmp_path, suffix):
    path = write_clip(tmp_path / f"a{suffix}", codec=codec(suffix))
    frames = list(read_frames(path))
    assert [f.time for f in frames] == [Fraction(i, 25) for i in range(12)]
    for i, frame in enumerate(frames):
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert np.abs(frame.image.astype(int) - frame_image(i)).mean() < 8
    # Each is nearest to the picture of its own number: nothing is shifted.
    distance = [
        [np.abs(f.image.astype(int) - frame_image(j)).mean() for j in range(12)]
        for f in frames
    ]
    assert np.argmin(distance, axis=1).tolist() == list(range(12))


def test_info_says_what_the_file_says(tmp_path):
    path = write_clip(tmp_path / "a.mp4", sound="aac")
    info = video_info(path)
    assert (info.width, info.height, info.rotation) == (48, 32, 0)
    assert (info.frames, info.rate, info.codec) == (12, 25, "h264")
    assert info.duration == Fraction(12, 25)
    assert info.has_audio
    assert not video_info(write_clip(tmp_path / "b.mp4")).has_audio


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (3, 7), (11, None), (20, None)])
def test_a_range_of_frames_is_counted_from_the_first(tmp_path, start, stop):
    path = write_clip(tmp_path / "a.mp4")
    whole = list(read_frames(path))
    part = list(read_frames(path, start=start, stop=stop))
    assert [f.time for f in part] == [f.time for f in whole[start:stop]]
    for a, b in zip(part, whole[start:stop], strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_uneven_frame_times_are_kept(tmp_path):
    times = (0, 1, 5, 6, 7, 30, 31, 90)
    path = write_clip(tmp_path / "a.mp4", times=times, time_base=Fraction(1, 600))
    assert [f.time for f in read_frames(path)] == [Fraction(t, 600) for t in times]
    copy(path, tmp_path / "b.mp4")
    assert [f.time for f in read_frames(tmp_path / "b.mp4")] == [
        Fraction(t, 600) for t in times
    ]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(tmp_path, rotation, mirrored):
    path = write_clip(tmp_path / "a.mp4", rotation=rotation, mirrored=mirrored)
    stored = next(read_frames(write_clip(tmp_path / "b.mp4"))).image
    frame = next(read_frames(path)).image
    expected = np.rot90(stored, -rotation // 90)  # clockwise
    expected = expected[:, ::-1] if mirrored else expected
    np.testing.assert_array_equal(frame, expected)
    info = video_info(path)
    assert (info.height, info.width) == expected.shape[:2]
    if not mirrored:
        assert info.rotation == rotation


def test_a_slanted_rotation_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", rotation=37)
    with pytest.raises(MediaError, match="turned by 37"):
        video_info(path)


# --- damage ---------------------------------------------------------------------------------


def said(call):
    """The one line of a `MediaError`, or nothing."""
    try:
        call()
    except MediaError as error:
        text = str(error)
        assert "\n" not in text
        return text
    return ""


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"this is no video " * 50, "not a video that can be opened"),
        ("zeros.mkv", bytes(5000), "not a video that can be opened"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not a video"),
        ("concat.mp4", b"ffconcat version 1.0\nfile 'a.mp4'\n", "not a video"),
    ],
)
def test_what_is_no_video_is_said_in_one_line(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    text = said(lambda: video_info(tmp_path / name))
    assert text.startswith(f"{tmp_path / name}: ")
    assert words in text


def test_absent_files_and_folders_are_said(tmp_path):
    assert "No such file" in said(lambda: video_info(tmp_path / "a.mp4"))
    assert "Is a directory" in said(lambda: video_info(tmp_path))


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=RATE, layout="stereo")
        for packet in tone(stream, 0.2):
            out.mux(packet)
    assert "no video stream" in said(lambda: video_info(tmp_path / "a.mp4"))


def test_a_video_without_frames_is_said(tmp_path):
    source = write_clip(tmp_path / "a.mp4")
    spoil(source, range(12))
    assert "cannot be decoded" in said(lambda: video_info(source))
    assert "has no frame" in said(lambda: VideoReader(source, max_damages=99))
    with av.open(str(tmp_path / "b.mkv"), "w") as out:
        out.add_stream("libx264", rate=25)
        out.start_encoding()
    assert "end of file" in said(lambda: video_info(tmp_path / "b.mkv"))


def test_an_index_at_the_end_that_is_cut_off_is_said(tmp_path):
    data = write_clip(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: data.index(b"moov")])
    assert "not a video that can be opened" in said(
        lambda: video_info(tmp_path / "a.mp4")
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_that_is_cut_off_is_an_error_behind_its_good_frames(tmp_path, suffix):
    # For MP4 with the index first: the rest is found to be missing only in the end.
    path = tmp_path / f"a{suffix}"
    fast = {"movflags": "faststart"} if suffix == ".mp4" else {}
    write_clip(path, times=range(60), options=fast)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    frames = []

    def read():
        frames.extend(read_frames(path))

    def tolerate():
        with VideoReader(path, max_damages=100) as reader:
            assert len(list(reader.frames())) >= len(frames)
            assert reader.damages > 0

    text = said(read)
    assert "cut off" in text or "cannot be decoded" in text
    assert 0 < len(frames) < 60
    tolerate()


def test_bad_packets_are_counted_and_nothing_else_shifts(tmp_path):
    path = write_clip(tmp_path / "a.mp4", times=range(24))
    good = {f.time: f.image for f in read_frames(path)}
    spoil(path, (9, 13))
    assert "cannot be decoded" in said(lambda: list(read_frames(path)))
    assert "after 1 damages before" in said(
        lambda: list(read_frames(path, max_damages=1))
    )
    with VideoReader(path, max_damages=2) as reader:
        frames = list(reader.frames())
        assert reader.damages == 2
    assert len(frames) == 22
    same = sum(np.array_equal(f.image, good[f.time]) for f in frames)
    assert same >= 10  # groups without a bad packet are untouched


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_truncation_anywhere_is_a_result_or_one_line(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_clip(path, codec=codec(suffix), sound="libopus", times=range(8))
    data = path.read_bytes()
    cut = tmp_path / f"b{suffix}"
    outcomes = set()
    for length in np.linspace(0, len(data), 60).astype(int):
        cut.write_bytes(data[:length])
        frames = []
        text = said(lambda frames=frames: frames.extend(read_frames(cut)))
        outcomes.add(bool(text))
        assert text or len(frames) == 8 or suffix != ".mp4"
    assert outcomes == {False, True}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_flipped_bytes_anywhere_are_a_result_or_one_line(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_clip(path, codec=codec(suffix), times=range(6))
    data = path.read_bytes()
    bad = tmp_path / f"b{suffix}"
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            changed[place] = int(rng.integers(256))
        bad.write_bytes(changed)
        said(lambda: list(read_frames(bad, max_damages=3)))


def test_large_frames_are_refused_before_decoding(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    text = said(lambda: VideoReader(path, max_pixels=1000))
    assert "48x32 pixels are more than the limit of 1,000" in text


def test_a_change_of_size_is_refused(tmp_path):
    small, large = tmp_path / "a.ts", tmp_path / "b.ts"
    write_clip(small, format="mpegts")
    write_clip(large, size=(64, 48), format="mpegts", times=range(20, 30))
    both = tmp_path / "c.mp4"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    text = said(lambda: list(read_frames(both, max_damages=9)))
    assert "changes from 48x32 to 64x48" in text


# --- writing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "sound"),
    [
        *((suffix, None) for suffix in SUFFIXES),
        (".mp4", "aac"),
        (".mp4", "libopus"),
        (".mov", "pcm_s16le"),
        (".mkv", "aac"),
        (".mkv", "pcm_s16le"),
        (".webm", "libopus"),
    ],
)
def test_a_copy_has_the_facts_of_its_source(tmp_path, suffix, sound):
    source = write_clip(tmp_path / f"a{suffix}", codec=codec(suffix), sound=sound)
    writer = copy(source, tmp_path / f"b{suffix}")
    assert writer.notes == []
    assert facts(tmp_path / f"b{suffix}") == facts(source)


def test_sound_that_a_container_cannot_hold_is_encoded_anew_and_said(tmp_path):
    source = write_clip(tmp_path / "a.mp4", sound="aac")
    writer = copy(source, tmp_path / "b.webm")
    assert writer.notes == ["sound encoded anew: webm holds no aac, so libopus"]
    with av.open(str(tmp_path / "b.webm")) as file:
        sound = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=1)
        assert file.streams.audio[0].codec_context.name == "opus"
    spectrum = np.abs(np.fft.rfft(sound[0]))
    peak = np.argmax(spectrum) * 48000 / sound.shape[1]
    assert abs(peak - 440) < 5


@pytest.mark.parametrize("size", [(49, 32), (48, 33), (47, 31)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_sizes_keep_their_size(tmp_path, size, suffix):
    like = video_info(write_clip(tmp_path / "a.mp4"))
    path = tmp_path / f"b{suffix}"
    with write_video(path, like=like, size=size) as writer:
        for i in range(3):
            writer.add_frame(frame_image(i, *size), Fraction(i, 25))
    frames = list(read_frames(path))
    assert len(frames) == 3
    assert frames[0].image.shape == (size[1], size[0], 3)
    assert ("odd" in " ".join(writer.notes)) == (suffix == ".mp4")


def test_written_pictures_are_close_and_crf_decides_how(tmp_path):
    source = write_clip(tmp_path / "a.mp4")
    errors = []
    for crf in (0, None, 40):
        copy(source, tmp_path / "b.mp4", crf=crf)
        pairs = zip(read_frames(source), read_frames(tmp_path / "b.mp4"), strict=True)
        errors.append(
            np.mean([np.abs(a.image.astype(int) - b.image).mean() for a, b in pairs])
        )
    assert errors[0] < 1.5  # chroma of half the resolution remains
    assert errors[0] < errors[1] < errors[2]
    assert errors[1] < 3


def test_an_error_within_the_block_leaves_no_file_and_keeps_the_old_one(tmp_path):
    source = write_clip(tmp_path / "a.mp4")
    like = video_info(source)
    (tmp_path / "old.mp4").write_bytes(b"old")

    def fail(name):
        with write_video(tmp_path / name, like=like) as writer:
            writer.add_frame(frame_image(0), Fraction(0))
            raise KeyError

    for name in ("new.mp4", "old.mp4"):
        with pytest.raises(KeyError):
            fail(name)
    assert {p.name for p in tmp_path.iterdir()} == {"a.mp4", "old.mp4"}
    assert (tmp_path / "old.mp4").read_bytes() == b"old"


def test_writing_refuses_what_it_cannot_write(tmp_path):
    like = video_info(write_clip(tmp_path / "a.mp4"))
    with pytest.raises(ConfigError, match=r"not '\.avi'"):
        with write_video(tmp_path / "b.avi", like=like):
            pass
    with pytest.raises(MediaError, match="no frame"):
        with write_video(tmp_path / "b.mp4", like=like):
            pass
    with write_video(tmp_path / "b.mp4", like=like) as writer:
        writer.add_frame(frame_image(0), Fraction(0))
        with pytest.raises(ValueError, match="a frame at 0 s behind one at 0 s"):
            writer.add_frame(frame_image(0), Fraction(0))
        with pytest.raises(ValueError, match="a frame of 32x32"):
            writer.add_frame(frame_image(0, 32, 32), Fraction(1))
    (tmp_path / "b.mp4").unlink()
    assert set(FORMATS) == set(SUFFIXES)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    source = write_clip(tmp_path / "a.mp4", times=range(60))
    real = pathlib.os.fdopen

    def full(fd, mode, **options):
        file = real(fd, mode, **options)
        if "w" not in mode:
            return file

        class Full:
            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full()

    monkeypatch.setattr("os.fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        copy(source, tmp_path / "b.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
