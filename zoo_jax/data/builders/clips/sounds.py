"""Sets of labelled sounds: ESC-50 and AudioSet."""

import csv
import pathlib
import re
from collections.abc import Iterator

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.clips.make import Annotations, Row, find_file, read_text

_AUDIOSET = {
    "balanced_train": 22_160,
    "eval": 20_371,
    "unbalanced_train": 2_041_789,
}


def esc50(folder: pathlib.Path) -> Annotations:
    """``meta/esc50.csv`` and ``audio/*.wav``: five official folds of 400 recordings."""
    path = find_file(folder, "esc50.csv")

    def rows() -> Iterator[Row]:
        for row in csv.DictReader(read_text(path).splitlines()):
            try:
                record = {"label": row["category"], "fold": int(row["fold"])}
                yield Row(row["filename"], {**record, "split": row["fold"]}, "audio")
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}: a row lacks or spoils {error}") from None

    return Annotations(rows(), {str(k): 400 for k in range(1, 6)}, whole=True)


def audioset(folder: pathlib.Path) -> Annotations:
    """``{balanced_train,unbalanced_train,eval}_segments.csv``, as many of them as there are.

    With them ``class_labels_indices.csv``, and media ``<id>.*`` (the whole video; the manifest
    has the times) or ``<id>_<start>.*`` (cut out; start in whole seconds or milliseconds).
    """
    names = {}
    path = find_file(folder, "class_labels_indices.csv")
    for row in csv.DictReader(read_text(path).splitlines()):
        names[row["mid"]] = row["display_name"]
    if len(names) != 527:
        raise DataError(f"{path}: has {len(names)} classes, AudioSet has 527")
    tables = {
        split: found[0]
        for split in _AUDIOSET
        if (found := sorted(folder.rglob(f"{split}_segments.csv")))
    }
    if not tables:
        raise DataError(f"{folder}: has no *_segments.csv (layouts: docs/data.md)")
    cut = {p.stem for p in folder.rglob("*_*.*")}

    def rows() -> Iterator[Row]:
        for split, path in tables.items():
            for number, line in enumerate(read_text(path).splitlines(), start=1):
                if line.startswith("#") or not line.strip():
                    continue
                parts = re.fullmatch(
                    r'(\S{11}), ([\d.]+), ([\d.]+), "([^"]+)"', line.strip()
                )
                if not parts:
                    raise DataError(f"{path}:{number}: {line!r} is not a segment")
                name, start, end, mids = parts.groups()
                unknown = [m for m in mids.split(",") if m not in names]
                if unknown:
                    raise DataError(f"{path}:{number}: {unknown[0]!r} is no class")
                labels = [names[m] for m in mids.split(",")]
                record = {"id": name, "label": labels, "split": split}
                start, end = float(start), float(end)
                stems = (f"{name}_{start:g}", f"{name}_{1000 * start:.0f}")
                stem = next((s for s in stems if s in cut), None)
                if stem:
                    yield Row(stem, record)
                else:
                    yield Row(name, {**record, "start": start, "end": end})

    expected = {split: _AUDIOSET[split] for split in tables}
    return Annotations(rows(), expected, whole=False)
