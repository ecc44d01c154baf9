"""Corruption of the input alone: what a camera or a file format may add to the blur.

Each function is pure and takes its parameters; `Corrupt` draws them.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw, ImageFilter

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.data.geometry import mirrored

Picture = UInt8[np.ndarray, "h w 3"]


def cutout(image: Picture, centres: Int[np.ndarray, "n 2"], *, size: int) -> Picture:
    """Blackens squares; a border cuts them.

    Args:
      image: To corrupt.
      centres: (row, column) of each square.
      size: Their side in pixels; odd.
    """
    out, reach = image.copy(), size // 2
    for y, x in centres:
        out[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = 0
    return out


def jpeg(image: Picture, *, quality: int) -> Picture:
    """Writes a JPEG with halved colour resolution, and reads it back."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(Image.open(file))


def motion_blur(image: Picture, line: Bool[np.ndarray, "k k"]) -> Picture:
    """Mean over the pixels of a line; beyond a border the image is mirrored.

    Args:
      image: To corrupt.
      line: Which neighbours count; k is odd and the pixel itself in the middle.
    """
    h, w = image.shape[:2]
    reach = len(line) // 2
    rows = mirrored(np.arange(-reach, h + reach), h)
    columns = mirrored(np.arange(-reach, w + reach), w)
    padded = image[rows[:, None], columns].astype(np.uint16)  # 49 x 255 fits
    total = np.zeros(image.shape, np.uint16)
    for y, x in np.argwhere(line):
        total += padded[y : y + h, x : x + w]
    count = np.uint16(line.sum())
    return ((total + count // 2) // count).astype(np.uint8)


def draw_line(
    size: int, start: tuple[int, int], end: tuple[int, int]
) -> Bool[np.ndarray, "k k"]:
    """The pixels of a thin line between two (column, row) places in a square."""
    square = Image.new("L", (size, size))
    ImageDraw.Draw(square).line([start, end], fill=1)
    return np.array(square, bool)


def median_blur(image: Picture, *, size: int) -> Picture:
    """Median of size x size pixels per channel; beyond a border its pixels are repeated."""
    return np.array(Image.fromarray(image).filter(ImageFilter.MedianFilter(size)))


def gamma(image: Picture, *, exponent: float) -> Picture:
    """Grey levels in [0, 1] to the power of 1 / `exponent`: above 1 brightens."""
    levels = 255 * np.linspace(0, 1, 256) ** (1 / exponent)
    return np.round(levels).astype(np.uint8)[image]


def rgb_shift(image: Picture, shift: Int[np.ndarray, "3"]) -> Picture:
    """Adds a number of grey levels to each channel."""
    return np.clip(image.astype(np.int16) + shift.astype(np.int16), 0, 255).astype(
        np.uint8
    )


def hsv_shift(
    image: Picture, *, hue: float, saturation: float, value: float
) -> Picture:
    """Adds to hue (in degrees, round the circle), saturation and value (of 255, clipped)."""
    levels = np.array(Image.fromarray(image).convert("HSV")).astype(np.int16)
    levels[..., 0] = (levels[..., 0] + round(hue * 256 / 360)) % 256
    levels[..., 1] = np.clip(levels[..., 1] + round(saturation), 0, 255)
    levels[..., 2] = np.clip(levels[..., 2] + round(value), 0, 255)
    h, w = image.shape[:2]
    picture = Image.frombytes("HSV", (w, h), levels.astype(np.uint8).tobytes())
    return np.array(picture.convert("RGB"))


def sharpen(image: Picture, *, alpha: float, lightness: float) -> Picture:
    """Blends an image with its difference from eight neighbours; a border is mirrored.

    Args:
      image: To corrupt.
      alpha: Share of the sharpened image.
      lightness: Sum of the sharpening weights; below 1 darkens.
    """
    h, w = image.shape[:2]
    rows = mirrored(np.arange(-1, h + 1), h)
    columns = mirrored(np.arange(-1, w + 1), w)
    padded = image[rows[:, None], columns].astype(np.float32)
    triples = padded[:-2] + padded[1:-1] + padded[2:]
    block = triples[:, :-2] + triples[:, 1:-1] + triples[:, 2:]
    centre = padded[1:-1, 1:-1]
    # (8 + lightness) centre - neighbours, where block = neighbours + centre.
    sharp = (9 + lightness) * centre - block
    out = (1 - alpha) * centre + alpha * sharp
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


# Ranges: holes and JPEG qualities by the reference's config, the rest as albumentations 0.2.3
# has it by default. Our readings: holes of 25 pixels (24 there), gamma and hue by our rounding,
# hue in steps of 360/256 degrees (2 there).
def _cutout(image: Picture, rng: np.random.Generator) -> Picture:
    h, w = image.shape[:2]
    return cutout(image, rng.integers(0, (h + 1, w + 1), (3, 2)), size=25)


def _jpeg(image: Picture, rng: np.random.Generator) -> Picture:
    return jpeg(image, quality=int(rng.integers(70, 91)))


def _motion_blur(image: Picture, rng: np.random.Generator) -> Picture:
    size = int(rng.choice((3, 5, 7)))
    start = end = (0, 0)
    while start == end:  # a line of one pixel would not blur
        (*start,), (*end,) = rng.integers(0, size, (2, 2)).tolist()
    return motion_blur(image, draw_line(size, tuple(start), tuple(end)))


def _median_blur(image: Picture, rng: np.random.Generator) -> Picture:
    return median_blur(image, size=int(rng.choice((3, 5, 7))))


def _gamma(image: Picture, rng: np.random.Generator) -> Picture:
    return gamma(image, exponent=int(rng.integers(80, 121)) / 100)


def _rgb_shift(image: Picture, rng: np.random.Generator) -> Picture:
    return rgb_shift(image, rng.uniform(-20, 20, 3).astype(np.int16))


def _hsv_shift(image: Picture, rng: np.random.Generator) -> Picture:
    hue, saturation, value = rng.uniform(-1, 1, 3) * (40, 30, 20)
    return hsv_shift(image, hue=hue, saturation=saturation, value=value)


def _sharpen(image: Picture, rng: np.random.Generator) -> Picture:
    return sharpen(image, alpha=rng.uniform(0.2, 0.5), lightness=rng.uniform(0.5, 1))


CORRUPTIONS: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "cutout": _cutout,
    "jpeg": _jpeg,
    "motion_blur": _motion_blur,
    "median_blur": _median_blur,
    "gamma": _gamma,
    "rgb_shift": _rgb_shift,
    "hsv_shift": _hsv_shift,
    "sharpen": _sharpen,
}


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """With a given probability, one corruption of one entry, each as likely as the others.

    Args:
      probability: Of any corruption at all.
      kinds: Which of `CORRUPTIONS` to choose from.
      key: The image, uint8 [h, w, 3]. The truth beside it stays as it is.

    Source: reference code of arXiv 1908.03826, aug.py and config; it corrupts validation too.
    """

    probability: float = 0.5
    kinds: Sequence[str] = tuple(CORRUPTIONS)
    key: str = "image"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(
                f"corrupt: probability must lie in [0, 1], got {self.probability}"
            )
        if not self.kinds:
            raise ConfigError("corrupt: needs a kind at least")
        for kind in self.kinds:
            if kind not in CORRUPTIONS:
                raise ConfigError(
                    f"corrupt: unknown kind {kind!r}: {closest(kind, CORRUPTIONS)}"
                )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Corrupts `key`, or returns the example as it is."""
        image = example[self.key]
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise DataError(
                f"corrupt: takes uint8 images [h, w, 3], {self.key!r} is {image.dtype} "
                f"{list(image.shape)}: put it before to_float"
            )
        if rng.random() >= self.probability:
            return example
        kind = self.kinds[int(rng.random() * len(self.kinds))]
        return {**example, self.key: CORRUPTIONS[kind](image, rng)}
