"""Folders of labelled pictures, and of the same pictures enhanced."""

import pathlib
import zipfile

import numpy as np
import pytest
from scoring import picture, save

from zoo_jax.core.errors import DataError
from zoo_jax.methods.ug2.class_map import ClassMap
from zoo_jax.methods.ug2.pictures import find_pictures, match_entry, read_pair

RED = picture("red")


def put(folder, *names):
    for name in names:
        save(folder / name, RED)
    return folder


def test_folders_of_classes_are_read_with_or_without_videos(tmp_path):
    put(tmp_path, "cup/b.png", "cup/a.jpg", "pizza/v1/0.png", "pizza/v1/1.png")
    put(tmp_path, ".hidden/x.png", "cup/.y.png")
    found = find_pictures(tmp_path)
    assert [(p.key, p.label, p.video, p.collection) for p in found] == [
        ("cup/a", "cup", "cup/a", ""),
        ("cup/b", "cup", "cup/b", ""),
        ("pizza/v1/0", "pizza", "pizza/v1", ""),
        ("pizza/v1/1", "pizza", "pizza/v1", ""),
    ]


def test_published_names_hold_class_video_and_collection(tmp_path):
    put(
        tmp_path,
        "Car1_AV00020_2_1689.png",
        "Bicycle_bicycle_60_na_cloudy_gopro_0_33.png",
    )
    found = find_pictures(tmp_path)
    assert [p[2:] for p in found] == [
        ("Bicycle", "bicycle_60_na_cloudy_gopro", "ground"),
        ("Car1", "AV00020", "air"),
    ]


def test_a_file_of_labels_names_the_class_and_may_name_the_video(tmp_path):
    put(tmp_path / "data", "x.png", "y.png", "Rel_AV00056_1_2413.jpg")
    labels = tmp_path / "labels.txt"
    labels.write_text("x\tCup\tv7\ny\tCup\n\nRel_AV00056_1_2413\tChurch\nother\tCup\n")
    found = find_pictures(tmp_path / "data", labels=labels)
    assert [(p.label, p.video) for p in found] == [
        ("Church", "AV00056"),
        ("Cup", "v7"),
        ("Cup", "y"),
    ]


def test_the_official_samples_are_found_with_their_labels(shared, tmp_path):
    zipfile.ZipFile(shared("data", "ug2_samples", "ug2_samples.zip")).extractall(
        tmp_path
    )
    (labels,) = tmp_path.rglob("sampleInput_Eqs.txt")
    found = find_pictures(labels.parent / "SampleInput", labels=labels)
    assert len(found) == 20
    known = ClassMap.read(labels.parent / "UG2ImageNet.txt")
    known.indices([p.label for p in found])
    assert len({p.video for p in found}) == 8


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        ([], None, "no pictures in it: expected <class>/<picture>"),
        (["cup/a.png", "b.png"], None, r"has b\.png beside the folder cup"),
        (["cup/a.png", "cup/a.jpg"], None, r"cup/a\.png: has the same name as a\.jpg"),
        (["image_0001.png"], None, r"its name says no class: .*\(--labels\)"),
        (["x.png"], "y\tCup\n", "has no line for x"),
        (["x.png"], "x\n", r"line 1: expected name<TAB>class"),
        (["x.png"], "x\tCup\nx\tCup\n", r"line 2: 'x' is there twice"),
        (["cup/x.png"], "x\tCup\n", "has folders of classes: leave --labels out"),
    ],
)
def test_mistakes_in_a_folder_are_one_line(tmp_path, names, labels, message):
    (tmp_path / "data").mkdir()
    put(tmp_path / "data", *names)
    path = None
    if labels is not None:
        path = tmp_path / "labels.txt"
        path.write_text(labels)
    with pytest.raises(DataError, match=message) as caught:
        find_pictures(tmp_path / "data", labels=path)
    assert "\n" not in str(caught.value)


def test_absent_folders_and_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_pictures(tmp_path / "none")
    put(tmp_path, "x.png")
    with pytest.raises(DataError, match="none: cannot be read"):
        find_pictures(tmp_path, labels=tmp_path / "none")
    with pytest.raises(DataError, match="no such folder of enhanced pictures"):
        match_entry(find_pictures(put(tmp_path / "d", "a/x.png")), tmp_path / "none")


def test_an_entry_has_every_picture_under_its_own_name(tmp_path):
    pictures = find_pictures(
        put(tmp_path / "data", "cup/a.png", "cup/b.jpg", "pan/c.png")
    )
    entry = put(tmp_path / "entry", "cup/a.png", "cup/b.png", "more/x.png")
    with pytest.raises(
        DataError, match=r"1 of 3 pictures are missing: pan/c: an entry"
    ):
        match_entry(pictures, entry)
    put(entry, "pan/c.png")
    found = match_entry(pictures, entry)
    assert found["cup/b"] == entry / "cup" / "b.png"
    put(entry, "cup/b.webp")
    with pytest.raises(DataError, match=r"b\.webp: has the same name as b\.png"):
        match_entry(pictures, entry)


def test_a_pair_of_two_sizes_names_both(tmp_path):
    save(tmp_path / "e.png", RED[:5])
    message = r"e\.png: has 11x5 pixels and o\.png 11x9: both must have one size"
    with pytest.raises(DataError, match=message):
        read_pair(pathlib.Path("o.png"), tmp_path / "e.png", RED.shape)
    image = read_pair(pathlib.Path("o.png"), tmp_path / "e.png", RED[:5].shape)
    np.testing.assert_array_equal(image, RED[:5])
