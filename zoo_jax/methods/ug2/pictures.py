"""Labelled pictures in a folder, and the same pictures enhanced in another one."""

import csv
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from zoo_jax.core.errors import DataError
from zoo_jax.core.files import PathLike
from zoo_jax.data.builders.ug2.crops import parse_name
from zoo_jax.data.folder import image_files
from zoo_jax.data.media import EXTENSIONS, decode_image

LAYOUT = (
    "<class>/<picture>, <class>/<video>/<picture>, or flat names as UG2 publishes them,"
    " <Class>_<video>_<track>_<frame>.png"
)


class Labelled(NamedTuple):
    """A picture with what is known of it."""

    key: str  # path below the folder, without suffix
    path: pathlib.Path
    label: str
    video: str  # pictures of one video are not independent; else a name of its own
    collection: str  # "air" or "ground" for names as UG2 publishes them, else ""


def find_pictures(
    folder: PathLike, *, labels: PathLike | None = None
) -> list[Labelled]:
    """Finds the pictures of a folder and their labels, in the order of their keys.

    Args:
      folder: Laid out as `LAYOUT` says.
      labels: A text file for flat names, one line ``name<TAB>class`` per picture as the official
        scorer takes it (``sampleInput_Eqs.txt``); a third column may name the video. Without
        it the class is what stands before the first ``_``.

    Raises:
      DataError: for a folder that is absent, empty or mixes layouts, two pictures of one key, and
        a name that has no label.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: expected {LAYOUT}")
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    nested = [(p, top) for top in inner for p in _below(top)]
    flat = image_files(folder)
    if flat and nested:
        raise DataError(
            f"{folder}: has {flat[0].name} beside the folder {nested[0][1].name}: pictures are"
            " either in folders of their classes or all at the top"
        )
    if not flat and not nested:
        raise DataError(f"{folder}: no pictures in it: expected {LAYOUT}")
    if flat:
        table = None if labels is None else _read_labels(labels)
        out = [_flat(path, table, labels) for path in flat]
    elif labels is not None:
        raise DataError(
            f"{labels}: {folder} has folders of classes: leave --labels out"
        )
    else:
        out = [_nested(path, folder, top) for path, top in nested]
    seen: dict[str, pathlib.Path] = {}
    for picture in out:
        if picture.key in seen:
            raise DataError(
                f"{picture.path}: has the same name as {seen[picture.key].name} but for the"
                " suffix: rename one"
            )
        seen[picture.key] = picture.path
    return sorted(out, key=lambda picture: picture.key)


def match_entry(
    pictures: Sequence[Labelled], folder: PathLike
) -> dict[str, pathlib.Path]:
    """Key of each picture -> its enhanced version in another folder; suffixes may differ.

    Raises:
      DataError: if the folder is absent, two files have one key, or pictures are missing.
    """
    found = _by_key(pathlib.Path(folder))
    missing = [picture.key for picture in pictures if picture.key not in found]
    _require_all(pathlib.Path(folder), missing, len(pictures))
    return {picture.key: found[picture.key] for picture in pictures}


def find_same(a: PathLike, b: PathLike) -> list[tuple[str, pathlib.Path, pathlib.Path]]:
    """Key, path below `a` and path below `b` of every picture of `a`; suffixes may differ.

    Raises:
      DataError: if a folder is absent, `a` is empty, two files have one key, or `b` lacks some.
    """
    found, others = _by_key(pathlib.Path(a)), _by_key(pathlib.Path(b))
    if not found:
        raise DataError(f"{a}: no pictures in it")
    missing = [key for key in found if key not in others]
    _require_all(pathlib.Path(b), missing, len(found))
    return [(key, path, others[key]) for key, path in found.items()]


def _by_key(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of enhanced pictures")
    found: dict[str, pathlib.Path] = {}
    for path in _below(folder):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise DataError(
                f"{path}: has the same name as {found[key].name} but for the suffix: keep one"
            )
        found[key] = path
    return found


def _require_all(folder: pathlib.Path, missing: Sequence[str], count: int) -> None:
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{folder}: {len(missing)} of {count} pictures are missing: {some}: an entry"
            " has every picture under its own name"
        )


def read_pair(
    original: pathlib.Path, enhanced: pathlib.Path, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "h w 3"]:
    """The enhanced version of a picture of a known shape.

    Raises:
      MediaError: if it cannot be decoded.
      DataError: if it differs in size.
    """
    image = decode_image(enhanced)
    if image.shape != shape:
        (h, w), (height, width) = image.shape[:2], shape[:2]
        raise DataError(
            f"{enhanced}: has {w}x{h} pixels and {original} {width}x{height}: both must have"
            " one size"
        )
    return image


def _below(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part[0] == "." for part in path.relative_to(folder).parts)
    )


def _nested(path: pathlib.Path, folder: pathlib.Path, top: pathlib.Path) -> Labelled:
    place = path.relative_to(folder).with_suffix("")
    key = place.as_posix()
    name = parse_name(path.stem)
    if len(place.parts) > 2:
        video = "/".join(place.parts[:-1])
    else:
        video = name.video if name else key
    return Labelled(key, path, top.name, video, name.collection if name else "")


def _flat(
    path: pathlib.Path,
    table: dict[str, tuple[str, str]] | None,
    labels: PathLike | None,
) -> Labelled:
    name = parse_name(path.stem)
    video, collection = (name.video, name.collection) if name else (path.stem, "")
    if table is not None:
        if path.stem not in table:
            raise DataError(f"{labels}: has no line for {path.stem} ({path})")
        label, given = table[path.stem]
        return Labelled(path.stem, path, label, given or video, collection)
    if name is None:
        raise DataError(
            f"{path}: its name says no class: expected {LAYOUT}, or a file of labels (--labels)"
        )
    return Labelled(path.stem, path, name.label, video, collection)


def _read_labels(path: PathLike) -> dict[str, tuple[str, str]]:
    """Name -> (class, video or "")."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no text in UTF-8") from None
    out: dict[str, tuple[str, str]] = {}
    for number, cells in enumerate(rows, 1):
        if not any(cells):
            continue
        name, label, video = (*(c.strip() for c in cells), "", "", "")[:3]
        if not name or not label:
            raise DataError(f"{path}, line {number}: expected name<TAB>class")
        if name in out:
            raise DataError(f"{path}, line {number}: {name!r} is there twice: keep one")
        out[name] = label, video
    return out
