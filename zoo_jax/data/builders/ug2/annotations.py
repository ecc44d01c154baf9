"""Boxes of objects in the videos of UG^2: text files as the VATIC annotation tool writes them."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zoo_jax.core.errors import DataError, closest
from zoo_jax.core.files import PathLike

COLUMNS = tuple("track xmin ymin xmax ymax frame lost occluded generated label".split())
# Labels of annotated objects that have no counterpart in ImageNet, and so none in the map.
UNMAPPED = ("Pedestrian", "ResolutionChart")
_FORM = f'expected: {" ".join(COLUMNS[:-1])} "label"'


class Box(NamedTuple):
    """Where an object is in a frame, in pixels; the maxima are outside."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Annotation(NamedTuple):
    """One object in one frame."""

    track: int  # the same object in several frames
    box: Box
    frame: int  # number in the video, from 0
    lost: bool  # outside the view
    occluded: bool
    generated: (
        bool  # interpolated by the tool between frames that a person has drawn in
    )
    label: str  # name of the class, e.g. "FarmMachines"

    @property
    def usable(self) -> bool:
        """Whether the object counts: neither lost nor occluded."""
        return not (self.lost or self.occluded)

    def require_inside(self, size: tuple[int, int], *, where: str) -> None:
        """Raises `DataError` if the box leaves a frame of (height, width)."""
        height, width = size
        x0, y0, x1, y1 = self.box
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise DataError(
                f"{where}: the box {tuple(self.box)} (xmin ymin xmax ymax) leaves the frame of"
                f" {width}x{height}"
            )


def class_name(label: str) -> str:
    """The name of the class that a label of the tool stands for.

    >>> class_name("farm_machines"), class_name("car1"), class_name("FarmMachines")
    ('FarmMachines', 'Car1', 'FarmMachines')
    """
    return "".join(part[:1].upper() + part[1:] for part in label.split("_"))


def read_annotations(
    path: PathLike,
    *,
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> list[Annotation]:
    """Reads the annotations of one video or sequence, lost and occluded ones too.

    Fields are parted by spaces and the label stands in quotes; further fields (attributes) are
    passed over. A first line with the names of the columns, as sequences of 2019 have it, may
    be there.

    Args:
      path: The file.
      classes: Names of the classes that may occur; None for any. See `UNMAPPED`.
      size: (height, width) of the frames: boxes that leave them are refused. A lost object
        has no place, so its box is not looked at.

    Raises:
      DataError: for a file that cannot be read, and with its line for a row with missing or
        wrong fields, an empty box, a box outside the frame, or an unknown class.

    Source: README of UG2-Dataset (the tool); columns 1 to 4 and 9 and the names of classes as a
    participant's parser reads them, the other columns as VATIC writes them; which rows count as
    in the scorer of 2019.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no text in UTF-8") from None
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or (number == 1 and _is_header(line)):
            continue
        where = f"{path}, line {number}"
        found = _parse(line, where)
        if classes is not None and found.label not in classes:
            raise DataError(
                f"{where}: unknown class {found.label!r}: {closest(found.label, classes)}"
            )
        if not found.lost:
            if found.box.xmin >= found.box.xmax or found.box.ymin >= found.box.ymax:
                raise DataError(
                    f"{where}: the box {tuple(found.box)} (xmin ymin xmax ymax) is empty"
                )
            if size is not None:
                found.require_inside(size, where=where)
        out.append(found)
    return out


def usable(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Those that count, see `Annotation.usable`."""
    return [annotation for annotation in annotations if annotation.usable]


def _is_header(line: str) -> bool:
    return tuple(line.replace('"', "").split()) == COLUMNS


def _parse(line: str, where: str) -> Annotation:
    # A label may hold spaces within its quotes, so it is not split.
    numbers, quote, rest = line.partition('"')
    label, closing, _ = rest.partition('"')
    fields = numbers.split()
    if not quote:  # files that pandas has written quote nothing without need
        label = closing = fields[9] if len(fields) > 9 else ""
        fields = fields[:9]
    if len(fields) != 9 or not closing or not label:
        count = len(fields) + bool(label)
        raise DataError(f"{where}: {count} fields of {len(COLUMNS)}: {_FORM}")
    try:
        values = [int(field) for field in fields]
    except ValueError:
        raise DataError(f"{where}: a number is none: {_FORM}") from None
    track, *corners, frame, lost, occluded, generated = values
    if frame < 0 or not {lost, occluded, generated} <= {0, 1}:
        raise DataError(
            f"{where}: frame {frame}, lost {lost}, occluded {occluded}, generated"
            f" {generated}: a frame is not negative, and the others are 0 or 1"
        )
    flags = bool(lost), bool(occluded), bool(generated)
    return Annotation(track, Box(*corners), frame, *flags, class_name(label))
