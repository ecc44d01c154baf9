"""A leaderboard on disk: appended whole, checked, and open to others."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from scoring import make_folder, picture, save

from zoo_jax.core.errors import DataError
from zoo_jax.methods.ug2.leaderboard import (
    COLUMNS,
    append,
    fingerprint,
    make_entries,
    read_leaderboard,
)
from zoo_jax.methods.ug2.pictures import find_pictures


def result(restorer="srnet", score=0.5, **more):
    row = {
        "collection": "all",
        "restorer": restorer,
        "recogniser": "vgg16",
        "metric": "M1",
        "score": score,
        "delta": 0.1,
        "low": -0.05,
        "high": float("nan"),
        "n": 20,
    }
    return row | more


def entries(*rows, **more):
    options = {"data": "abc", "preprocessing": "modern", "date": "2026-01-02"}
    return make_entries(rows, **{**options, **more})


def test_what_is_appended_is_read_again(tmp_path):
    path = tmp_path / "new" / "board.csv"
    assert append(path, entries(result(), result("clahe, tiled", 0.25), note="us")) == 2
    rows = read_leaderboard(path)
    assert [r["restorer"] for r in rows] == ["srnet", "clahe, tiled"]
    assert rows[0] == {
        "data": "abc",
        "collection": "all",
        "recogniser": "vgg16",
        "preprocessing": "modern",
        "metric": "M1",
        "restorer": "srnet",
        "score": "0.500000",
        "delta": "0.100000",
        "low": "-0.050000",
        "high": "",
        "n": "20",
        "date": "2026-01-02",
        "note": "us",
    }
    assert sorted(p.name for p in path.parent.iterdir()) == ["board.csv"]


def test_the_same_result_is_kept_once_and_another_refused(tmp_path):
    path = tmp_path / "board.csv"
    append(path, entries(result()))
    again = entries(result(low=-0.2), date="2027-01-01")
    assert append(path, again) == 0
    before = path.read_bytes()
    message = r"another result of abc all vgg16 modern M1 srnet: score 0\.500000 of 20"
    with pytest.raises(DataError, match=message):
        append(path, entries(result("new"), result(score=0.6)))
    with pytest.raises(DataError, match=r"now 0\.500000 of 19"):
        append(path, entries(result(n=19)))
    assert path.read_bytes() == before  # all or none


def test_other_data_is_another_result(tmp_path):
    path = tmp_path / "board.csv"
    append(path, entries(result()))
    assert append(path, entries(result(score=0.6), data="def")) == 1
    assert append(path, entries(result(score=0.6), preprocessing="official")) == 1


def test_two_of_one_name_in_one_call_are_refused(tmp_path):
    with pytest.raises(DataError, match="another result"):
        append(tmp_path / "board.csv", entries(result(), result(score=0.6)))
    assert not (tmp_path / "board.csv").exists()


def test_lines_that_others_write_by_hand_count(tmp_path):
    path = tmp_path / "board.csv"
    append(path, entries(result()))
    with path.open("a") as file:
        file.write('abc,all,vgg16,modern,M1,"Their, method",0.7,0.3,,,20,,lab B\n')
    assert append(path, entries(result("clahe"))) == 1
    assert [r["restorer"] for r in read_leaderboard(path)] == [
        "srnet",
        "Their, method",
        "clahe",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("abc,all,vgg16,modern,M1,x,0.7,0.3,,,20", "line 3: expected 13 fields"),
        ("abc,all,vgg16,modern,M1,x,0.7,0.3,,,20,,,,,", "line 3: expected 13 fields"),
        ("abc,all,,modern,M1,x,0.7,0.3,,,20,,", "line 3: recogniser is empty"),
        ("abc,all,vgg16,modern,M1,x,70,0.3,,,20,,", "line 3: score is '70'"),
        ("abc,all,vgg16,modern,M1,x,nan,0.3,,,20,,", "line 3: score is 'nan'"),
        ("abc,all,vgg16,modern,M1,x,0.7,up,,,20,,", "line 3: delta is 'up'"),
        ("abc,all,vgg16,modern,M1,x,0.7,0.3,,,2.5,,", "line 3: n is '2.5'"),
        ("abc,all,vgg16,modern,M1,x,0.7,0.3,,,0,,", "line 3: n is '0'"),
        ("abc,all,vgg16,modern,M1,srnet,0.7,0.3,,,20,,", "same result as line 2"),
        ('abc,all,vgg16,modern,M1,"x,0.7,0.3,,,20,,', "after line 2: .*end of data"),
    ],
)
def test_bad_lines_are_named_and_nothing_is_written(tmp_path, line, message):
    path = tmp_path / "board.csv"
    append(path, entries(result()))
    with path.open("a") as file:
        file.write(line + "\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match=message) as caught:
        append(path, entries(result("new")))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "board.csv"
    for text in ("", "a,b\n1,2\n", ",".join(COLUMNS[:-1]) + "\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="expected the columns data,collection"):
            read_leaderboard(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="no text"):
        read_leaderboard(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_leaderboard(tmp_path / "none.csv")


def test_writers_that_append_at_once_lose_nothing(tmp_path):
    path = tmp_path / "board.csv"

    def add(i):
        append(path, entries(result(f"entry{i}")))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(12)))
    found = {r["restorer"] for r in read_leaderboard(path)}
    assert found == {f"entry{i}" for i in range(12)}


def test_the_fingerprint_follows_pixels_and_labels_not_places(tmp_path):
    one = find_pictures(make_folder(tmp_path / "a"))
    assert fingerprint(one) == fingerprint(find_pictures(make_folder(tmp_path / "b")))
    relabelled = [one[0]._replace(label="red"), *one[1:]]
    assert fingerprint(one) != fingerprint(relabelled)
    before = fingerprint(one)
    save(one[0].path, picture("green", 99))
    assert fingerprint(one) != before
    one[0].path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        fingerprint(one)
