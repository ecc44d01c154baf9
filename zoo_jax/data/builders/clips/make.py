"""From annotations and a folder of media files to a manifest, with its counts checked."""

import collections
import importlib
import inspect
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data import audio, video
from zoo_jax.data.builders.clips import MANIFESTS
from zoo_jax.data.clip_manifest import write_manifest

MEDIA = audio.EXTENSIONS | video.EXTENSIONS | {".avi", ".mpg", ".mpeg", ".ts"}


class Row(NamedTuple):
    """One line of official annotations.

    Attributes:
      file: The media file: a path below the folder, or a name without folders and, if
        annotations give none, without extension.
      record: The keys of a manifest's line, but for ``video`` and ``audio``.
      kind: ``"video"`` or ``"audio"``.
      counted: What the documented numbers count: equal ones count once.
    """

    file: str
    record: dict[str, Any]
    kind: str = "video"
    counted: Any = None


class Annotations(NamedTuple):
    """What a reader makes of the official files.

    Attributes:
      rows: One after the other; reading them may raise `DataError`.
      expected: Split -> documented number of rows (of distinct `Row.counted`); None where it
        is not known for certain.
      whole: Whether the media are published as one: then a file that is not there is an
        error, and otherwise (videos by their address on the web) it is left out.
    """

    rows: Iterator[Row]
    expected: Mapping[str, int] | None
    whole: bool


class Report(NamedTuple):
    """What a manifest was made of."""

    path: pathlib.Path
    lines: int
    rows: dict[str, int]  # of annotations, by split
    missing: tuple[str, ...]  # files that annotations name and that are not there


def make_manifest(
    name: str,
    *,
    source_dir: PathLike,
    out: PathLike | None = None,
    counts: Mapping[str, int] | None = None,
) -> Report:
    """Writes the manifest of an official set.

    Args:
      name: A key of `MANIFESTS`; docs/data.md shows the files that each reads.
      source_dir: The folder with annotations and media; media may lie in folders below.
      out: The JSONL file; default ``<source_dir>/<name>.jsonl``, with ``-`` for ``/``.
      counts: Split -> number of rows that must be found; default the documented ones. An
        empty one checks nothing.

    Returns:
      The report; for a set by address it names the files that are not there.

    Raises:
      ConfigError: for an unknown name.
      DataError: if annotations are absent, damaged or of another number than documented, or
        media of a whole set are missing.
    """
    if name not in MANIFESTS:
        forms = [key for key in MANIFESTS if key.startswith(f"{name}/")]
        hint = f"choose {' or '.join(forms)}" if forms else closest(name, MANIFESTS)
        raise ConfigError(f"unknown set of clips {name!r}: {hint}")
    module, _, attribute = MANIFESTS[name].partition(":")
    reader = getattr(importlib.import_module(module), attribute)
    source_dir = pathlib.Path(source_dir).expanduser()
    if not source_dir.is_dir():
        raise DataError(f"no folder {source_dir}: it should hold the files of {name}")
    variant = name.partition("/")[2]
    takes = len(inspect.signature(reader).parameters)
    annotations = reader(*(source_dir, variant)[:takes])
    out = pathlib.Path(
        out or source_dir / f"{name.replace('/', '-')}.jsonl"
    ).expanduser()
    expected = annotations.expected if counts is None else counts

    files = media_files(source_dir)
    found: dict[str, set] = collections.defaultdict(set)
    missing: list[str] = []
    records = []
    for number, row in enumerate(annotations.rows):
        split = row.record.get("split", "all")
        found[split].add(number if row.counted is None else row.counted)
        path = files.get(row.file) or files.get(pathlib.PurePath(row.file).name)
        if path is None:
            missing.append(row.file)
            continue
        place = os.path.relpath(path, out.parent)
        records.append({row.kind: place, **row.record})
    rows = {split: len(counted) for split, counted in found.items()}
    if expected and rows != dict(expected):
        raise DataError(
            f"{source_dir}: the annotations of {name} have {rows}, documented are "
            f"{dict(expected)}: get the official files again"
        )
    if missing and annotations.whole:
        raise DataError(
            f"{source_dir}: {len(missing)} of {len(missing) + len(records)} files of {name} "
            f"are missing: {', '.join(missing[:5])}"
        )
    if not records:
        raise DataError(
            f"{source_dir}: none of the {len(missing)} media files of {name} is there, e.g. "
            f"{missing[0] if missing else '(no rows)'}"
        )
    return Report(out, write_manifest(out, records), rows, tuple(missing))


def media_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name, stem and path below `folder` of every media file -> the file.

    A name that occurs twice is found by its path only.
    """
    out: dict[str, pathlib.Path] = {}
    whole: dict[str, pathlib.Path] = {}
    twice = set()
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in sorted(names):
            path = pathlib.Path(directory, name)
            if path.suffix.lower() not in MEDIA or name.startswith("."):
                continue
            for key in {name, path.stem, f"{path.parent.name}/{name}"}:
                if key in out:
                    twice.add(key)
                out[key] = path
            whole[str(path.relative_to(folder))] = path
    for key in twice:
        del out[key]
    out.update(whole)
    return out


def find_file(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """The first of these files that is anywhere below `folder`, the nearest to it first.

    Raises:
      DataError: if there is none.
    """
    for name in names:
        found = sorted(folder.rglob(name), key=lambda p: (len(p.parts), p))
        if found:
            return found[0]
    raise DataError(f"{folder}: has no {' or '.join(names)} (layouts: docs/data.md)")


def read_text(path: pathlib.Path) -> str:
    """A text file. Raises `DataError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
