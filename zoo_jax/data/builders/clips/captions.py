"""Sets of videos with sentences: HowTo100M, YouCook2, MSR-VTT, and one's own."""

import csv
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from zoo_jax.core.errors import DataError
from zoo_jax.data import video
from zoo_jax.data.builders.clips.make import Annotations, Row, find_file, read_text

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_SPAN = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")


def howto100m(folder: pathlib.Path) -> Annotations:
    """``captions/<id>.csv`` (start, end, text), or ``caption.json``; and videos ``<id>.*``.

    The JSON file holds all captions of 1.2 million videos and is read whole: take the folder
    of tables where memory is short. One line of the manifest holds all captions of a video,
    and each becomes a clip.
    """
    tables = folder / "captions"

    def rows() -> Iterator[Row]:
        if tables.is_dir():
            for path in sorted(tables.glob("*.csv")):
                yield from _howto_row(path.stem, _caption_table(path), path)
            return
        path = find_file(folder, "caption.json", "raw_caption.json")
        for name, columns in _json(path).items():
            try:
                captions = list(
                    zip(columns["start"], columns["end"], columns["text"], strict=True)
                )
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}: captions of {name!r}: {error}") from None
            yield from _howto_row(name, captions, path)

    return Annotations(rows(), None, whole=False)


def _howto_row(
    name: str, captions: list[tuple[Any, Any, Any]], path: pathlib.Path
) -> Iterator[Row]:
    kept = []
    for start, end, text in captions:
        try:
            start, end = float(start), float(end)
        except (TypeError, ValueError):
            raise DataError(f"{path}: a time of {name!r} is not a number") from None
        # Speech recognition leaves captions without words, and some of no length.
        if isinstance(text, str) and text.strip() and 0 <= start < end:
            kept.append({"start": start, "end": end, "text": text.strip()})
    if kept:
        yield Row(name, {"id": name, "captions": kept})


def _caption_table(path: pathlib.Path) -> list[tuple[str, str, str]]:
    rows = list(csv.DictReader(read_text(path).splitlines()))
    if rows and not {"start", "end", "text"} <= set(rows[0]):
        raise DataError(f"{path}: has no columns start, end and text")
    return [(row["start"], row["end"], row["text"]) for row in rows]


def youcook2(folder: pathlib.Path) -> Annotations:
    """``youcookii_annotations_trainval.json`` and videos ``<id>.*``.

    Each step of a recipe is a clip; its neighbours are the steps before and behind.
    """
    path = find_file(folder, "youcookii_annotations_trainval*.json")
    splits = {"training": "train", "validation": "val", "testing": "test"}

    def rows() -> Iterator[Row]:
        for name, entry in _json(path).get("database", {}).items():
            try:
                split = splits[entry["subset"]]
                steps = [(*s["segment"], s["sentence"]) for s in entry["annotations"]]
            except (KeyError, TypeError) as error:
                raise DataError(f"{path}: {name!r} lacks {error}") from None
            for number, (start, end, text) in enumerate(steps):
                near = sorted(range(len(steps)), key=lambda i: (abs(i - number), i))[1:]
                yield Row(
                    name,
                    {
                        "id": f"{name}/{number}",
                        "start": float(start),
                        "end": float(end),
                        "text": text,
                        "context": [steps[i][2] for i in near[:4]],
                        "split": split,
                    },
                )

    return Annotations(rows(), {"train": 10_337, "val": 3_492}, whole=False)


def msrvtt(folder: pathlib.Path) -> Annotations:
    """``train_val_videodatainfo.json``, ``test_videodatainfo.json`` and ``<video_id>.mp4``.

    One of them or one file of both; a line for each of the 20 sentences of a video.
    """
    paths = sorted(folder.rglob("*videodatainfo*.json"))
    if not paths:
        find_file(folder, "*videodatainfo*.json")
    names = {"train": "train", "validate": "val", "test": "test"}
    contents = [_json(path) for path in paths]
    splits = {
        v["video_id"]: names[v["split"]]
        for content in contents
        for v in content.get("videos", ())
    }

    def rows() -> Iterator[Row]:
        for path, content in zip(paths, contents, strict=True):
            for sentence in content.get("sentences", ()):
                name = sentence["video_id"]
                if name not in splits:
                    raise DataError(
                        f"{path}: a sentence of {name!r}, which is no video"
                    )
                yield Row(
                    name,
                    {
                        "id": f"{name}/{sentence['sen_id']}",
                        "text": sentence["caption"],
                        "split": splits[name],
                    },
                    counted=name,
                )

    documented = {"train": 6513, "val": 497, "test": 2990}
    present = {s: n for s, n in documented.items() if s in set(splits.values())}
    return Annotations(rows(), present, whole=False)


def msrvtt_1k(folder: pathlib.Path) -> Annotations:
    """``MSRVTT_JSFUSION_test.csv`` and ``<video_id>.mp4``: the 1,000 pairs of retrieval."""
    path = find_file(folder, "MSRVTT_JSFUSION_test.csv")

    def rows() -> Iterator[Row]:
        for row in csv.DictReader(read_text(path).splitlines()):
            try:
                record = {"id": row["key"], "text": row["sentence"], "split": "test"}
                yield Row(row["video_id"], record)
            except KeyError as error:
                raise DataError(f"{path}: has no column {error}") from None

    return Annotations(rows(), {"test": 1000}, whole=False)


def captioned_folder(folder: pathlib.Path) -> Annotations:
    """Videos, each with a file of the same name: ``.srt`` or ``.vtt`` (timed), or ``.txt``.

    A text without times is the sentence of the whole video. A video without such a file is a
    clip without text.
    """
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in video.EXTENSIONS and not p.name.startswith(".")
    )
    if not files:
        raise DataError(
            f"{folder}: no videos: expected {' '.join(sorted(video.EXTENSIONS))}"
        )

    def rows() -> Iterator[Row]:
        for path in files:
            place = str(path.relative_to(folder))
            for suffix in (".srt", ".vtt", ".txt"):
                beside = path.with_suffix(suffix)
                if beside.is_file():
                    yield Row(place, _beside(beside))
                    break
            else:
                yield Row(place, {})

    return Annotations(rows(), None, whole=True)


def _beside(path: pathlib.Path) -> dict[str, Any]:
    if path.suffix == ".txt":
        return {"text": " ".join(read_text(path).split())}
    captions = read_subtitles(path)
    return {"captions": captions} if captions else {}


def read_subtitles(path: pathlib.Path) -> list[dict[str, Any]]:
    """Captions of an SRT or WebVTT file, without mark-up.

    Raises:
      DataError: for a file in which no line has the times of a caption.
    """
    captions: list[dict[str, Any]] = []
    text = read_text(path)
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        lines = block.split("\n")
        at = next((i for i, line in enumerate(lines) if _SPAN.match(line)), None)
        if at is None:
            continue
        numbers = _SPAN.match(lines[at]).groups()
        start, end = _seconds(numbers[:4]), _seconds(numbers[4:])
        words = re.sub(r"<[^>]*>|\{[^}]*\}", "", " ".join(lines[at + 1 :]))
        if words.strip() and start < end:
            captions.append(
                {"start": start, "end": end, "text": " ".join(words.split())}
            )
    if not captions and "-->" not in text:
        raise DataError(
            f"{path}: has no caption with times such as 00:01:02,500 --> ..."
        )
    return captions


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + int(fraction.ljust(3, "0")) / 1000


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not an object")
    return content
