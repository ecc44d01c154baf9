"""Reading sound: every form of numbers, exact cuts, resampling, and every kind of damage."""

import wave as wave_file
from fractions import Fraction

import numpy as np
import pytest
from clips import RATE, write_clip, write_sound
from scipy.signal import resample_poly

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.data.audio import audio_info, read_audio


def wave(seconds, rate=RATE, seed=0):
    """Three tones and a little noise below 3 kHz: no resampling filter can touch it."""
    t = np.arange(int(seconds * rate)) / rate
    phases = np.random.default_rng(seed).random(3) * 6
    tones = zip((311.0, 1203.0, 2750.0), phases, strict=True)
    return sum(0.2 * np.sin(2 * np.pi * f * t + p) for f, p in tones)


@pytest.mark.parametrize(
    ("name", "codec", "error"),
    [
        ("a.wav", "pcm_u8", 2**-7),
        ("a.wav", "pcm_s16le", 2**-15),
        ("a.wav", "pcm_s32le", 2**-23),
        ("a.wav", "pcm_f32le", 2**-23),
        ("a.flac", "flac", 2**-15),
        ("a.mkv", "pcm_s16le", 2**-15),
    ],
)
def test_numbers_of_every_kind_are_the_same_sound(tmp_path, name, codec, error):
    both = np.stack([wave(0.3), wave(0.3, seed=1)])
    path = write_sound(tmp_path / name, both, codec=codec)
    found = read_audio(path, rate=RATE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, both.mean(axis=0), atol=error)


def test_channels_are_averaged(tmp_path):
    six = np.zeros((6, 4800))
    six[2] = 0.6  # the centre
    path = write_sound(tmp_path / "a.wav", six)
    info = audio_info(path)
    assert (info.rate, info.channels, info.codec) == (RATE, 6, "pcm_s16le")
    assert info.duration == Fraction(1, 10)
    np.testing.assert_allclose(read_audio(path, rate=RATE), 0.1, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new"), [(44_100, 48_000), (48_000, 16_000), (16_000, 22_050)]
)
def test_resampling_keeps_the_sound_and_its_place(tmp_path, old, new):
    path = write_sound(tmp_path / "a.wav", [wave(0.5, old)], old, codec="pcm_f32le")
    found = read_audio(path, rate=new)
    assert len(found) == round(0.5 * new)
    inner = slice(new // 20, -new // 20)  # the ends are the filter's
    # The same tones, sampled at the other rate.
    np.testing.assert_allclose(found[inner], wave(0.5, new)[inner], atol=2e-4)
    common = np.gcd(old, new)
    theirs = resample_poly(wave(0.5, old), new // common, old // common)
    np.testing.assert_allclose(found[inner], theirs[: len(found)][inner], atol=3e-3)


@pytest.mark.parametrize("new", [48_000, 44_100, 16_000])
@pytest.mark.parametrize(
    ("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac")]
)
def test_a_cut_equals_that_of_the_whole(tmp_path, name, codec, new):
    # Beyond 10 s the file is searched, not read up to.
    path = write_sound(tmp_path / name, [wave(13, 44_100)], 44_100, codec=codec)
    whole = read_audio(path, rate=new)
    for start, samples in (
        (0, 100),
        (Fraction(1, 3), 4801),
        (11.27, 7777),
        (12.9, 2000),
    ):
        found = read_audio(path, rate=new, start=start, samples=samples)
        first = round(Fraction(start) * new)
        expected = whole[first : first + samples]
        assert found.shape == (samples,)
        np.testing.assert_array_equal(found[: len(expected)], expected)
        assert not found[len(expected) :].any()


def test_what_lies_outside_is_silence_but_not_all_of_it(tmp_path):
    path = write_sound(tmp_path / "a.wav", [np.full(RATE, 0.5)])
    early = read_audio(path, rate=RATE, start=-0.25, samples=RATE // 2)
    assert not early[: RATE // 4].any()
    np.testing.assert_allclose(early[RATE // 4 :], 0.5, atol=1e-4)
    late = read_audio(path, rate=RATE, start=0.75, samples=RATE)
    assert not late[RATE // 4 :].any()
    for start in (1.0, 7, 20, -3):
        with pytest.raises(MediaError, match=r"has no sound from .* lies outside"):
            read_audio(path, rate=RATE, start=start, samples=100)
    with pytest.raises(MediaError, match="lies outside"):
        read_audio(path, rate=RATE, start=1.5)
    assert len(read_audio(path, rate=RATE, start=0.9)) == RATE // 10


def test_time_counts_from_the_first_picture(tmp_path):
    click = np.zeros(RATE)
    click[RATE // 2] = 1.0
    path = write_clip(
        tmp_path / "a.mkv", times=range(10, 30), sound="pcm_s16le", wave=click
    )
    alone = read_audio(path, rate=RATE)
    assert alone.argmax() == RATE // 2
    # The first picture is shown at 10 / 25 s: the click is 0.1 s behind it.
    found = read_audio(path, rate=RATE, origin=Fraction(10, 25), samples=RATE // 4)
    assert found.argmax() == RATE // 10


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "libopus"])
def test_lossy_sound_keeps_its_place(tmp_path, codec):
    path = write_clip(tmp_path / "a.mkv", times=range(50), sound=codec, wave=wave(2))
    found = read_audio(path, rate=RATE, origin=Fraction(0), samples=int(1.8 * RATE))
    part = slice(RATE // 2, RATE)
    true = wave(2)
    shifts = range(-30, 31)
    match = [np.dot(found[part], true[part.start + s : part.stop + s]) for s in shifts]
    assert abs(shifts[int(np.argmax(match))]) <= 2  # 40 us; Matroska has whole ms


def test_what_is_not_sound_is_one_line(tmp_path):
    cases = {
        "absent.wav": (None, "cannot be read"),
        "empty.wav": (b"", "the file is empty"),
        "text.wav": (b"no sound at all\n" * 40, "not a sound that can be opened"),
        "list.wav": (
            b"ffconcat version 1.0\nfile x.wav\n",
            "not a sound that can be opened",
        ),
    }
    for name, (data, words) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=rf"{name}: .*{words}") as caught:
            read_audio(tmp_path / name, rate=RATE)
        assert "\n" not in str(caught.value)
    silent = write_clip(tmp_path / "silent.mp4")
    with pytest.raises(MediaError, match="has no sound that can be decoded"):
        read_audio(silent, rate=RATE)
    with wave_file.open(str(tmp_path / "none.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
    with pytest.raises(MediaError, match=r"none\.wav: has no sound"):
        read_audio(tmp_path / "none.wav", rate=RATE)
    # The content decides, not the name.
    path = write_sound(tmp_path / "a.mp4", [wave(0.2)], format="wav")
    assert len(read_audio(path, rate=RATE)) == RATE // 5


@pytest.mark.parametrize(
    ("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.m4a", "aac")]
)
def test_a_file_that_was_cut_off_is_damaged(tmp_path, name, codec):
    path = write_sound(tmp_path / name, [wave(3)], codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        MediaError, match=r"cut off|damaged|cannot be (opened|decoded)|not a sound"
    ):
        read_audio(path, rate=RATE)


def test_values_out_of_range_are_refused(tmp_path):
    path = write_sound(
        tmp_path / "a.wav", [[0.0, np.nan, 0.5] * 999], codec="pcm_f32le"
    )
    with pytest.raises(MediaError, match="not finite"):
        read_audio(path, rate=RATE)
    with pytest.raises(ConfigError, match="rate and samples must be positive"):
        read_audio(path, rate=0)
    with pytest.raises(ConfigError, match="samples=0"):
        read_audio(path, rate=RATE, samples=0)
