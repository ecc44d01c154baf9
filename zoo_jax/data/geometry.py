"""Transforms that move pixels: crops, mirrors and resampling. See `transforms`."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int

from zoo_jax.core.errors import ConfigError, DataError, closest

_METHODS = ("bilinear", "bicubic", "nearest", "lanczos")


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Pads by `pad` zero pixels on each side, then cuts a window at a random place.

    Args:
      size: (height, width) of the window, or one number for both; None keeps the image size.
      pad: Pixels added on every side before the cut.
      pad_if_needed: An image smaller than the window is continued by mirroring, half of what
        lacks on each side, instead of being refused; it excludes `pad`.
      key: The image [h, w, c].
    """

    size: int | Sequence[int] | None = None
    pad: int = 0
    pad_if_needed: bool = False
    key: str = "image"

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ConfigError(f"random_crop: pad must not be negative, got {self.pad}")
        if self.pad and self.pad_if_needed:
            raise ConfigError(
                f"random_crop: pad={self.pad} adds zeros, pad_if_needed mirrors: choose one"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Crops `key`."""
        image = example[self.key]
        h, w = image.shape[:2]
        ch, cw = (h, w) if self.size is None else pair(self.size)
        if self.pad_if_needed:
            y, x = random_place(rng, (h, w), (ch, cw))
            return {**example, self.key: mirrored_window(image, y, x, ch, cw)}
        spare_y, spare_x = h + 2 * self.pad - ch, w + 2 * self.pad - cw
        if spare_y < 0 or spare_x < 0:
            raise DataError(
                f"random_crop: an image of {h}x{w} padded by {self.pad} is smaller than "
                f"the crop {ch}x{cw}: choose a smaller size, resize first or set pad_if_needed"
            )
        # Not rng.integers, which takes four times longer for a single number.
        y = int(rng.random() * (spare_y + 1)) - self.pad
        x = int(rng.random() * (spare_x + 1)) - self.pad
        # Only the part inside the image is copied: np.pad would cost more than the rest.
        top, left = max(y, 0), max(x, 0)
        inside = image[top : max(y + ch, top), left : max(x + cw, left)]
        if inside.shape[:2] != (ch, cw):
            window = np.zeros((ch, cw, *image.shape[2:]), image.dtype)
            ih, iw = inside.shape[:2]
            window[top - y : top - y + ih, left - x : left - x + iw] = inside
            inside = window
        return {**example, self.key: inside}


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors left and right with a given probability."""

    probability: float = 0.5
    key: str = "image"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(
                f"horizontal_flip: probability must lie in [0, 1], got {self.probability}"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Mirrors `key`, or returns the example as it is."""
        flip = rng.random() < self.probability  # drawn always: later draws keep place
        return {**example, self.key: example[self.key][:, ::-1]} if flip else example


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Cuts a window out of the middle; at half a pixel it rounds to the even place.

    Args:
      size: (height, width) of the window, or one number for both.
      pad_if_needed: An image smaller than the window is continued by mirroring, half of what
        lacks on each side, instead of being refused.
      key: The image [h, w, c].
    """

    size: int | Sequence[int]
    pad_if_needed: bool = False
    key: str = "image"

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Crops `key`."""
        del rng
        image = example[self.key]
        (h, w), (ch, cw) = image.shape[:2], pair(self.size)
        if (h < ch or w < cw) and not self.pad_if_needed:
            raise DataError(
                f"center_crop: an image of {h}x{w} is smaller than the crop {ch}x{cw}: "
                "choose a smaller size, resize first or set pad_if_needed"
            )
        y, x = _middle(h, ch), _middle(w, cw)
        return {**example, self.key: mirrored_window(image, y, x, ch, cw)}


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resamples a uint8 image, antialiased as Pillow does.

    Args:
      size: (height, width), or one number for both.
      keep_aspect: The shorter side becomes `size`, then one number; the other follows,
        rounded down.
      method: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"lanczos"``.
      key: The image, uint8 [h, w, c] with 1, 3 or 4 channels.
    """

    size: int | Sequence[int]
    keep_aspect: bool = False
    method: str = "bilinear"
    key: str = "image"

    def __post_init__(self) -> None:
        require_method("resize", self.method)
        if self.keep_aspect and not isinstance(self.size, int):
            raise ConfigError(
                "resize: keep_aspect takes one number, the length of the shorter side, "
                f"got size={self.size}"
            )

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Resamples `key`."""
        del rng
        image = example[self.key]
        size = pair(self.size)
        if self.keep_aspect:
            h, w = image.shape[:2]
            size = (self.size * h // min(h, w), self.size * w // min(h, w))
        return {**example, self.key: _resample("resize", image, size, self.method)}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts a window of random area and aspect ratio, and resamples it to one size.

    After ten windows that do not fit, the largest one in the middle is taken whose aspect
    ratio is in range.

    Args:
      size: (height, width) of the result, or one number for both.
      area: Least and largest share of the image's area; drawn evenly.
      aspect: Least and largest width over height; its logarithm is drawn evenly.
      method: As in `Resize`.
      key: As in `Resize`.
    """

    size: int | Sequence[int]
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    method: str = "bilinear"
    key: str = "image"

    def __post_init__(self) -> None:
        require_method("random_resized_crop", self.method)
        for name, given, most in (
            ("area", self.area, 1.0),
            ("aspect", self.aspect, math.inf),
        ):
            pair = isinstance(given, Sequence) and len(given) == 2
            if not (pair and 0 < given[0] <= given[1] <= most):
                raise ConfigError(
                    f"random_resized_crop: {name} must be a range (least, largest) above 0"
                    f"{' and up to 1' if most == 1 else ''}, got {given}"
                )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Crops and resamples `key`."""
        image = example[self.key]
        y, x, h, w = self.window(*image.shape[:2], rng)
        size, name = pair(self.size), "random_resized_crop"
        out = _resample(name, image[y : y + h, x : x + w], size, self.method)
        return {**example, self.key: out}

    def window(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draws a window of an image: its top, left, height and width."""
        low, high = map(math.log, self.aspect)
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                y = int(rng.random() * (height - h + 1))
                x = int(rng.random() * (width - w + 1))
                return y, x, h, w
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1])
        h = max(1, min(height, round(width / aspect)))
        w = max(1, min(width, round(height * aspect)))
        return (height - h) // 2, (width - w) // 2, h, w


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size, which may be one number for both."""
    h, w = (size, size) if isinstance(size, int) else size
    return h, w


def fit_short_side(shape: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width whose shorter one is `short_side`, of nearly the same proportion.

    >>> fit_short_side((720, 1280), 256)
    (256, 455)
    """
    height, width = shape
    scale = Fraction(short_side, min(height, width))
    return round(height * scale), round(width * scale)


def random_place(
    rng: np.random.Generator, image: tuple[int, int], window: tuple[int, int]
) -> tuple[int, int]:
    """Top left corner of a random window; negative where the image is smaller than it."""
    (h, w), (ch, cw) = image, window
    y, x = (rng.random(), rng.random())  # drawn always: later draws keep place
    top = int(y * (h - ch + 1)) if h >= ch else _middle(h, ch)
    left = int(x * (w - cw + 1)) if w >= cw else _middle(w, cw)
    return top, left


def mirrored(index: Int[np.ndarray, "..."], size: int) -> Int[np.ndarray, "..."]:
    """Indices of pixels that continue an axis by mirrors; the border pixel is not repeated."""
    if size == 1:
        return np.zeros_like(index)
    index = index % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def mirrored_window(
    image: np.ndarray, top: int, left: int, height: int, width: int
) -> np.ndarray:
    """A window that may leave the image [h, w, ...], which is continued by mirrors."""
    h, w = image.shape[:2]
    if top >= 0 and left >= 0 and top + height <= h and left + width <= w:
        return image[top : top + height, left : left + width]
    rows = mirrored(np.arange(top, top + height), h)
    columns = mirrored(np.arange(left, left + width), w)
    return image[rows[:, None], columns]


def _middle(size: int, window: int) -> int:
    """Where a window in the middle starts; half a missing pixel more comes at the end."""
    return round((size - window) / 2) if size >= window else -((window - size) // 2)


def require_method(name: str, method: str) -> None:
    """Raises `ConfigError` for a way of resampling that there is not."""
    if method not in _METHODS:
        raise ConfigError(
            f"{name}: unknown method {method!r}: {closest(method, _METHODS)}"
        )


def _resample(
    name: str, image: np.ndarray, size: tuple[int, int], method: str
) -> np.ndarray:
    from PIL import Image

    if image.dtype != np.uint8:
        raise DataError(
            f"{name}: takes uint8 images, got {image.dtype}: put it before to_float"
        )
    (h, w), channels = size, image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    out = picture.resize((w, h), Image.Resampling[method.upper()])
    return np.asarray(out).reshape(h, w, channels)
