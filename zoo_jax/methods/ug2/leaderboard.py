"""A table of results in a CSV file, to which anybody's results can be appended."""

import contextlib
import csv
import datetime
import fcntl
import hashlib
import io
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from zoo_jax.core.errors import DataError
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.methods.ug2.pictures import Labelled

# What a result is of: two rows that agree in these are about the same thing.
KEY = ("data", "collection", "recogniser", "preprocessing", "metric", "restorer")
NUMBERS = ("score", "delta", "low", "high", "n")
COLUMNS = (*KEY, *NUMBERS, "date", "note")
_MAY_BE_EMPTY = ("low", "high", "note", "date")
_SAME = 5e-6  # numbers are written with six decimals


def fingerprint(pictures: Sequence[Labelled]) -> str:
    """Twelve letters that tell whether two results are of the same pictures and labels.

    Raises:
      DataError: if a picture cannot be read.
    """
    sha = hashlib.sha256()
    for picture in sorted(pictures, key=lambda p: p.key):
        try:
            content = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(
                f"{picture.path}: cannot be read: {error.strerror}"
            ) from None
        sha.update(f"{picture.key}\0{picture.label}\0{content}\n".encode())
    return sha.hexdigest()[:12]


def make_entries(
    rows: Iterable[Mapping[str, Any]],
    *,
    data: str,
    preprocessing: str,
    note: str = "",
    date: str | None = None,
) -> list[dict[str, str]]:
    """Rows of `score` as rows of a leaderboard.

    Args:
      rows: See `score.Scores`.
      data: Which pictures, e.g. by `fingerprint`.
      preprocessing: Of the recognisers.
      note: Who, or how.
      date: ISO 8601; default: today, UTC.
    """
    date = date or datetime.datetime.now(datetime.UTC).date().isoformat()
    fixed = {"data": data, "preprocessing": preprocessing, "note": note, "date": date}
    out = []
    for row in rows:
        numbers = {name: _text(row[name]) for name in NUMBERS}
        named = {name: str(row[name]) for name in KEY if name in row}
        out.append({name: (fixed | numbers | named)[name] for name in COLUMNS})
    return out


def read_leaderboard(path: PathLike) -> list[dict[str, str]]:
    """Reads and checks a leaderboard.

    Raises:
      DataError: for a file that cannot be read, other columns, an empty or wrong field, and two
        rows about the same thing.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no text in UTF-8") from None
    table = csv.DictReader(io.StringIO(text), strict=True)
    rows: list[dict[str, str]] = []
    seen: dict[tuple[str, ...], int] = {}
    try:
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path}: expected the columns {','.join(COLUMNS)}")
        for row in table:
            where = f"{path}, line {table.line_num}"
            _check(row, where)
            key = _key(row)
            if key in seen:
                raise DataError(
                    f"{where}: the same result as line {seen[key]} ({' '.join(key)}): keep one"
                )
            seen[key] = table.line_num
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, after line {table.line_num}: {error}") from None
    return rows


def append(path: PathLike, entries: Sequence[Mapping[str, str]]) -> int:
    """Appends rows: all of them or none. The file is made if it is not there.

    A result that is there already with the same numbers is passed over, so a command may be
    repeated. Other processes wait meanwhile.

    Returns:
      How many rows are new.

    Raises:
      DataError: if the file is no leaderboard, or has another result of the same name.
      OSError: if it cannot be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        rows = read_leaderboard(path) if path.exists() else []
        known = {_key(row): row for row in rows}
        new: list[Mapping[str, str]] = []
        for entry in entries:
            _check(entry, f"new result {entry.get('restorer')!r}")
            before = known.get(_key(entry))
            if before is None:
                known[_key(entry)] = dict(entry)
                new.append(entry)
            elif not _agree(before, entry):
                raise DataError(
                    f"{path}: has another result of {' '.join(_key(entry))}: score"
                    f" {before['score']} of {before['n']} pictures, now {entry['score']} of"
                    f" {entry['n']}: give the entry another name"
                )
        if new:
            with atomic_write(path) as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows([*rows, *new])
    return len(new)


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Intervals may differ: they depend on the draws."""
    same = abs(float(one["score"]) - float(other["score"])) <= _SAME
    return same and one["n"] == other["n"]


def _check(row: Mapping[Any, Any], where: str) -> None:
    if set(row) != set(COLUMNS) or None in row.values():
        raise DataError(f"{where}: expected {len(COLUMNS)} fields: {','.join(COLUMNS)}")
    for name in COLUMNS:
        value = row[name]
        if value == "":
            if name not in _MAY_BE_EMPTY:
                raise DataError(f"{where}: {name} is empty")
        elif name in NUMBERS:
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            least, most = {"score": (0, 1), "n": (1, math.inf)}.get(name, (-1, 1))
            if not least <= number <= most or (name == "n" and number % 1):
                raise DataError(f"{where}: {name} is {value!r}")


def _text(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6f}"


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time rewrite the leaderboards of a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # of the folder: the file itself is replaced
        yield
    finally:
        os.close(handle)
