"""Prepared clips: shards from a manifest, resumed after a kill, and read back as windows."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from clips import RATE, write_clip

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.clip_manifest import write_manifest
from zoo_jax.data.clip_shards import Form, encode_clip, prepare_clips
from zoo_jax.data.clips import Clips
from zoo_jax.data.loader import train_batches
from zoo_jax.data.prepared_clips import PreparedClips
from zoo_jax.data.source import open_source

FORM = Form(frame_rate=10, audio_rate=16_000, short_side=32, least_seconds=0.4)
SMALL = {"frames": 4, "words": 5}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    ramp = np.arange(RATE * 2) / RATE / 2
    write_clip(folder / "a.mkv", times=range(50), sound="pcm_s16le", wave=ramp)
    write_clip(folder / "silent.mp4", times=range(50))
    lines = [
        {
            "video": "a.mkv",
            "start": 0.2 * i,
            "end": 0.2 * i + 0.8,
            "text": f"word{i} is here",
            "label": "even odd".split()[i % 2],
            "split": "test" if i == 6 else "train",
        }
        for i in range(7)
    ]
    write_manifest(folder / "m.jsonl", lines)
    write_manifest(folder / "bad.jsonl", [*lines, {**lines[0], "video": "silent.mp4"}])
    return folder


@pytest.fixture(scope="module")
def prepared(media, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    seen = []
    made = prepare_clips(
        media / "m.jsonl",
        folder,
        form=FORM,
        clips_per_shard=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (made.clips, made.skipped) == (7, [])
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (7, 7)
    return folder


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_windows_are_those_of_the_files(media, prepared):
    source = PreparedClips(prepared, windows=2, **SMALL)
    options = {"frame_rate": 10, "audio_rate": 16_000, "short_side": 32, **SMALL}
    files = Clips(media / "m.jsonl", windows=2, **options)
    assert len(source) == len(files) == 14
    assert source.info["vocabulary"] == files.info["vocabulary"]
    assert source.info["labels"].tolist() == files.info["labels"].tolist()
    assert source.info["classes"] == ("even", "odd")
    for i in (0, 5, 13):
        a, b = source[i], files[i]
        assert set(a) == set(b)
        # JPEG of quality 95 on the one side; 16 bits of sound.
        assert np.abs(a["video"].astype(int) - b["video"]).mean() < 4
        np.testing.assert_allclose(a["audio"], b["audio"], atol=2**-14)
        np.testing.assert_array_equal(a["text"], b["text"])
        assert a["label"] == b["label"]
    only = PreparedClips(prepared, modalities=["audio"], **SMALL)
    assert set(only[0]) == {"audio", "label"}


def test_a_short_record_is_looped_in_step(prepared):
    clip = PreparedClips(prepared, frames=12, short="loop", words=5)[2]
    assert clip["video"].shape == (12, 32, 48, 3)
    np.testing.assert_array_equal(clip["video"][8:], clip["video"][:4])
    np.testing.assert_array_equal(clip["audio"][12_800:], clip["audio"][:6400])
    padded = PreparedClips(prepared, frames=12, short="pad", words=5)[2]
    assert not padded["audio"][12_800:].any()
    with pytest.raises(MediaError, match="has 8 of the 12 pictures"):
        PreparedClips(prepared, frames=12, short="skip", words=5)[2]


@pytest.mark.parametrize("workers", [2])
def test_workers_do_not_change_batches(prepared, workers):
    section = {"name": "prepared_clips", "root": str(prepared), "place": "random"}
    source = open_source({**section, **SMALL})
    kwargs = {"batch_size": 4, "seed": 2}
    with (
        train_batches(source, **kwargs) as one,
        train_batches(source, workers=workers, **kwargs) as other,
    ):
        for _ in range(3):
            a, b = next(one), next(other)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])


def test_workers_of_the_preparation_change_no_byte(media, prepared, tmp_path):
    prepare_clips(media / "m.jsonl", tmp_path, form=FORM, clips_per_shard=3, workers=2)
    assert contents(tmp_path) == contents(prepared)


def test_splits_share_words_and_classes(media, prepared, tmp_path):
    prepare_clips(media / "m.jsonl", tmp_path, split="test", form=FORM)
    test, train = PreparedClips(tmp_path, **SMALL), PreparedClips(prepared, **SMALL)
    assert len(test) == 1
    for name in ("vocabulary", "classes"):
        assert test.info[name] == train.info[name]


SCRIPT = """
import sys, time
from zoo_jax.data import clip_shards
from zoo_jax.data.clip_shards import Form, prepare_clips
encode = clip_shards._encode
def slow(form, clip):
    time.sleep(0.4)
    return encode(form, clip)
clip_shards._encode = slow
form = Form(frame_rate=10, audio_rate=16_000, short_side=32, least_seconds=0.4)
prepare_clips(sys.argv[1], sys.argv[2], form=form, clips_per_shard=3)
"""


def test_killed_and_called_again_it_ends_with_the_same_files(media, prepared, tmp_path):
    arguments = [sys.executable, "-c", SCRIPT, str(media / "m.jsonl"), str(tmp_path)]
    process = subprocess.Popen(arguments)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("clips-00000*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # within the second shard
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "clips.json").exists()
    with pytest.raises(DataError, match=r"only in part prepared: run python -m"):
        PreparedClips(tmp_path)
    first = next(tmp_path.glob("clips-00000*.array_record"))
    before = first.stat().st_mtime_ns
    prepare_clips(media / "m.jsonl", tmp_path, form=FORM, clips_per_shard=3)
    assert first.stat().st_mtime_ns == before  # it was not made again
    assert contents(tmp_path) == contents(prepared)


def test_unreadable_clips_are_reported_and_capped(media, tmp_path):
    with pytest.raises(
        DataError, match=r"1 of 8 clips cannot be read, more than the 0 .*silent"
    ):
        prepare_clips(media / "bad.jsonl", tmp_path, form=FORM)
    assert not (tmp_path / "clips.json").exists()
    made = prepare_clips(media / "bad.jsonl", tmp_path, form=FORM, max_skipped=0.2)
    assert made.clips == 7
    (bad,) = made.skipped
    assert bad["clip"] == "silent"
    assert "no sound" in bad["error"]
    assert len(PreparedClips(tmp_path, **SMALL)) == 7
    index = json.loads((tmp_path / "clips.json").read_text())
    assert index["skipped"] == [bad]
    kept = FORM._replace(may_be_silent=True)
    prepare_clips(media / "bad.jsonl", tmp_path / "kept", form=kept)
    source = PreparedClips(tmp_path / "kept", **SMALL)
    assert [float(source[i]["audio_mask"]) for i in (0, 7)] == [1, 0]
    assert not source[7]["audio"].any()


def test_preparing_says_what_is_wrong(media, prepared, tmp_path):
    with pytest.raises(
        DataError, match="prepared from another clips_per_shard: take another"
    ):
        prepare_clips(media / "m.jsonl", prepared, form=FORM, clips_per_shard=2)
    with pytest.raises(DataError, match="from another clips and manifest"):
        prepare_clips(media / "bad.jsonl", prepared, form=FORM, clips_per_shard=3)
    with pytest.raises(ConfigError, match="clips_per_shard must be positive, got 0"):
        prepare_clips(media / "m.jsonl", tmp_path, clips_per_shard=0)
    with pytest.raises(ConfigError, match="modalities must be of video and audio"):
        prepare_clips(media / "m.jsonl", tmp_path, form=Form(modalities=("text",)))
    with pytest.raises(DataError, match="clips are not prepared: run python -m"):
        PreparedClips(tmp_path)
    with pytest.raises(ConfigError, match="unknown modality 'smell'"):
        PreparedClips(prepared, modalities=["smell"])


def test_damaged_shards_are_one_line(media, tmp_path):
    prepare_clips(media / "m.jsonl", tmp_path, form=FORM, clips_per_shard=4)
    shard = tmp_path / "clips-00001-of-00002.array_record"
    data = bytearray(shard.read_bytes())
    place = data.index(b"jpeg.npy") + 300  # within the first record
    data[place : place + 2000] = os.urandom(2000)
    shard.write_bytes(data)
    source = PreparedClips(tmp_path, **SMALL)
    assert source[0]["video"].shape == (4, 32, 48, 3)
    messages = []
    for i in range(4, 7):
        try:
            source[i]
        except MediaError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
    shard.unlink()
    with pytest.raises(DataError, match=r"1 shards are missing, first clips-00001"):
        PreparedClips(tmp_path)


def test_a_cut_record_is_a_damaged_one():
    from zoo_jax.data.clip_shards import decode_record

    picture = np.zeros((4, 5, 3), np.uint8)
    data = encode_clip([picture], np.zeros(3, np.float32), {"name": "a"})
    assert decode_record(data, "here").facts == {"name": "a"}
    with pytest.raises(MediaError, match="here: a damaged record"):
        decode_record(data[:-30], "here")
