"""Sets of labelled actions: UCF101, HMDB51, Kinetics."""

import csv
import pathlib
from collections.abc import Iterator

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.clips.make import Annotations, Row, find_file, read_text

_UCF101 = {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)}
_KINETICS_COLUMNS = {"label", "youtube_id", "time_start", "time_end"}


def ucf101(folder: pathlib.Path, number: str) -> Annotations:
    """``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt`` and ``UCF-101/<class>/*.avi``."""
    classes = {}
    path = find_file(folder, "classInd.txt")
    for line in read_text(path).splitlines():
        if line.strip():
            index, _, name = line.partition(" ")
            if not index.isdigit() or not name.strip():
                raise DataError(f"{path}: {line!r} is not a number and a class")
            classes[name.strip()] = int(index) - 1

    def rows() -> Iterator[Row]:
        for split in ("train", "test"):
            path = find_file(folder, f"{split}list0{number}.txt")
            for line in read_text(path).split("\n"):
                if not line.strip():
                    continue
                file = line.split()[0]  # a test list has no number behind it
                name = file.partition("/")[0]
                if name not in classes:
                    raise DataError(
                        f"{path}: {line!r}: the class is none of {len(classes)}"
                    )
                yield Row(file, {"label": name, "split": split})

    train, test = _UCF101[number]
    return Annotations(rows(), {"train": train, "test": test}, whole=True)


def hmdb51(folder: pathlib.Path, number: str) -> Annotations:
    """``<class>_test_splitN.txt`` for each class, and ``<class>/*.avi``.

    A line is a file and 1 (train), 2 (test) or 0 (in neither).
    """
    ending = f"_test_split{number}.txt"

    def rows() -> Iterator[Row]:
        find_file(folder, f"*{ending}")
        for path in sorted(folder.rglob(f"*{ending}"), key=lambda p: p.name):
            name = path.name[: -len(ending)]
            for line in read_text(path).splitlines():
                parts = line.split()
                if parts and (len(parts) != 2 or parts[1] not in "012"):
                    raise DataError(f"{path}: {line!r} is not a file and 0, 1 or 2")
                if parts and parts[1] != "0":
                    split = "train" if parts[1] == "1" else "test"
                    yield Row(f"{name}/{parts[0]}", {"label": name, "split": split})

    return Annotations(rows(), {"train": 51 * 70, "test": 51 * 30}, whole=True)


def kinetics(folder: pathlib.Path, classes: str) -> Annotations:
    """``{train,validate,val,test}.csv``, and videos ``<id>_<start>_<end>.mp4`` or ``<id>.mp4``.

    The first is a clip that was cut out already: six digits of whole seconds. The second is a
    whole video, and the manifest has the times. The number of classes is checked; clips come
    and go with the web.
    """
    names = [*folder.rglob("*.csv")]
    tables = {}
    for path in sorted(names, key=lambda p: (len(p.parts), p)):
        for split in ("train", "val", "test"):
            if split in path.stem:
                tables.setdefault(split, path)
    if "train" not in tables:
        raise DataError(f"{folder}: has no train.csv (layouts: docs/data.md)")
    parsed = {split: _table(path) for split, path in tables.items()}
    labels = {row["label"] for row in parsed["train"]}
    if len(labels) != int(classes):
        raise DataError(
            f"{tables['train']}: has {len(labels)} classes, not the {classes} of kinetics/"
            f"{classes}"
        )
    cut = {p.stem for p in folder.rglob("*_??????_??????.*")}

    def rows() -> Iterator[Row]:
        for split, table in parsed.items():
            for row in table:
                start, end = float(row["time_start"]), float(row["time_end"])
                record = {
                    "label": row["label"],
                    "split": split,
                    "id": row["youtube_id"],
                }
                if not row["label"]:  # test labels of some releases are withheld
                    continue
                stem = f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}"
                if stem in cut:
                    yield Row(stem, record)
                else:
                    yield Row(row["youtube_id"], {**record, "start": start, "end": end})

    return Annotations(rows(), None, whole=False)


def _table(path: pathlib.Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(read_text(path).splitlines()))
    missing = sorted(_KINETICS_COLUMNS - set(rows[0] if rows else ()))
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}")
    for row in rows:
        try:
            float(row["time_start"]), float(row["time_end"])
        except (TypeError, ValueError):
            raise DataError(
                f"{path}: the times of {row['youtube_id']!r} are not numbers"
            ) from None
    return rows
