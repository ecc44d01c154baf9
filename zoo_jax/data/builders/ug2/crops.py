"""Square crops around annotated objects, and what the names of the published crops say."""

import re
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.data.builders.ug2.annotations import Box

SIDE = 224  # of the networks that judge, and so the least side of a crop
Rule = Literal["official", "safe"]


class Window(NamedTuple):
    """A square of a frame, in pixels."""

    xmin: int
    ymin: int
    side: int


def crop_window(
    box: Box, size: tuple[int, int], *, side: int = SIDE, rule: Rule = "safe"
) -> Window:
    """The square that is cut out around an object.

    A small object keeps what surrounds it: the square is never smaller than `side`, so nothing
    is enlarged. It is as long as the longer side of a larger box, or as the shorter side of the
    frame where that does not fit. Its middle is that of the box, moved as far as it takes to
    stay inside.

    Args:
      box: Of the object.
      size: (height, width) of the frame.
      side: Least side.
      rule: ``"official"`` is the scorer's. In a frame that is smaller than `side` its square
        leaves the frame: it starts at a negative number, or ends outside. ``"safe"`` is the
        same in every other frame, and takes the shorter side of such a one.

    Raises:
      ConfigError: for another rule.

    Source: the frame-sequence scorer of the challenge of 2019. Its halves are rounded up and
    its middles down.

    >>> crop_window(Box(1749, 168, 1800, 263), (1080, 1920))
    Window(xmin=1662, ymin=103, side=224)
    """
    if rule not in ("official", "safe"):
        raise ConfigError(
            f"unknown rule {rule!r}: {closest(rule, ('official', 'safe'))}"
        )
    height, width = size
    extent_x, extent_y = box.xmax - box.xmin, box.ymax - box.ymin
    if max(extent_x, extent_y) > side:
        side = max(extent_x, extent_y)
        if side > width or side > height:
            side = min(width, height)
    if rule == "safe":
        side = min(side, width, height)
    return Window(
        _start(box.xmin + extent_x // 2, side, width),
        _start(box.ymin + extent_y // 2, side, height),
        side,
    )


def _start(centre: int, side: int, length: int) -> int:
    half = -(-side // 2)
    if centre - half < 0:
        return 0
    return length - side if centre + half > length else centre - half


def crop_object(
    frame: UInt8[np.ndarray, "h w 3"],
    box: Box,
    *,
    rule: Rule = "safe",
    side: int | None = None,
) -> UInt8[np.ndarray, "s s 3"]:
    """Cuts an object out of a frame.

    Args:
      frame: The picture.
      box: Of the object.
      rule: See `crop_window`.
      side: Resize to it, bilinear and without antialiasing as the scorer of 2019 does; None
        keeps the size, as the published sample crops have it.

    Raises:
      DataError: if the window of the official rule leaves the frame.
    """
    height, width, _ = frame.shape
    window = crop_window(box, (height, width), rule=rule)
    x, y, s = window
    if x < 0 or y < 0 or x + s > width or y + s > height:
        raise DataError(
            f"the official crop {tuple(window)} (xmin ymin side) leaves the frame of"
            f" {width}x{height}: frames smaller than {SIDE} need the rule 'safe'"
        )
    crop = frame[y : y + s, x : x + s]
    if side is None or s == side:
        return crop
    out = jax.image.resize(
        crop.astype(np.float32), (side, side, 3), "bilinear", antialias=False
    )
    return np.clip(np.rint(np.asarray(out)), 0, 255).astype(np.uint8)


class SampleName(NamedTuple):
    """What the name of a published crop says."""

    label: str  # as written: training crops may have a short form
    collection: Literal["air", "ground"]
    video: str
    track: int
    frame: int


# What the fields mean is inferred from twenty published names.
_AIR = re.compile(
    r"(?P<label>[^_]+)_(?P<video>[A-Z]{2}\d+)_(?P<track>\d+)_(?P<frame>\d+)"
)
_GROUND = re.compile(
    r"(?P<label>[^_]+)_"
    r"(?P<video>[^_]+_[^_]+_[^_]+_[^_]+_[^_]+)_"  # object distance x weather camera
    r"(?P<track>\d+)_(?P<frame>\d+)"
)


def parse_name(stem: str) -> SampleName | None:
    """Reads the name of a published crop, without suffix; None if it is not of that kind.

    >>> parse_name("Car1_AV00020_2_1689")
    SampleName(label='Car1', collection='air', video='AV00020', track=2, frame=1689)
    >>> parse_name("Bicycle_bicycle_60_na_cloudy_gopro_0_33").video
    'bicycle_60_na_cloudy_gopro'
    >>> parse_name("image_0001") is None
    True
    """
    for collection, pattern in (("air", _AIR), ("ground", _GROUND)):
        if match := pattern.fullmatch(stem):
            return SampleName(
                match["label"],
                collection,
                match["video"],
                int(match["track"]),
                int(match["frame"]),
            )
    return None
