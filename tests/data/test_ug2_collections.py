"""Collections of UG2: published counts, sequences on disk, and splits that never part a video."""

import zipfile

import numpy as np
import pytest

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.ug2.collections import (
    CLASSES,
    COLLECTIONS,
    MAPPED,
    find_sequences,
    is_train_video,
    split_by_video,
)


def test_published_numbers_add_up():
    def total(split, field):
        return sum(getattr(part[split], field) for part in COLLECTIONS.values())

    assert [total("train", f) for f in ("videos", "frames", "objects")] == [
        *(196, 152_083, 160_160)
    ]
    assert [total("test", f) for f in ("videos", "frames", "objects")] == [
        *(55, 8_910, 9_187)
    ]


def test_classes_are_those_of_the_published_map(shared):
    archive = zipfile.ZipFile(shared("data", "ug2_samples", "ug2_samples.zip"))
    (name,) = (n for n in archive.namelist() if n.endswith("UG2ImageNet.txt"))
    lines = archive.read(name).decode().splitlines()[1:]
    assert list(MAPPED) == sorted({line.split("\t")[1] for line in lines})
    assert len(MAPPED) == 47
    assert set(CLASSES) - set(MAPPED) == {"Pedestrian", "ResolutionChart"}


def test_a_split_never_parts_the_frames_of_a_video():
    videos = np.repeat([f"AV{i:05}" for i in range(60)], 7).tolist()
    train, rest = split_by_video(videos, share=0.7)
    assert sorted(train + rest) == list(range(len(videos)))
    sides = [{videos[i] for i in side} for side in (train, rest)]
    assert not sides[0] & sides[1]
    assert 30 < len(sides[0]) < 54


def test_more_videos_move_no_other():
    few = [v for v in "abcdefghij" if is_train_video(v, share=0.5)]
    many = [v for v in "abcdefghijklmnop" if is_train_video(v, share=0.5)]
    assert few == [v for v in many if v in "abcdefghij"]
    assert 0 < len(few) < 10


def test_a_share_that_leaves_a_side_empty_is_refused():
    with pytest.raises(DataError, match=r"1 videos do not split at 0\.5"):
        split_by_video(["AV1"] * 4, share=0.5)


def test_sequences_of_one_video_share_it(tmp_path):
    for name in ("AV1", "AV2/0", "AV2/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / f"{name}.txt").touch()
    found = find_sequences(tmp_path)
    assert [s.video for s in found] == ["AV1", "AV2", "AV2"]
    assert [s.frames.name for s in found] == ["AV1", "0", "1"]


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*none: expected \{uav,glider"):
        find_sequences(tmp_path / "none")
    with pytest.raises(DataError, match="no annotations in"):
        find_sequences(tmp_path)
    (tmp_path / "AV1.txt").touch()
    with pytest.raises(DataError, match=r"AV1\.txt: no folder .*AV1 with its frames"):
        find_sequences(tmp_path)
