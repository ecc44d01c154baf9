"""YouTube-8M: ids and labels out of its records, read without TensorFlow."""

import csv
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.clips.make import Annotations, Row, find_file, read_text

_MOST = 256 * 2**20  # bytes of one record


def youtube8m(folder: pathlib.Path) -> Annotations:
    """``{train,validate,test}*.tfrecord``, ``vocabulary.csv``, ``ids.csv``; videos ``<id>.*``.

    Records name a video by four characters; ``ids.csv`` has two columns without a heading,
    that name and the id of the video on the web, as data.yt8m.org gives them out one by one.
    Labels are those of the whole video, by name. Videos and sentences are not published:
    what a paper calls text per clip must come from elsewhere.
    """
    path = find_file(folder, "vocabulary.csv")
    table = csv.DictReader(read_text(path).splitlines())
    try:
        names = {int(row["Index"]): row["Name"] for row in table}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: has no column of numbers {error}") from None
    path = find_file(folder, "ids.csv")
    web = dict(row[:2] for row in csv.reader(read_text(path).splitlines()) if row)

    def rows() -> Iterator[Row]:
        for split in ("train", "validate", "test"):
            for path in sorted(folder.rglob(f"{split}*.tfrecord")):
                for record in read_records(path):
                    features = read_example(record, str(path))
                    short = _id(features, path)
                    labels = [names.get(i, str(i)) for i in features.get("labels", ())]
                    line = {"id": short, "label": labels, "split": split}
                    yield Row(web.get(short, f"{short} (not in ids.csv)"), line)

    if not any(folder.rglob("*.tfrecord")):
        raise DataError(f"{folder}: has no *.tfrecord (layouts: docs/data.md)")
    return Annotations(rows(), None, whole=False)


def _id(features: dict[str, list], path: pathlib.Path) -> str:
    for key in ("id", "video_id"):  # of version 2 and version 1
        if features.get(key):
            return features[key][0].decode("ascii", "replace")
    raise DataError(f"{path}: a record has no id")


def read_records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, data, its checksum.

    Checksums are not verified.

    Raises:
      DataError: for a file that is cut off, or a length that cannot be.
    """
    with path.open("rb") as file:
        while head := file.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else _MOST + 1
            data = file.read(length + 4) if length <= _MOST else b""
            if len(data) != length + 4:
                raise DataError(f"{path}: a record is cut off: get the file again")
            yield data[:-4]


def read_example(data: bytes, where: str) -> dict[str, list]:
    """Bytes and whole numbers of a serialised ``tf.train.Example``, by feature.

    Raises:
      DataError: for data that is none.
    """
    features: dict[str, list] = {}
    try:
        for _, entries in _fields(data):  # Example.features
            for _, entry in _fields(entries):  # the map
                parts = dict(_fields(entry))
                ((kind, values),) = _fields(parts[2])  # a list of one kind
                features[parts[1].decode()] = _values(kind, values)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: a record that is no tf.train.Example: {error}"
        ) from None
    return features


def _values(kind: int, data: bytes) -> list:
    if kind == 1:  # bytes
        return [value for _, value in _fields(data)]
    if kind != 3:  # floats are not needed
        return []
    out = []
    for _, value in _fields(data):
        if isinstance(value, int):
            out.append(value)
            continue
        place = 0
        while place < len(value):  # packed
            number, place = _varint(value, place)
            out.append(number)
    return out


def _fields(data: bytes) -> list[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer message."""
    out, place = [], 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(data, place)
        elif kind == 2:
            length, place = _varint(data, place)
            value = data[place : place + length]
            if len(value) != length:
                raise ValueError("a field is cut off")
            place += length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, place = data[place : place + width], place + width
        else:
            raise ValueError(f"a field of kind {kind}")
        out.append((tag >> 3, value))
    return out


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
        if shift > 63:
            raise ValueError("a number that is too long")
