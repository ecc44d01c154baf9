"""Maps from labels to ImageNet classes: published, corrected, and one's own."""

import hashlib
import pathlib
import zipfile

import numpy as np
import pytest

from zoo_jax.core.errors import DataError
from zoo_jax.methods.ug2.class_map import (
    CRANE_BIRD,
    CRANE_MACHINE,
    ClassMap,
    class_map_of,
)
from zoo_jax.methods.ug2.synsets import SYNSETS

GOLDEN = pathlib.Path(__file__).parents[2] / "fixtures" / "golden" / "ug2_metrics.npz"
PUBLISHED_FORM = """\
ID\tUG2Class\tINetDesc
n01440764\tFish\ttench
n01443537\tFish\tgoldfish, "Carassius auratus
n02012849\tConstructionMachinery\tcrane
n03384352\tConstructionMachinery\tforklift
n01443537\tPet\tgoldfish
"""


@pytest.fixture
def write(tmp_path):
    def put(text):
        (tmp_path / "map.txt").write_text(text, encoding="utf-8")
        return tmp_path / "map.txt"

    return put


@pytest.fixture
def official(shared, tmp_path):
    archive = zipfile.ZipFile(shared("data", "ug2_samples", "ug2_samples.zip"))
    (name,) = (n for n in archive.namelist() if n.endswith("UG2ImageNet.txt"))
    (tmp_path / "UG2ImageNet.txt").write_bytes(archive.read(name))
    return tmp_path / "UG2ImageNet.txt"


def test_synsets_are_those_of_ilsvrc_in_the_order_of_their_ids():
    assert len(set(SYNSETS)) == 1000
    assert list(SYNSETS) == sorted(SYNSETS)
    known = {0: "n01440764", 134: "n02012849", 517: "n03126707", 999: "n15075141"}
    assert {i: SYNSETS[i] for i in known} == known
    import tensorflow_datasets

    root = pathlib.Path(tensorflow_datasets.__file__).parent
    listed = root / "datasets" / "imagenet2012" / "labels.txt"
    if not listed.is_file():
        pytest.skip(
            "this version of tensorflow_datasets has no imagenet2012/labels.txt"
        )
    assert list(SYNSETS) == listed.read_text().split()


def test_the_published_form_is_read_by_its_ids(write):
    found = ClassMap.read(write(PUBLISHED_FORM))
    assert found.names == ("ConstructionMachinery", "Fish", "Pet")
    assert [np.flatnonzero(row).tolist() for row in found.members] == [
        [SYNSETS.index(CRANE_BIRD), SYNSETS.index("n03384352")],
        [0, 1],
        [1],
    ]
    assert found.members.shape == (3, 1000)


def test_the_corrected_map_has_the_machine_in_place_of_the_bird(write):
    path = write(PUBLISHED_FORM)
    found = ClassMap.read(path, corrected=True)
    bird, machine = SYNSETS.index(CRANE_BIRD), SYNSETS.index(CRANE_MACHINE)
    assert found.members[0, machine]
    assert not found.members[0, bird]
    # Nothing else changes.
    published = ClassMap.read(path).members.copy()
    published[0, [bird, machine]] = False, True
    np.testing.assert_array_equal(found.members, published)


def test_the_published_map_has_the_counted_sizes(official):
    golden = np.load(GOLDEN)
    data = official.read_bytes()
    assert hashlib.sha256(data).hexdigest() == str(golden["map/sha256_file"])
    found = ClassMap.read(official)
    assert found.names == tuple(golden["map/classes"])
    np.testing.assert_array_equal(found.members.sum(axis=1), golden["map/counts"])
    rows, synsets, classes = golden["map/rows_distinct_synsets_classes"]
    assert found.members.sum() == rows == 228
    assert found.members.any(axis=0).sum() == synsets == 192
    assert len(found.names) == classes == 47
    shared_by_two = (found.members.sum(axis=0) >= 2).sum()
    assert shared_by_two == golden["map/synsets_in_two_or_more_classes"]
    # The bird leaves the machines; which other birds count is left as published.
    corrected = ClassMap.read(official, corrected=True)
    bird, machine = SYNSETS.index(CRANE_BIRD), SYNSETS.index(CRANE_MACHINE)
    row = found.names.index("ConstructionMachinery")
    assert found.members[row, [bird, machine]].tolist() == [True, False]
    assert corrected.members[row, [bird, machine]].tolist() == [False, True]
    assert (found.members != corrected.members).sum() == 2


@pytest.mark.parametrize("tab", [",", "\t"])
def test_own_labels_take_numbers_and_ids(write, tab):
    rows = [
        ("class", "members"),
        ("cup", "504 968"),
        ("pizza", "n07873807"),
        ("cup", "0"),
    ]
    found = ClassMap.read(write("\n".join(tab.join(row) for row in rows)))
    assert found.names == ("cup", "pizza")
    cup, pizza = (np.flatnonzero(row).tolist() for row in found.members)
    assert cup == [0, 504, 968]
    assert pizza == [963]


def test_another_recogniser_has_another_order(write):
    found = ClassMap.read(
        write("class,members\na,n2\nb,n1 n3\n"), order=["n1", "n2", "n3"]
    )
    np.testing.assert_array_equal(
        found.members, [[False, True, False], [True, False, True]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("class,members\n", "has no rows"),
        ("name;what\n", r"header 'name;what': expected a header 'class,members'"),
        ("class,members\ncup,1000\n", r"line 2: '1000' is none of the 1000 classes"),
        ("class,members\ncup,n99\n", r"line 2: 'n99' is none of"),
        ("class,members\ncup\n", "line 2: a field is missing"),
        ("ID\tUG2Class\tINetDesc\nn01440764\t\ttench\n", "line 2: a field is missing"),
    ],
)
def test_bad_files_are_one_line(write, text, message):
    with pytest.raises(DataError, match=message) as caught:
        ClassMap.read(write(text))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        ClassMap.read(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no text in UTF-8"):
        ClassMap.read(tmp_path / "binary")


def test_labels_are_numbered_and_unknown_ones_named():
    known = class_map_of({"Car1": [1, 2], "Bird": [0]}, classes=4)
    assert known.indices(["Car1", "Bird", "Car1"]).tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"a\.png: 'Car' is no label .*mean 'Car1'"):
        known.indices(["Car"], where="a.png")


@pytest.mark.parametrize("classes", [[], [0, 1, 2]])
def test_a_label_needs_some_classes_but_not_all(classes):
    with pytest.raises(DataError, match=r"label 'x' has \d of 3 classes"):
        class_map_of({"x": classes, "y": [1]}, classes=3)
