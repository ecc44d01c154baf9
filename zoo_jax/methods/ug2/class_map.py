"""Which ImageNet classes count as right for a label: the super-classes of UG^2, or your own."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from jaxtyping import Bool, Int

from zoo_jax.core.errors import DataError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.methods.ug2.synsets import SYNSETS

CRANE_BIRD, CRANE_MACHINE = "n02012849", "n03126707"
_OFFICIAL = ("ID", "UG2Class")  # how the header of the published file begins
_FORM = "expected a header 'class,members' and rows such as 'cup,504 968'"


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMap:
    """Labels, and the classes of a recogniser that each of them covers.

    Attributes:
      names: Of the labels, sorted; a label is an index into them.
      members: Row: label; column: class of the recogniser. A class may belong to several
        labels; every label has at least one class and lacks at least one.

    Raises:
      DataError: for a label without classes, or with all of them.
    """

    names: tuple[str, ...]
    members: Bool[np.ndarray, "labels classes"]

    def __post_init__(self) -> None:
        for name, row in zip(self.names, self.members, strict=True):
            if not row.any() or row.all():
                raise DataError(
                    f"label {name!r} has {row.sum()} of {row.size} classes: give it at least"
                    " one, and not all"
                )

    @classmethod
    def read(
        cls,
        path: PathLike,
        *,
        corrected: bool = False,
        order: Sequence[str] = SYNSETS,
    ) -> Self:
        """Reads a map from a file; commas or tabs part its columns.

        Two forms are known, by their header:

        - ``ID UG2Class INetDesc`` is the published ``UG2ImageNet.txt``, one row per class and
          label. It has 228 rows with 192 classes and 47 labels.
        - ``class members`` is for your own labels: a name, and the WordNet ids or numbers
          (0 is the first of `order`) of its classes, parted by spaces. A name may have
          several rows.

        Args:
          path: A text file, UTF-8.
          corrected: Mends a slip in the published map, where ConstructionMachinery has the
            bird crane: the machine takes its place. Scores that are to be compared with
            published ones need the map as it is.
          order: WordNet ids of the recogniser's classes.

        Raises:
          DataError: if the file cannot be read, has another form, or names an unknown class.
        """
        rows = _read_rows(pathlib.Path(path))
        if corrected:
            rows = [_mended(*row) for row in rows]
        columns = {name: i for i, name in enumerate(order)}
        names = tuple(sorted({label for _, label, _ in rows}))
        index = {name: i for i, name in enumerate(names)}
        members = np.zeros((len(names), len(columns)), bool)
        for line, label, member in rows:
            column = columns.get(member)
            if column is None and member.isdecimal() and int(member) < len(columns):
                column = int(member)
            if column is None:
                raise DataError(
                    f"{path}, line {line}: {member!r} is none of the {len(columns)} classes:"
                    f" expected a WordNet id such as {order[0]}, or 0 to {len(columns) - 1}"
                )
            members[index[label], column] = True
        return cls(names, members)

    def indices(
        self, labels: Sequence[str], *, where: str = "labels"
    ) -> Int[np.ndarray, "b"]:
        """Numbers of labels. Raises `DataError` for one that is not in the map."""
        index = {name: i for i, name in enumerate(self.names)}
        for label in labels:
            if label not in index:
                raise DataError(
                    f"{where}: {label!r} is no label of the map: {closest(label, index)}"
                )
        return np.array([index[label] for label in labels], np.int64)


def class_map_of(groups: Mapping[str, Sequence[int]], *, classes: int) -> ClassMap:
    """A map from numbers of classes.

    >>> class_map_of({"cup": [1, 3], "pan": [0]}, classes=4).members.astype(int).tolist()
    [[0, 1, 0, 1], [1, 0, 0, 0]]
    """
    names = tuple(sorted(groups))
    members = np.zeros((len(names), classes), bool)
    for row, name in zip(members, names, strict=True):
        row[list(groups[name])] = True
    return ClassMap(names, members)


def _mended(line: int, label: str, member: str) -> tuple[int, str, str]:
    slip = (label, member) == ("ConstructionMachinery", CRANE_BIRD)
    return line, label, CRANE_MACHINE if slip else member


def _read_rows(path: pathlib.Path) -> list[tuple[int, str, str]]:
    """(line, label, class) of a file of either form."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no text in UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = "\t" if "\t" in first else ","
    # In the published file quotes are letters; a tab cannot be quoted away.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    table = csv.reader(io.StringIO(text), delimiter=delimiter, quoting=quoting)
    header, rows = None, []
    for cells in table:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if header is None:
            header = tuple(cells[:2])
            if header not in (_OFFICIAL, ("class", "members")):
                raise DataError(f"{path}: header {first.strip()!r}: {_FORM}")
            continue
        if len(cells) < 2 or not all(cells[:2]):
            raise DataError(f"{path}, line {table.line_num}: a field is missing")
        if header == _OFFICIAL:
            rows.append((table.line_num, cells[1], cells[0]))
        else:
            rows += [(table.line_num, cells[0], m) for m in cells[1].split()]
    if not rows:
        raise DataError(f"{path}: has no rows: {_FORM}")
    return rows
