"""Paired augmentation: one random geometric change, the same for a blurred image and its truth.

Both images are sampled at the same places with the same weights. What is sampled is only the
window that is kept, so a small crop of a large photograph costs what the crop costs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.data.geometry import mirrored, mirrored_window, pair, random_place

# Defaults of albumentations 0.2.3 (2019), which the reference relies on.
SHIFT, SCALE, ANGLE = 0.0625, 0.1, 45.0  # of the sides, relative, degrees
DISTORTION = 0.05  # of the radius, in units of the image's width
CORNER = 50.0  # pixels by which the corners of the elastic map move
# Its elastic field is white noise in [-1, 1] blurred by a Gaussian of 50 pixels: 0.003 pixels
# of deviation. Cubic splines with these knots have that width.
BEND, KNOTS = 3**-0.5 / (2 * np.pi**0.5 * 50), 50 * 3**0.5

Rows = Float[np.ndarray, "#h #w"]
# (rows, columns) of the result -> where each of its pixels lies in the image.
Map = Callable[[Rows, Rows], tuple[Rows, Rows]]


def shift_scale_rotate(
    size: tuple[int, int], *, shift: tuple[float, float], scale: float, angle: float
) -> Map:
    """Turns around the centre, then scales, then moves.

    Args:
      size: (height, width) of the image.
      shift: (down, right) in heights and widths.
      scale: Above 1 enlarges.
      angle: Degrees, counter-clockwise as seen.
    """
    (h, w), turn = size, np.deg2rad(angle)
    cy, cx = (h - 1) / 2, (w - 1) / 2
    sine, cosine = np.sin(turn) / scale, np.cos(turn) / scale

    def at(rows: Rows, columns: Rows) -> tuple[Rows, Rows]:
        y, x = rows - cy - shift[0] * h, columns - cx - shift[1] * w
        return cy + sine * x + cosine * y, cx + cosine * x - sine * y

    return at


def optical_distortion(size: tuple[int, int], *, k: float) -> Map:
    """Barrel (k > 0) or cushion distortion: a pixel at radius r is taken from r (1 + k r^2 + k r^4).

    Args:
      size: (height, width) of the image; the radius is in units of its width.
      k: Both coefficients.
    """
    h, w = size
    cy, cx = (h - 1) / 2, (w - 1) / 2

    def at(rows: Rows, columns: Rows) -> tuple[Rows, Rows]:
        y, x = rows - cy, columns - cx
        r2 = (y * y + x * x) / w**2
        factor = 1 + k * r2 + k * r2 * r2
        return cy + factor * y, cx + factor * x

    return at


def elastic(
    size: tuple[int, int],
    *,
    corners: Float[np.ndarray, "3 2"],
    field: Float[np.ndarray, "2 m n"],
) -> Map:
    """An affine map that moves three points, under a smooth field of displacements.

    The two maps are composed, so the image is resampled once (albumentations: twice).

    Args:
      size: (height, width) of the image.
      corners: (down, right) in pixels, by which the bottom right, top right and top left
        corner of a square move that lies in the middle; its side is two thirds of the shorter
        side of the image.
      field: Displacements (down, right) in pixels at the `knots` of cubic splines.
    """
    h, w = size
    middle, half = np.array([(h - 1) / 2, (w - 1) / 2]), min(h, w) / 3
    before = middle + half * np.array([[1, 1], [-1, 1], [-1, -1]])
    # after = [before, 1] @ forward; the image is looked up by the inverse.
    forward = np.linalg.solve(np.column_stack([before, np.ones(3)]), before + corners)
    inverse = np.linalg.inv(forward[:2])

    def at(rows: Rows, columns: Rows) -> tuple[Rows, Rows]:
        splines_y = _splines(rows[:, 0], field.shape[1])
        splines_x = _splines(columns[0], field.shape[2])
        # Not `@`: the threads of a BLAS cost more than these products on a busy machine.
        across = np.einsum("dmn,wn->dmw", field, splines_x)
        down, right = np.einsum("hm,dmw->dhw", splines_y, across)
        y, x = rows + down - forward[2, 0], columns + right - forward[2, 1]
        return (
            y * inverse[0, 0] + x * inverse[1, 0],
            y * inverse[0, 1] + x * inverse[1, 1],
        )

    return at


def knots(size: tuple[int, int]) -> tuple[int, int]:
    """How many knots a field of displacements has over an image."""
    return tuple(int(n // KNOTS) + 4 for n in size)


def _splines(
    places: Float[np.ndarray, "n"], count: int
) -> Float[np.ndarray, "n {count}"]:
    """Values of the uniform cubic B-splines; the first three reach in from outside."""
    distance = np.abs(places[:, None] / KNOTS + 1 - np.arange(count))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far)


def bilinear(
    images: Sequence[UInt8[np.ndarray, "h w c"]], rows: Rows, columns: Rows
) -> list[UInt8[np.ndarray, "m n c"]]:
    """Samples images of one size at the same places, mirrored at their borders."""
    h, w = images[0].shape[:2]
    rows, columns = np.broadcast_arrays(rows, columns)
    y, x = np.floor(rows), np.floor(columns)
    down = (rows - y)[..., None].astype(np.float32)
    right = (columns - x)[..., None].astype(np.float32)
    y, x = y.astype(np.intp), x.astype(np.intp)
    top, bottom = mirrored(y, h) * w, mirrored(y + 1, h) * w
    left, other = mirrored(x, w), mirrored(x + 1, w)
    places = (top + left, top + other, bottom + left, bottom + other)
    out = []
    for image in images:
        flat = image.reshape(h * w, -1)
        a, b, c, d = (flat[place].astype(np.float32) for place in places)
        a += right * (b - a)
        c += right * (d - c)
        a += down * (c - a)
        out.append((a + np.float32(0.5)).astype(np.uint8))
    return out


KINDS = ("flip", "shift_scale_rotate", "transpose", "optical_distortion", "elastic")


@dataclasses.dataclass(frozen=True)
class PairAugment:
    """With a given probability, one of five geometric changes of several images at once; then a crop.

    A mirror image, a shift with scale and rotation, a transposition, an optical or an elastic
    distortion, each as likely as the others. Where a result needs pixels outside the image,
    the image is continued by mirrors.

    Args:
      size: (height, width) of the crop, or one number; an image smaller than that is continued
        by mirrors. None keeps the size of the image, and then leaves out the transposition
        of images that are not square.
      probability: Of any change at all.
      kinds: Which of `KINDS` to choose from.
      bend: Deviation in pixels of the elastic field. The default is the reference's, far
        too little to see: its elastic map is affine in effect.
      keys: Entries of equal size, uint8 [h, w, c].

    Source: reference code of arXiv 1908.03826, aug.py; the ranges are defaults of
    albumentations 0.2.3. Corners move by 50 pixels as there, but never by more than a twelfth of
    the shorter side, so that small images are not folded. Centres lie between the middle
    pixels, half a pixel from where albumentations has them.
    """

    size: int | Sequence[int] | None = None
    probability: float = 0.5
    kinds: Sequence[str] = KINDS
    bend: float = BEND
    keys: Sequence[str] = ("image", "sharp")

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(
                f"pair_augment: probability must lie in [0, 1], got {self.probability}"
            )
        if not self.kinds or not self.keys:
            raise ConfigError("pair_augment: needs a kind and a key at least")
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(
                    f"pair_augment: unknown kind {kind!r}: {closest(kind, KINDS)}"
                )
        if not self.bend >= 0:
            raise ConfigError(
                f"pair_augment: bend must not be negative, got {self.bend}"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Changes all `keys`, or only crops them."""
        images = self._images(example)
        h, w = images[0].shape[:2]
        kinds = [
            kind
            for kind in self.kinds
            if kind != "transpose" or self.size is not None or h == w
        ]
        kind = None
        if rng.random() < self.probability and kinds:
            kind = kinds[int(rng.random() * len(kinds))]
        at = _draw(kind, (h, w), self.bend, rng)
        if kind == "flip":
            images = [image[:, ::-1] for image in images]
        if kind == "transpose":
            images, (h, w) = [image.swapaxes(0, 1) for image in images], (w, h)
        ch, cw = (h, w) if self.size is None else pair(self.size)
        y, x = random_place(rng, (h, w), (ch, cw))
        if at is None:
            images = [mirrored_window(image, y, x, ch, cw) for image in images]
        else:
            # Mirrored here: as if the whole image were changed first and padded then.
            rows = mirrored(np.arange(y, y + ch), h)[:, None].astype(np.float64)
            columns = mirrored(np.arange(x, x + cw), w)[None].astype(np.float64)
            images = bilinear(images, *at(rows, columns))
        return {**example, **dict(zip(self.keys, images, strict=True))}

    def _images(self, example: dict[str, Any]) -> list[np.ndarray]:
        images = [example[key] for key in self.keys]
        shapes = {
            key: image.shape for key, image in zip(self.keys, images, strict=True)
        }
        if len(set(shapes.values())) > 1:
            raise DataError(
                f"pair_augment: images of one pair differ in size: {shapes}"
            )
        for key, image in zip(self.keys, images, strict=True):
            if image.dtype != np.uint8 or image.ndim != 3:
                raise DataError(
                    f"pair_augment: takes uint8 images [h, w, c], {key!r} is {image.dtype} "
                    f"{list(image.shape)}: put it before to_float"
                )
        return images


def _draw(
    kind: str | None, size: tuple[int, int], bend: float, rng: np.random.Generator
) -> Map | None:
    """A random map of a kind; None if the kind only moves whole pixels."""

    def within(limit: float) -> float:
        return float(rng.uniform(-limit, limit))

    if kind == "shift_scale_rotate":
        shift = (within(SHIFT), within(SHIFT))
        return shift_scale_rotate(
            size, shift=shift, scale=1 + within(SCALE), angle=within(ANGLE)
        )
    if kind == "optical_distortion":
        return optical_distortion(size, k=within(DISTORTION))
    if kind == "elastic":
        corner = min(CORNER, min(size) / 12)
        corners = rng.uniform(-corner, corner, (3, 2))
        # Normal values at the knots give a field of this deviation, on average over places.
        field = rng.normal(0, bend * 315 / 151, (2, *knots(size)))
        return elastic(size, corners=corners, field=field)
    return None


__all__ = ["KINDS", "PairAugment", "bilinear", "elastic", "knots"] + [
    "optical_distortion",
    "shift_scale_rotate",
]
