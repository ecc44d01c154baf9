"""Manifests: which clips there are, in which files, with which words. One JSON object a line.

A line is about one clip, or about a whole file with timed captions, one clip for each:

    {"video": "a.mp4", "start": 12.5, "end": 16, "text": "add the salt", "context": ["mix"]}
    {"video": "b.mp4", "captions": [{"start": 1, "end": 3.5, "text": "add the salt"}, ...]}
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from zoo_jax.core.errors import DataError, closest
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.data.folder import resolve

# Key -> what it may hold, in words for messages.
KEYS = {
    "id": "a text",
    "video": "a path",
    "audio": "a path",
    "start": "seconds",
    "end": "seconds",
    "text": "a text",
    "context": "a list of texts",
    "captions": 'a list of {"start": seconds, "end": seconds, "text": a text}',
    "label": "a class, or a list of classes",
    "split": "a text",
    "fold": "a whole number",
}
_CAPTION_KEYS = ("start", "end", "text")
Label = str | int | tuple[str | int, ...] | None


@dataclasses.dataclass(frozen=True)
class Clip:
    """A span of a file and what belongs to it.

    Times are in seconds from the first picture of the video (without one, the first sample of
    the sound); `texts` has the clip's own sentence, then its neighbours, the nearest first.
    """

    name: str
    video: str | None
    audio: str | None  # None: the sound of the video
    start: float = 0.0
    end: float | None = None  # None: to the end of the file
    texts: tuple[str, ...] = ()
    label: Label = None
    split: str | None = None
    fold: int | None = None
    caption: tuple[float, float] | None = None  # times of the own sentence

    @property
    def place(self) -> str:
        """File and span, for messages."""
        end = "end" if self.end is None else f"{self.end:g}"
        return f"{self.video or self.audio} ({self.start:g} to {end} s)"


def read_manifest(
    path: PathLike,
    *,
    root: PathLike | None = None,
    split: str | None = None,
    context: int = 4,
) -> list[Clip]:
    """Reads a manifest. No media file is opened.

    Keys: `KEYS`; each line needs ``video`` or ``audio``. Paths are relative to `root`. A line
    with ``captions`` has no ``text`` and ``context``: with ``start`` and ``end`` the caption
    that overlaps them longest is the clip's own sentence (none: the clip has no text);
    without, each caption is the sentence of a clip of its own, whose span is that of the
    caption. The neighbours are the captions nearest in time. A text of white space is none.

    Args:
      path: The JSONL file; a relative path is below ``$ZOO_DATA``.
      root: Folder of the media; default that of the manifest.
      split: Only lines whose ``split`` is this.
      context: Neighbours kept per clip at most.

    Raises:
      DataError: for a file that is absent, empty or has no clip of this split, and for a line
        with unknown keys, values of another kind, times that are not in order, or captions
        that lie outside the clip's own file as far as the line says it.
    """
    path = resolve(path)
    folder = pathlib.Path(root).expanduser() if root is not None else path.parent
    clips: list[Clip] = []
    splits: set[str] = set()
    for number, line in _lines(path):
        where = f"{path}:{number}"
        record = _parse(line, where)
        if "split" in record:
            splits.add(record["split"])
        if split is None or record.get("split") == split:
            clips.extend(_clips(record, where, str(folder), context))
    if not clips and split is not None:
        hint = closest(split, splits) if splits else "no line has a split"
        raise DataError(f"{path}: has no clip of split {split!r}: {hint}")
    if not clips:
        raise DataError(f"{path}: has no clips")
    return clips


def parse_records(
    records: Iterable[Mapping[str, Any]], *, root: PathLike, context: int = 4
) -> list[Clip]:
    """The clips of lines that are dicts already; see `read_manifest`. Raises `DataError`."""
    clips: list[Clip] = []
    for number, record in enumerate(records):
        where = f"record {number}"
        checked = _check(dict(record), where)
        clips.extend(_clips(checked, where, str(root), context))
    if not clips:
        raise DataError("the manifest has no clips")
    return clips


def write_manifest(path: PathLike, records: Iterable[Mapping[str, Any]]) -> int:
    """Writes lines, whole or not at all, and returns their number.

    Raises:
      DataError: for a record that `read_manifest` would refuse, or none at all.
    """
    count = 0
    with atomic_write(path) as file:
        for count, record in enumerate(records, start=1):
            checked = _check(dict(record), f"{path}:{count}")
            file.write(json.dumps(checked, ensure_ascii=False) + "\n")
        if not count:
            raise DataError(f"{path}: no clips to write: nothing was found")
    return count


def label_classes(clips: Sequence[Clip]) -> tuple[str, ...] | int | None:
    """What the labels of clips are: names in order, the number of numbers, or None for none.

    Raises:
      DataError: if some clips have a label and some have none, or names and numbers are mixed.
    """
    kinds = {type(clip.label) for clip in clips}
    if kinds == {type(None)}:
        return None
    if type(None) in kinds:
        bare = next(clip for clip in clips if clip.label is None)
        raise DataError(f"{bare.place}: has no label, others have: give all or none")
    values = [label for clip in clips for label in as_labels(clip.label)]
    if not values:
        return ()
    if all(isinstance(v, str) for v in values):
        return tuple(sorted(set(values)))
    if all(isinstance(v, int) for v in values) and min(values) >= 0:
        return max(values) + 1
    raise DataError("labels must be all names, or all numbers from 0 on")


def as_labels(label: Label) -> tuple[str | int, ...]:
    """A label as the tuple of its classes."""
    return label if isinstance(label, tuple) else () if label is None else (label,)


# --- lines ----------------------------------------------------------------------------------


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: the manifest cannot be read: {why}") from None


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f'{where}: not an object such as {{"video": "a.mp4", ...}}')
    return _check(record, where)


def _check(record: dict[str, Any], where: str) -> dict[str, Any]:
    for key, value in record.items():
        if key not in KEYS:
            raise DataError(f"{where}: unknown key {key!r}: {closest(key, KEYS)}")
        if not _fits(key, value):
            raise DataError(f"{where}: {key!r} must be {KEYS[key]}, got {value!r}")
    if "video" not in record and "audio" not in record:
        raise DataError(f"{where}: needs a 'video' or an 'audio'")
    if "captions" in record and ("text" in record or "context" in record):
        raise DataError(
            f"{where}: 'captions' excludes 'text' and 'context': timed captions hold both"
        )
    if "context" in record and "text" not in record:
        raise DataError(f"{where}: 'context' needs a 'text' to be the neighbours of")
    _check_times(record.get("start", 0), record.get("end"), where, "'start' and 'end'")
    for caption in record.get("captions", ()):
        _check_times(caption["start"], caption["end"], where, "times of a caption")
    return record


def _fits(key: str, value: Any) -> bool:
    if key in ("id", "video", "audio", "split"):
        return isinstance(value, str) and bool(value)
    if key == "text":
        return isinstance(value, str)
    if key in ("start", "end"):
        return _is_number(value)
    if key == "fold":
        return isinstance(value, int) and not isinstance(value, bool)
    if key == "context":
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if key == "label":
        values = value if isinstance(value, list) else [value]
        return all(isinstance(v, str | int) and not isinstance(v, bool) for v in values)
    return isinstance(value, list) and all(
        isinstance(c, dict)
        and set(c) == set(_CAPTION_KEYS)
        and isinstance(c["text"], str)
        and _is_number(c["start"])
        and _is_number(c["end"])
        for c in value
    )


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _check_times(start: float, end: float | None, where: str, what: str) -> None:
    if start < 0 or (end is not None and end <= start):
        raise DataError(
            f"{where}: {what} must be 0 <= start < end, got {start:g} and {end:g}"
            if end is not None
            else f"{where}: 'start' must not be negative, got {start:g}"
        )


def _clips(
    record: dict[str, Any], where: str, folder: str, context: int
) -> Iterator[Clip]:
    label = record.get("label")
    files = {
        key: os.path.join(folder, record[key]) if key in record else None
        for key in ("video", "audio")
    }
    common = Clip(
        name=record.get("id")
        or pathlib.PurePath(record.get("video") or record["audio"]).stem,
        **files,
        start=float(record.get("start", 0)),
        end=None if record.get("end") is None else float(record["end"]),
        label=tuple(label) if isinstance(label, list) else label,
        split=record.get("split"),
        fold=record.get("fold"),
    )
    if "captions" not in record:
        text = record.get("text", "").strip()
        near = [t.strip() for t in record.get("context", ()) if t.strip()]
        texts = (text, *near[:context]) if text else ()
        yield dataclasses.replace(common, texts=texts)
        return
    captions = sorted(
        (c for c in record["captions"] if c["text"].strip()),
        key=lambda c: (c["start"], c["end"]),
    )
    if "start" in record or "end" in record:
        own = _longest_overlap(captions, common.start, common.end)
        if own is None:
            yield common
        else:
            yield _captioned(common, captions, own, context)
        return
    if not captions:
        raise DataError(
            f"{where}: all its captions are empty: give a text, or leave it out"
        )
    for own in range(len(captions)):
        clip = _captioned(common, captions, own, context)
        start, end = clip.caption
        name = f"{common.name}/{own}"
        yield dataclasses.replace(clip, name=name, start=start, end=end)


def _longest_overlap(
    captions: Sequence[Mapping[str, Any]], start: float, end: float | None
) -> int | None:
    end = math.inf if end is None else end
    shared = [min(c["end"], end) - max(c["start"], start) for c in captions]
    best = max(range(len(captions)), key=shared.__getitem__, default=None)
    return best if best is not None and shared[best] > 0 else None


def _captioned(
    clip: Clip, captions: Sequence[Mapping[str, Any]], own: int, context: int
) -> Clip:
    middles = [(c["start"] + c["end"]) / 2 for c in captions]
    order = sorted(
        range(len(captions)),
        key=lambda i: (i != own, abs(middles[i] - middles[own]), i),
    )
    texts = tuple(captions[i]["text"].strip() for i in order[: 1 + context])
    times = float(captions[own]["start"]), float(captions[own]["end"])
    return dataclasses.replace(clip, texts=texts, caption=times)
