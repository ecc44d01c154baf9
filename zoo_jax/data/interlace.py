"""Interlaced frames: the odd rows are taken later than the even ones, while the camera pans."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from zoo_jax.core.errors import ConfigError, DataError

Picture = UInt8[np.ndarray, "h w c"]


def weave(first: Picture, second: Picture) -> Picture:
    """One interlaced frame of two: the even rows of the first, the odd rows of the second.

    >>> weave(np.zeros((3, 1, 1), np.uint8), np.ones((3, 1, 1), np.uint8))[:, 0, 0].tolist()
    [0, 1, 0]
    """
    out = first.copy()
    out[1::2] = second[1::2]
    return out


def move_right(image: Picture, pixels: float) -> Picture:
    """Moves a picture along its rows, by linear interpolation; borders are repeated.

    >>> move_right(np.array([[[0], [10], [20]]], np.uint8), 0.5)[0, :, 0].tolist()
    [0, 5, 15]
    """
    w = image.shape[1]
    place = np.clip(np.arange(w) - pixels, 0, w - 1)
    left = np.floor(place).astype(int)
    part = (place - left).astype(np.float32)[None, :, None]
    right = np.minimum(left + 1, w - 1)
    moved = (1 - part) * image[:, left] + part * image[:, right]
    return np.rint(moved).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Interlace:
    """Interlaces an image as if the camera had panned between its two fields.

    Args:
      pixels: Least and largest distance that the scene moves to the right, drawn evenly.
      key: The image, uint8 [h, w, c].
      truth: Where the progressive one is kept; empty drops it.

    Raises:
      ConfigError: for a range that is none.
    """

    pixels: Sequence[float] = (-4.0, 4.0)
    key: str = "image"
    truth: str = "sharp"

    def __post_init__(self) -> None:
        if len(self.pixels) != 2 or not self.pixels[0] <= self.pixels[1]:
            raise ConfigError(
                f"interlace: pixels must be (least, largest), got {self.pixels}"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Interlaces `key`."""
        image = example[self.key]
        if image.dtype != np.uint8 or image.ndim != 3:
            raise DataError(
                f"interlace: takes uint8 images [h, w, c], {self.key!r} is {image.dtype} "
                f"{list(image.shape)}: put it before to_float"
            )
        moved = move_right(image, rng.uniform(*self.pixels))
        kept = {self.truth: image} if self.truth else {}
        return {**example, self.key: weave(image, moved), **kept}
