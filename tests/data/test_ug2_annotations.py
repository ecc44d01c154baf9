"""Annotation files of videos: which rows count, and how each mistake reads."""

import pytest

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.ug2.annotations import (
    Annotation,
    Box,
    class_name,
    read_annotations,
    usable,
)

ROWS = """\
0 10 20 110 70 3 0 0 0 "farm_machines"
0 12 20 112 70 4 0 1 1 "farm_machines"
1 0 0 0 0 4 1 0 0 "car1" "moving"

1 0 0 200 100 5 0 0 1 "car1"
"""


@pytest.fixture
def write(tmp_path):
    def put(text):
        (tmp_path / "v.txt").write_text(text)
        return tmp_path / "v.txt"

    return put


def test_rows_are_read_field_by_field(write):
    found = read_annotations(write(ROWS))
    assert found[0] == Annotation(
        0, Box(10, 20, 110, 70), 3, False, False, False, "FarmMachines"
    )
    assert [a.label for a in found] == ["FarmMachines"] * 2 + ["Car1"] * 2
    assert found[1].occluded
    assert found[1].generated
    assert found[2].lost


def test_only_objects_in_full_view_count(write):
    kept = usable(read_annotations(write(ROWS)))
    assert [(a.track, a.frame) for a in kept] == [(0, 3), (1, 5)]


def test_sequences_have_a_header_and_plain_labels(write):
    text = (
        "track xmin ymin xmax ymax frame lost occluded generated label\n"
        "7 1 2 3 4 9 0 0 0 Car1\n"
    )
    (found,) = read_annotations(write(text))
    assert (found.track, found.frame, found.label) == (7, 9, "Car1")


def test_class_names_capitalise_every_part():
    assert class_name("resolution_chart") == "ResolutionChart"
    assert class_name("street_signs") == "StreetSigns"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '0 10 20 110 70 3 0 0 "car1"',
            r"line 2: 9 fields of 10: expected: track xmin",
        ),
        ("0 10 20 110 70 3 0 0 0", r"line 2: 9 fields of 10"),
        ('0 10 20 110 70 3 0 0 0 "car1', r"line 2: 10 fields of 10|fields of 10"),
        ('0 10 20 110 70 3 0 0 0 ""', r"line 2: 9 fields of 10"),
        ('0 10 x 110 70 3 0 0 0 "car1"', "line 2: a number is none"),
        ('0 10 20 110 70 3 2 0 0 "car1"', "lost 2"),
        ('0 10 20 110 70 -3 0 0 0 "car1"', "frame -3"),
        (
            '0 10 20 10 70 3 0 0 0 "car1"',
            r"line 2: the box \(10, 20, 10, 70\) .* is empty",
        ),
        ('0 10 20 201 70 3 0 0 0 "car1"', r"leaves the frame of 200x100"),
        ('0 -1 20 110 70 3 0 0 0 "car1"', r"leaves the frame of 200x100"),
        ('0 10 20 110 101 3 0 1 0 "car1"', r"leaves the frame of 200x100"),
        ('0 10 20 110 70 3 0 0 0 "cra1"', "line 2: unknown class 'Cra1': .*'Car1'"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(write, row, message):
    path = write(f'0 10 20 110 70 3 0 0 0 "car1"\n{row}\n')
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(path, classes=("Car1", "FarmMachines"), size=(100, 200))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_box_of_a_lost_object_is_not_looked_at(write):
    assert len(read_annotations(write(ROWS), size=(100, 200))) == 4


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_annotations(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(DataError, match="no text"):
        read_annotations(tmp_path / "binary")
