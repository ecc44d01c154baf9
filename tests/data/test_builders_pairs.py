"""Published sets of pairs: from their folders through the prepared files to examples."""

import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core import shuffle

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.builders import base, paired
from zoo_jax.data.builders.koehler.builder import sharp_frames
from zoo_jax.data.builders.nfs.builder import WINDOWS
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.media import decode_image
from zoo_jax.data.prepared_pairs import PreparedPairs
from zoo_jax.data.source import open_source
from zoo_jax.data.tfds import prepare_dataset

COUNTS = {
    "gopro/linear": {"train": 5, "test": 2},
    "gopro/gamma": {"train": 5, "test": 2},
    "reds/blur": {"train": 4, "valid": 2},
    "reds/blur_comp": {"train": 4, "valid": 2},
    "dvd": {"train": 3, "test": 1},
    "koehler": {"test": 2},
    "nfs": {"train": 2},  # sequences
}


@pytest.fixture(scope="module")
def made(root):
    path = root / "tests" / "fixtures" / "make_pairs.py"
    spec = importlib.util.spec_from_file_location("make_pairs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def raw(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    for name in ("gopro", "reds", "dvd", "koehler", "nfs"):
        getattr(made, name)(folder / name)
    return folder


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for name, counts in COUNTS.items():
        source = raw / name.partition("/")[0]
        found = prepare_dataset(name, source_dir=source, data_dir=folder, counts=counts)
        assert found == (counts if name != "nfs" else {"train": 3})
    return folder


def data_files(folder):
    """All but TFDS's note of which forms a set has."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return [p for p in files if p.parts[-2:] != (".config", "metadata.json")]


def check(source, files, places):
    assert len(source) == len(files)
    for i, (image, sharp) in enumerate(files):
        assert set(source[i]) == {"image", "sharp"}
        np.testing.assert_array_equal(source[i]["image"], decode_image(image))
        np.testing.assert_array_equal(source[i]["sharp"], decode_image(sharp))
    assert [source.place(i) for i in range(len(source))] == places
    assert source.info["groups"] == tuple(sequence for sequence, _ in places)


def gopro_files(raw, split, kind):
    sequences = {
        "train": [("GOPR0372_07_00", 3), ("GOPR0374_11_00", 2)],
        "test": [("GOPR0384_11_00", 2)],
    }[split]
    top = raw / "gopro" / "GOPRO_Large" / split
    places = [(s, k) for s, count in sequences for k in range(47, 47 + count)]
    files = [
        (top / s / kind / f"{k:06d}.png", top / s / "sharp" / f"{k:06d}.png")
        for s, k in places
    ]
    return files, places


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("light", "kind"), [("linear", "blur"), ("gamma", "blur_gamma")]
)
def test_gopro_has_either_light_of_every_sequence(raw, prepared, split, light, kind):
    section = {"name": "gopro", "split": split, "data_dir": str(prepared)}
    source = open_source({**section, "light": light})
    files, places = gopro_files(raw, split, kind)
    check(source, files, places)


def test_parts_and_every_nth_of_a_split(raw, prepared):
    section = {"name": "gopro", "data_dir": str(prepared)}
    files, places = gopro_files(raw, "train", "blur")
    check(
        open_source({**section, "split": "train", "every": 2}), files[::2], places[::2]
    )
    check(open_source({**section, "split": "train[3:]"}), files[3:], places[3:])
    more, more_places = gopro_files(raw, "test", "blur")
    both = open_source({**section, "split": "train[:40%]+test"})
    check(both, files[:2] + more, places[:2] + more_places)
    with pytest.raises(ConfigError, match=r"every must be .* got 0"):
        open_source({**section, "split": "train", "every": 0})
    with pytest.raises(
        ConfigError, match=r"unknown light 'gama': did you mean 'gamma'"
    ):
        open_source({**section, "split": "train", "light": "gama"})
    with pytest.raises(ConfigError, match=r"gopro/linear has no split 'valid'"):
        open_source({**section, "split": "valid"})


@pytest.mark.parametrize(("kind", "light"), [("input", "gamma"), ("blur", "linear")])
def test_regrouped_gopro_finds_sequences_in_names(made, tmp_path, kind, light):
    made.gopro_regrouped(tmp_path / "raw")
    if kind == "blur":
        for split in ("train", "test"):
            folder = tmp_path / "raw" / split
            (folder / "input").rename(folder / "blur")
            (folder / "target").rename(folder / "sharp")
    name, out = f"gopro/{light}", tmp_path / "out"
    counts = {"train": 2, "test": 1}
    prepare_dataset(name, source_dir=tmp_path / "raw", data_dir=out, counts=counts)
    source = PreparedPairs(name, "train", data_dir=out)
    assert [source.place(i) for i in range(2)] == [
        ("GOPR0372_07_00", 48),
        ("GOPR0374_11_00", 47),
    ]
    name = "train/{}/GOPR0374_11_00-000047.png"
    np.testing.assert_array_equal(source[1]["image"], made.pixels(name.format("input")))
    np.testing.assert_array_equal(
        source[1]["sharp"], made.pixels(name.format("target"))
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_reds_has_clips_of_either_kind(raw, prepared, compressed):
    source = open_source(
        {
            "name": "reds",
            "split": "train",
            "compressed": compressed,
            "data_dir": str(prepared),
        }
    )
    top = raw / "reds" / "REDS" / "train"
    kind = "train_blur_comp" if compressed else "train_blur"
    places = [("000", 0), ("000", 1), ("001", 0), ("001", 1)]
    files = [
        tuple(top / k / clip / f"{n:08d}.png" for k in (kind, "train_sharp"))
        for clip, n in places
    ]
    check(source, files, places)
    section = {"name": "reds", "split": "valid", "data_dir": str(prepared)}
    assert len(open_source({**section, "compressed": compressed})) == 2


def test_reds_is_read_without_the_outer_folders_too(raw, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(
            raw / "reds" / "REDS" / split, tmp_path / "raw", dirs_exist_ok=True
        )
    counts = {"train": 4, "valid": 2}
    found = prepare_dataset(
        "reds/blur", source_dir=tmp_path / "raw", data_dir=tmp_path / "o", counts=counts
    )
    assert found == counts


def test_dvd_is_split_by_the_published_list_of_videos(raw, prepared):
    top = raw / "dvd" / "DeepVideoDeblurring_Dataset" / "quantitative_datasets"
    for split, places in (
        ("train", [("C0036", 0), ("IMG_0001", 0), ("IMG_0001", 1)]),
        ("test", [("720p_240fps_2", 0)]),
    ):
        files = [
            tuple(top / v / kind / f"{n:05d}.jpg" for kind in ("input", "GT"))
            for v, n in places
        ]
        section = {"name": "dvd", "split": split, "data_dir": str(prepared)}
        check(open_source(section), files, places)


def test_regrouped_dvd_keeps_its_split(made, tmp_path):
    made.dvd_regrouped(tmp_path / "raw")
    counts = {"train": 1, "test": 1}
    prepare_dataset(
        "dvd", source_dir=tmp_path / "raw", data_dir=tmp_path / "out", counts=counts
    )
    source = PreparedPairs("dvd", "test", data_dir=tmp_path / "out")
    assert source.place(0) == ("IMG_0030", 0)


def test_koehler_pairs_each_picture_with_its_middle_frame(raw, prepared, made):
    source = open_source({"name": "koehler", "data_dir": str(prepared)})
    top = raw / "koehler"
    files = [
        (
            top / f"Blurry1_{k}.png",
            top / "Image1" / f"Kernel{k}" / f"GroundTruth1_{k}_10.png",
        )
        for k in (2, 10)
    ]
    check(source, files, [("1", 2), ("1", 10)])
    frames = list(sharp_frames(top, 1, 10))
    assert [number for number, _ in frames] == [9, 10, 11]
    name = "Image1/Kernel10/GroundTruth1_10_9.png"
    np.testing.assert_array_equal(frames[0][1], made.pixels(name))
    with pytest.raises(DataError, match=r"no sharp frames in .*Kernel3: expected"):
        list(sharp_frames(top, 1, 3))


def test_packed_sharp_frames_of_koehler_are_named(raw, tmp_path):
    shutil.copytree(raw / "koehler", tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "Image1" / "Kernel2")
    (tmp_path / "raw" / "GroundTruth1_2.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"GroundTruth1_2\.mat is not read: save its"):
        prepare_dataset(
            "koehler",
            source_dir=tmp_path / "raw",
            data_dir=tmp_path / "out",
            counts=COUNTS["koehler"],
        )


def test_nfs_blurs_around_every_eightieth_frame(prepared, made):
    source = open_source({"name": "nfs", "data_dir": str(prepared)})
    # Frame 121 of the second sequence misses its neighbour 120.
    assert [source.place(i) for i in range(3)] == [
        ("airplane", 41),
        ("bag", 41),
        ("bag", 201),
    ]
    lengths = []
    for i in range(3):
        sequence, middle = source.place(i)
        np.testing.assert_array_equal(
            source[i]["sharp"],
            made.pixels(f"{sequence}/240/{sequence}/{middle:05d}.png"),
        )
        for window in WINDOWS:
            numbers = range(middle - window // 2, middle + window // 2 + 1)
            frames = [
                made.pixels(f"{sequence}/240/{sequence}/{n:05d}.png") for n in numbers
            ]
            light = np.mean([(f / 255.0) ** 2.2 for f in frames], axis=0)
            if np.abs(255 * light ** (1 / 2.2) - source[i]["image"]).max() < 0.51:
                lengths.append(window)
    assert len(lengths) == 3
    assert set(lengths) <= {7, 9, 11, 13}


@pytest.mark.parametrize("name", COUNTS)
def test_documented_counts_are_checked_and_nothing_half_written_stays(
    raw, tmp_path, name
):
    source = raw / name.partition("/")[0]
    match = r"split '\w+' has \d+ (pairs|sequences), not [\d,]+: get the official"
    with pytest.raises(DataError, match=match):
        prepare_dataset(name, source_dir=source, data_dir=tmp_path)
    assert data_files(tmp_path) == []
    command = re.escape(f"--dataset={name} (layouts: docs/data.md)")
    with pytest.raises(DataError, match=command):
        PreparedPairs(name, "train", data_dir=tmp_path)


@pytest.mark.parametrize("name", COUNTS)
def test_missing_folders_give_the_layout_in_one_line(tmp_path, name):
    with pytest.raises(DataError, match=r"^no .*expected .*(png|jpg)") as caught:
        prepare_dataset(name, source_dir=tmp_path, data_dir=tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_set_of_several_forms_asks_which(tmp_path):
    with pytest.raises(
        ConfigError, match="'gopro': choose gopro/gamma or gopro/linear"
    ):
        prepare_dataset("gopro", source_dir=tmp_path, data_dir=tmp_path)


@pytest.fixture
def broken(raw, tmp_path):
    """A copy of GoPro to break: its folder of the first sequence."""
    shutil.copytree(raw / "gopro", tmp_path / "raw")
    return tmp_path / "raw" / "GOPRO_Large" / "train" / "GOPR0372_07_00"


def prepare_broken(folder):
    tmp = folder.parents[3]
    return prepare_dataset(
        "gopro/linear",
        source_dir=tmp / "raw",
        data_dir=tmp / "out",
        counts=COUNTS["gopro/linear"],
    )


def test_unequal_folders_are_named(broken):
    (broken / "blur" / "000048.png").unlink()
    match = r"GOPR0372_07_00: 0 of 2 .* 1 of 3 the other way round: .*sharp/000048\.png"
    with pytest.raises(DataError, match=match):
        prepare_broken(broken)


def test_a_sequence_without_a_folder_is_named(broken):
    shutil.rmtree(broken / "sharp")
    with pytest.raises(DataError, match=r"no folder .*GOPR0372_07_00/sharp"):
        prepare_broken(broken)


def test_frames_without_a_number_are_named(broken):
    for kind in ("blur", "sharp"):
        (broken / kind / "000048.png").rename(broken / kind / "frame.png")
    with pytest.raises(DataError, match=r"frame\.png: no number of a frame"):
        prepare_broken(broken)


def damage(path):
    path.write_bytes(path.read_bytes()[:60])


def test_damaged_or_unequal_files_end_the_preparation_and_leave_nothing(broken):
    Image.new("RGB", (8, 5)).save(broken / "sharp" / "000048.png")
    with pytest.raises(MediaError, match=r"48\.png has 5x7 pixels and .*48\.png 5x8"):
        prepare_broken(broken)
    damage(broken / "blur" / "000047.png")
    with pytest.raises(MediaError, match=r"blur/000047\.png"):
        prepare_broken(broken)
    assert data_files(broken.parents[3] / "out") == []


def test_a_damaged_record_is_skipped_and_counted_by_the_loader(broken, monkeypatch):
    damage(broken / "blur" / "000048.png")
    with monkeypatch.context() as m:
        m.setattr(
            paired, "decode_pair", lambda *_: None
        )  # damaged after it was checked
        prepare_broken(broken)
    tmp = broken.parents[3]
    source = PreparedPairs("gopro/linear", "train", data_dir=tmp / "out")
    report = tmp / "report.jsonl"
    arguments = {"batch_size": 5, "on_error": "skip", "report": report}
    (batch,) = eval_batches(source, max_skipped=0.2, **arguments)
    np.testing.assert_array_equal(batch["mask"], [1, 0, 1, 1, 1])
    assert batch["image"].shape == batch["sharp"].shape == (5, 5, 7, 3)
    (line,) = report.read_text().splitlines()
    assert json.loads(line)["index"] == 1
    with pytest.raises(DataError, match="1 of 5 examples cannot be read"):
        list(eval_batches(source, max_skipped=0.1, **arguments))
    with pytest.raises(MediaError):
        source[1]


def test_order_holds_over_many_files_and_beyond_what_tfds_keeps_in_memory(
    raw, tmp_path, monkeypatch
):
    monkeypatch.setattr(base, "_SHARD", 2)
    monkeypatch.setattr(
        shuffle, "MAX_MEM_BUFFER_SIZE", 10
    )  # then it asks for TensorFlow
    prepare_dataset(
        "gopro/linear",
        source_dir=raw / "gopro",
        data_dir=tmp_path,
        counts=COUNTS["gopro/linear"],
    )
    assert len(list(tmp_path.rglob("*train.array_record*"))) == 3
    source = PreparedPairs("gopro/linear", "train", data_dir=tmp_path)
    check(source, *gopro_files(raw, "train", "blur"))
