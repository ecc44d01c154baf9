"""Clips of a manifest: in step, of one length, with their words; and what is wrong with them."""

import json
from fractions import Fraction

import numpy as np
import pytest
from clips import RATE, frame_image, write_clip, write_sound

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.clip_manifest import read_manifest, write_manifest
from zoo_jax.data.clips import Clips
from zoo_jax.data.loader import eval_batches, train_batches
from zoo_jax.data.source import open_source

# 40 pictures at 25 a second: 1.6 s. A ramp of sound says what time it is.
SECONDS = Fraction(40, 25)
SMALL = {"frames": 4, "frame_rate": 10, "audio_rate": 16_000, "words": 5}


def ramp():
    """Sound of slowly rising value: 0.5 at 1 s; sample i tells its time."""
    return np.arange(int(SECONDS * RATE)) / RATE / 2


def shown(image):
    """The number of a picture of `write_clip`, from where its square is."""
    return int(
        np.argmin(
            [np.abs(image.astype(int) - frame_image(i)).mean() for i in range(40)]
        )
    )


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "a.mkv", times=range(40), sound="pcm_s16le", wave=ramp())
    write_clip(folder / "silent.mp4", times=range(40))
    write_sound(folder / "other.wav", [-ramp()])
    return folder


def manifest(folder, *lines, name="m.jsonl"):
    write_manifest(folder / name, lines)
    return folder / name


A = {
    "video": "a.mkv",
    "start": 0.2,
    "end": 1.2,
    "text": "Add the salt.",
    "context": ["stir"],
}


def test_pictures_and_sound_are_of_the_same_time(media):
    source = Clips(manifest(media, A), place="start", **SMALL)
    clip = source[0]
    # 0.2, 0.3, 0.4 and 0.5 s are within pictures 5, 7, 10 and 12 of 40 ms each.
    assert [shown(image) for image in clip["video"]] == [5, 7, 10, 12]
    assert clip["video"].shape == (4, 32, 48, 3)
    assert clip["audio"].shape == (6400,)
    times = 0.2 + np.arange(6400) / 16_000
    np.testing.assert_allclose(clip["audio"], times / 2, atol=1e-3)


def test_times_count_from_the_first_picture(tmp_path):
    late = range(10, 50)  # the sound starts 0.4 s before the pictures
    write_clip(tmp_path / "a.mkv", times=late, sound="pcm_s16le", wave=ramp())
    clip = Clips(manifest(tmp_path, A), place="start", **SMALL)[0]
    assert [shown(image) for image in clip["video"]] == [5, 7, 10, 12]
    np.testing.assert_allclose(clip["audio"][:3], 0.6 / 2, atol=1e-3)


@pytest.mark.parametrize(("rate", "numbers"), [(25, [5, 6, 7, 8]), (50, [5, 5, 6, 6])])
def test_any_rate_of_pictures(media, rate, numbers):
    small = {**SMALL, "frame_rate": rate}
    clip = Clips(manifest(media, A), place="start", **small)[0]
    assert [shown(image) for image in clip["video"]] == numbers
    assert clip["audio"].shape == (4 * 16_000 // rate,)


def test_uneven_frame_times_are_those_of_the_file(tmp_path):
    times = (0, 1, 2, 12, 13, 30, 31, 39)
    write_clip(tmp_path / "a.mkv", times=times, sound="pcm_s16le")
    line = {"video": "a.mkv", "start": 0, "end": 1.6, "text": "x"}
    small = {**SMALL, "frames": 8, "frame_rate": 5}
    clip = Clips(manifest(tmp_path, line), **small)[0]
    # At 0, 0.2 ... 1.4 s: frame 5k of a steady 25 a second.
    expected = [max(i for i, t in enumerate(times) if t <= 5 * k) for k in range(8)]
    assert [shown(image) for image in clip["video"]] == expected


def test_windows_spread_from_start_to_end(media):
    source = Clips(manifest(media, A), windows=3, **SMALL)
    assert len(source) == 3
    # 0.6 s to spare: they start at 0.2, 0.5 and 0.8 s.
    assert [shown(source[i]["video"][0]) for i in range(3)] == [5, 12, 20]
    for i, start in enumerate((0.2, 0.5, 0.8)):
        assert source[i]["audio"][0] == pytest.approx(start / 2, abs=1e-3)
    middle = Clips(manifest(media, A), **SMALL)[0]
    np.testing.assert_array_equal(middle["audio"], source[1]["audio"])


def test_the_loader_draws_windows(media):
    source = Clips(manifest(media, *[A] * 3), place="random", **SMALL)
    with train_batches(source, batch_size=8, seed=1) as batches:
        starts = 2 * next(batches)["audio"][:, 0]
    assert len(set(starts.round(3))) == 8
    assert starts.min() > 0.2 - 1e-3
    assert starts.max() < 0.8 + 1e-3
    middle = Clips(manifest(media, *[A] * 3), **SMALL)[2]
    np.testing.assert_array_equal(source[2]["audio"], middle["audio"])


@pytest.mark.parametrize("workers", [2])
def test_workers_and_resuming_do_not_change_batches(media, workers):
    section = {
        "name": "clips",
        "manifest": str(manifest(media, *[A] * 5)),
        "place": "random",
    }
    source = open_source({**section, **SMALL, "short_side": 8})
    kwargs = {"batch_size": 3, "seed": 5}
    with (
        train_batches(source, **kwargs) as plain,
        train_batches(source, workers=workers, start=1, **kwargs) as other,
    ):
        next(plain)
        for _ in range(3):
            a, b = next(plain), next(other)
            for name in ("video", "audio", "text", "text_mask"):
                np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("short", ["loop", "pad"])
def test_a_short_clip_is_made_longer(media, short):
    line = {**A, "start": 1.0, "end": 1.25}
    clip = Clips(manifest(media, line), short=short, **SMALL)[0]
    # Three pictures, at 1.0, 1.1 and 1.2 s, and 0.3 s of sound.
    last = {"loop": 25, "pad": 30}[short]
    assert [shown(image) for image in clip["video"]] == [25, 27, 30, last]
    assert clip["audio"].shape == (6400,)
    times = 1 + np.arange(4800) / 16_000
    np.testing.assert_allclose(clip["audio"][:4800], times / 2, atol=1e-3)
    rest = clip["audio"][4800:]
    if short == "loop":
        np.testing.assert_array_equal(rest, clip["audio"][:1600])
    else:
        assert not rest.any()


def test_a_file_that_ends_within_a_window_is_made_longer_too(media):
    line = {**A, "start": 1.45, "end": 3}
    clip = Clips(manifest(media, line), place="start", **SMALL)[0]
    assert [shown(image) for image in clip["video"]] == [36, 38, 36, 38]
    with pytest.raises(
        MediaError, match=r"a\.mkv \(1\.45 to 3 s\): has 2 of the 4 pictures"
    ):
        Clips(manifest(media, line), place="start", short="skip", **SMALL)[0]


def test_short_clips_are_skipped_counted_and_reported(media, tmp_path):
    path = manifest(media, A, {**A, "end": 0.4}, A, A)
    source = Clips(path, short="skip", **SMALL)
    report = tmp_path / "bad.jsonl"
    batches = eval_batches(
        source, batch_size=2, on_error="skip", max_skipped=0.25, report=report
    )
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert masks.tolist() == [1, 0, 1, 1]
    (line,) = [json.loads(text) for text in report.read_text().splitlines()]
    assert line["index"] == 1
    assert "shorter" in line["error"]
    with pytest.raises(
        DataError, match=r"1 of 4 examples cannot be read, more than the 0"
    ):
        list(eval_batches(source, batch_size=2, on_error="skip", max_skipped=0.1))


def test_texts_are_the_own_sentence_and_its_neighbours(media):
    lines = [
        {**A, "context": ["stir it", "taste"]},
        {**A, "text": " \n", "context": []},
        {key: A[key] for key in ("video", "start", "end")},
        {**A, "text": "unheard"},
    ]
    path = manifest(media, *lines)
    words = ["<pad>", "<bos>", "<eos>", "<unk>", "salt", "add", "stir", "taste"]
    source = Clips(path, vocabulary=words, context=4, **SMALL)
    expected = [
        [5, 3, 4],
        [6, 3, 0],
        [7, 0, 0],
        [5, 3, 4],
        [6, 3, 0],
    ]  # two are repeated
    text = source[0]["text"]
    assert text.dtype == np.int32
    assert text.shape == (5, 5)
    assert text[:, :3].tolist() == expected
    assert source.info["without_text"] == 3
    masks = [float(source[i]["text_mask"]) for i in range(4)]
    assert masks == [1, 0, 0, 0]
    assert not any(source[i]["text"].any() for i in (1, 2, 3))
    own = Clips(path, context=0, **SMALL)
    assert own.info["vocabulary"][4:] == ("add", "salt", "the", "unheard")
    assert own[0]["text"].shape == (1, 5)


CAPTIONS = [
    {"start": 0.9, "end": 1.2, "text": "three"},
    {"start": 0.0, "end": 0.3, "text": "one"},
    {"start": 0.4, "end": 0.8, "text": "two"},
    {"start": 1.3, "end": 1.4, "text": "  "},
]


def test_each_timed_caption_is_a_clip_around_it(media):
    path = manifest(media, {"video": "a.mkv", "captions": CAPTIONS})
    clips = read_manifest(path)
    assert [clip.texts for clip in clips] == [
        ("one", "two", "three"),
        ("two", "three", "one"),
        ("three", "two", "one"),
    ]
    source = Clips(path, **SMALL)
    # Windows of 0.4 s around 0.15 (moved to the start), 0.6 and 1.05 s.
    starts = [2 * source[i]["audio"][0] for i in range(3)]
    np.testing.assert_allclose(starts, [0, 0.4, 0.85], atol=2e-3)


def test_a_span_takes_the_caption_that_overlaps_it_longest(media):
    span = {"video": "a.mkv", "captions": CAPTIONS}
    lines = [{**span, "start": 0.7, "end": 1.3}, {**span, "start": 1.25, "end": 1.6}]
    first, second = read_manifest(manifest(media, *lines), context=1)
    assert first.texts == ("three", "two")
    assert (first.start, first.end) == (0.7, 1.3)
    assert second.texts == ()


def test_captions_outside_the_file_are_named(media):
    late = [*CAPTIONS, {"start": 62, "end": 64, "text": "much later"}]
    source = Clips(manifest(media, {"video": "a.mkv", "captions": late}), **SMALL)
    with pytest.raises(
        MediaError, match=r"caption 'much later' of 62 to 64 s lies outside"
    ):
        source[3]
    late = Clips(manifest(media, {**A, "start": 62, "end": 64}), **SMALL)
    with pytest.raises(MediaError, match=r"a\.mkv .* the clip lies outside the file"):
        late[0]


def test_sound_may_be_another_file_or_absent(media):
    path = manifest(media, {**A, "audio": "other.wav"}, {**A, "video": "silent.mp4"})
    source = Clips(path, place="start", **SMALL)
    np.testing.assert_allclose(source[0]["audio"][0], -0.1, atol=1e-3)
    with pytest.raises(MediaError, match=r"silent\.mp4: has no sound"):
        source[1]
    kept = Clips(path, place="start", no_audio="silence", **SMALL)
    assert [float(kept[i]["audio_mask"]) for i in range(2)] == [1, 0]
    assert not kept[1]["audio"].any()
    assert kept[1]["audio"].shape == (6400,)
    pictures = Clips(path, modalities=("video",), **SMALL)[1]
    assert set(pictures) == {"video"}


def test_sound_alone_needs_no_video(media):
    lines = [
        {"audio": "other.wav", "label": "bell"},
        {"video": "a.mkv", "label": "ape"},
    ]
    source = Clips(manifest(media, *lines), modalities=("audio",), windows=2, **SMALL)
    assert set(source[0]) == {"audio", "label"}
    # 1.6 s: windows start at 0 and 1.2 s.
    np.testing.assert_allclose(source[1]["audio"][0], -0.6, atol=1e-3)
    np.testing.assert_allclose(source[3]["audio"][0], 0.6, atol=1e-3)
    assert source.info["classes"] == ("ape", "bell")
    assert source.info["labels"].tolist() == [1, 1, 0, 0]
    with pytest.raises(DataError, match=r"1 clips have no video \(first: other\)"):
        Clips(manifest(media, *lines), **SMALL)


def test_labels_are_numbers_or_several_classes(media):
    path = manifest(
        media, {**A, "label": ["b", "c"]}, {**A, "label": ["a"], "split": "x"}
    )
    source = Clips(path, **SMALL)
    assert source[0]["label"].tolist() == [0, 1, 1]
    # The classes are those of all splits.
    assert Clips(path, split="x", **SMALL)[0]["label"].tolist() == [1, 0, 0]
    path = manifest(media, {**A, "label": 2}, {**A, "label": 0})
    source = Clips(path, **SMALL)
    assert [int(source[i]["label"]) for i in range(2)] == [2, 0]
    assert source.info["num_classes"] == 3
    with pytest.raises(DataError, match="has no label, others have"):
        Clips(manifest(media, {**A, "label": 2}, A), **SMALL)
    with pytest.raises(DataError, match="all names, or all numbers"):
        Clips(manifest(media, {**A, "label": 2}, {**A, "label": "a"}), **SMALL)
    with pytest.raises(DataError, match="label 'b' is none of the classes"):
        Clips(manifest(media, {**A, "label": "b"}), classes=["a"], **SMALL)


def test_late_windows_equal_those_that_are_read_up_to(tmp_path):
    times = range(0, 25 * 14)
    late = write_clip(tmp_path / "a.mkv", times=times, sound="flac", gop=30)
    assert late.is_file()
    line = {"video": "a.mkv", "start": 11.3, "end": 11.7, "text": "x"}
    found = Clips(manifest(tmp_path, line), **SMALL)[0]
    from zoo_jax.data.audio import read_audio
    from zoo_jax.data.video import read_frames

    frames = [f.image for f in read_frames(late)]
    for image, number in zip(found["video"], (282, 285, 287, 290), strict=True):
        np.testing.assert_array_equal(image, frames[number])
    whole = read_audio(late, rate=16_000)
    first = round(11.3 * 16_000)
    np.testing.assert_array_equal(found["audio"], whole[first : first + 6400])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"start": 1}, "needs a 'video' or an 'audio'"),
        ({**A, "caption": "x"}, "unknown key 'caption': did you mean 'captions'"),
        ({**A, "start": "1"}, "'start' must be seconds, got '1'"),
        ({**A, "end": float("nan")}, "'end' must be seconds"),
        ({**A, "start": 2}, r"must be 0 <= start < end, got 2 and 1\.2"),
        ({**A, "captions": []}, "'captions' excludes 'text'"),
        ({"video": "a", "context": ["x"]}, "'context' needs a 'text'"),
        (
            {"video": "a", "captions": [{"start": 2, "end": 1, "text": "x"}]},
            "of a caption must",
        ),
        (
            {"video": "a", "captions": [{"start": 2, "text": "x"}]},
            "'captions' must be a list",
        ),
        (
            {"video": "a", "captions": [{"start": 0, "end": 1, "text": " "}]},
            "captions are empty",
        ),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, words):
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "m.jsonl").write_text(f"\n{json.dumps(A)}\n{text}\n")
    with pytest.raises(DataError, match=rf"m\.jsonl:3: .*{words}") as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert "\n" not in str(caught.value)


def test_wrong_manifests_and_values_are_named(media, tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl: the manifest cannot be read"):
        read_manifest(tmp_path / "no.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="has no clips"):
        read_manifest(tmp_path / "empty.jsonl")
    path = manifest(media, {**A, "split": "train"})
    with pytest.raises(
        DataError, match=r"no clip of split 'tran'.*did you mean 'train'"
    ):
        Clips(path, split="tran", **SMALL)
    for option, words in (
        ({"modalities": ["vidoe"]}, "unknown modality 'vidoe': did you mean 'video'"),
        ({"short": "cut"}, "unknown short 'cut'"),
        ({"windows": 2, "place": "random"}, "windows must be positive, and 1 with"),
        ({"frames": 0}, "must be positive"),
        ({"context": -1}, "context must not be negative"),
    ):
        with pytest.raises(ConfigError, match=words):
            Clips(path, **{**SMALL, **option})
    with pytest.raises(DataError, match="no clips to write"):
        write_manifest(tmp_path / "none.jsonl", [])
    with pytest.raises(DataError, match="unknown key 'vide'"):
        write_manifest(tmp_path / "none.jsonl", [{"vide": "a"}])
    assert not (tmp_path / "none.jsonl").exists()


def test_damaged_files_are_one_line(media, tmp_path):
    whole = (media / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mkv").write_bytes(b"")
    (tmp_path / "a.avi").write_bytes(whole)  # the content decides
    names = ("cut.mkv", "empty.mkv", "absent.mkv", "a.avi")
    line = {**A, "start": 0.9, "end": 1.5}
    source = Clips(manifest(tmp_path, *({**line, "video": n} for n in names)), **SMALL)
    for i in range(3):
        with pytest.raises(MediaError, match=names[i]) as caught:
            source[i]
        assert "\n" not in str(caught.value)
    assert source[3]["video"].shape == (4, 32, 48, 3)


@pytest.mark.parametrize("kind", ["bytes", "end", "stretch"])
def test_any_damage_is_a_media_error_or_none(media, tmp_path, kind):
    write_clip(tmp_path / "a.mp4", times=range(40), sound="aac")
    files = [tmp_path / "a.mp4", media / "a.mkv"]
    rng = np.random.default_rng(7)
    for trial in range(8):
        data = bytearray(files[trial % 2].read_bytes())
        if kind == "bytes":
            for place in rng.integers(len(data), size=12):
                data[place] = rng.integers(256)
        elif kind == "end":
            data = data[: rng.integers(1, len(data))]
        else:
            place = rng.integers(len(data))
            data[place : place + 2000] = rng.bytes(len(data[place : place + 2000]))
        (tmp_path / "x").write_bytes(data)
        source = Clips(manifest(tmp_path, {**A, "video": "x"}), **SMALL)
        try:
            clip = source[0]
        except MediaError:
            continue
        assert clip["video"].shape == (4, 32, 48, 3)
        assert clip["audio"].shape == (6400,)
        assert np.isfinite(clip["audio"]).all()
