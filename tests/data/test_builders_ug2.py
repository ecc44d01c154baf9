"""UG2 from frames and annotations on disk, through prepared files, to examples."""

import shutil

import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.builders.ug2.annotations import Box
from zoo_jax.data.builders.ug2.collections import CLASSES
from zoo_jax.data.builders.ug2.crops import crop_object
from zoo_jax.data.source import open_source
from zoo_jax.data.tfds import open_prepared, prepare_dataset

SIZE = (60, 90)
ROWS = {
    "train/AV00001": """\
0 10 20 30 40 0 0 0 0 "car1"
0 12 20 32 40 10 0 0 1 "car1"
1 50 5 90 60 10 0 0 0 "farm_machines"
2 50 5 90 60 10 0 1 0 "dog"
0 0 0 0 0 2 1 0 0 "car1"
""",
    # Sequences of one video, as the challenge of 2019 has them.
    "train/AV00002/0": '0 1 2 80 50 7 0 0 0 "boat"\n',
    "train/AV00002/1": '3 1 2 8 5 8 0 0 0 "pedestrian"\n',
    "test/AV00009": '0 0 0 90 60 4 0 0 0 "dome"\n',
}
FRAMES = {"train": 4, "test": 1}
OBJECTS = {"train": 5, "test": 1}


def pixels(name, number):
    rng = np.random.default_rng([number, *name.encode()])
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for collection in ("uav", "glider"):
        for name, rows in ROWS.items():
            folder = root / collection / name
            folder.mkdir(parents=True)
            folder.with_suffix(".txt").write_text(rows)
            for row in rows.splitlines():
                number = int(row.split()[5])
                Image.fromarray(pixels(name, number)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for name, counts in (("ug2/uav_frames", FRAMES), ("ug2/uav_crops", OBJECTS)):
        made = prepare_dataset(name, source_dir=raw, data_dir=folder, counts=counts)
        assert made == counts
    return folder


def test_frames_hold_every_object_in_full_view(prepared):
    builder, records = open_prepared("ug2/uav_frames", "train", prepared)
    places = [(r["video"].decode(), int(r["frame"])) for r in records]
    assert places == [("AV00001", 0), ("AV00001", 10), ("AV00002", 7), ("AV00002", 8)]
    assert builder.info.metadata["train"] == [video for video, _ in places]
    second = records[1]
    np.testing.assert_array_equal(second["image"], pixels("train/AV00001", 10))
    objects = second["objects"]
    np.testing.assert_array_equal(objects["box"], [[20, 12, 40, 32], [5, 50, 60, 90]])
    assert [CLASSES[i] for i in objects["label"]] == ["Car1", "FarmMachines"]
    assert list(objects["track"]) == [0, 1]


def test_crops_are_the_squares_of_the_rule_and_know_their_video(prepared):
    section = {"name": "ug2_crops", "collection": "uav", "data_dir": str(prepared)}
    source = open_source({**section, "split": "train"})
    assert len(source) == 5
    labels = [CLASSES[source[i]["label"]] for i in range(5)]
    assert labels == ["Car1", "Car1", "FarmMachines", "Boat", "Pedestrian"]
    assert source.info["groups"] == ("AV00001",) * 3 + ("AV00002",) * 2
    frame = pixels("train/AV00001", 10)
    expected = crop_object(frame, Box(50, 5, 90, 60))
    assert expected.shape == (60, 60, 3)
    np.testing.assert_array_equal(source[2]["image"], expected)
    other = open_source({**section, "split": "test"})
    assert not set(source.info["groups"]) & set(other.info["groups"])
    part = open_source({**section, "split": "train[3:]"})
    assert part.info["groups"] == ("AV00002",) * 2


def test_unknown_collections_and_unprepared_ones_are_named(prepared):
    section = {"name": "ug2_crops", "split": "train", "data_dir": str(prepared)}
    with pytest.raises(ConfigError, match=r"unknown collection 'uavs': .*'uav'"):
        open_source({**section, "collection": "uavs"})
    with pytest.raises(DataError, match=r"--dataset=ug2/glider_crops"):
        open_source({**section, "collection": "glider"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ug2/uav_frames", "has 4 annotated frames, not 28,263"),
        ("ug2/uav_crops", "has 5 objects, not 29,826"),
        ("ug2/glider_crops", "has 5 objects, not 31,760"),
    ],
)
def test_published_numbers_are_checked(raw, tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        prepare_dataset(name, source_dir=raw, data_dir=tmp_path)


@pytest.fixture
def broken(raw, tmp_path):
    shutil.copytree(raw / "uav", tmp_path / "raw" / "uav")
    return tmp_path / "raw" / "uav" / "train" / "AV00001"


def prepare_broken(folder, name="ug2/uav_crops", counts=OBJECTS):
    root = folder.parents[2]
    out = root.parent / "out"
    try:
        prepare_dataset(name, source_dir=root, data_dir=out, counts=counts)
    finally:
        left = [p for p in out.rglob("*.array_record*") if p.is_file()]
        assert left == []


def test_a_missing_frame_is_named(broken):
    (broken / "10.png").unlink()
    with pytest.raises(
        DataError, match=r"no frame .*AV00001/10\.png, which .*AV00001\.txt"
    ):
        prepare_broken(broken)


@pytest.mark.parametrize("name", ["ug2/uav_crops", "ug2/uav_frames"])
def test_damaged_frames_and_boxes_outside_end_the_preparation(broken, name):
    counts = OBJECTS if name.endswith("crops") else FRAMES
    Image.fromarray(pixels("x", 0)[:39]).save(broken / "0.png")
    message = r"0\.png: the box \(10, 20, 30, 40\) .* leaves the frame of 90x39"
    with pytest.raises(DataError, match=message):
        prepare_broken(broken, name, counts)
    (broken / "0.png").write_bytes(b"broken")
    with pytest.raises(MediaError, match=r"0\.png"):
        prepare_broken(broken, name, counts)


def test_unknown_classes_are_named(broken):
    path = broken.with_suffix(".txt")
    path.write_text(path.read_text().replace("farm_machines", "farm_machine"))
    with pytest.raises(DataError, match=r"line 3: unknown class .*'FarmMachines'"):
        prepare_broken(broken)


def test_an_absent_collection_gives_the_layout(raw, tmp_path):
    with pytest.raises(DataError, match=r"no folder .*ground/train: expected \{uav"):
        prepare_dataset("ug2/ground_crops", source_dir=raw, data_dir=tmp_path)
