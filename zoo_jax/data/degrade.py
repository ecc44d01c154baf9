"""Degraded images beside clean ones: noise, blur, compression, loss of resolution.

Noise is drawn on the device while training, and tied to the image while measuring.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.types import Key
from zoo_jax.data.corruptions import draw_line, jpeg, motion_blur
from zoo_jax.data.geometry import mirrored
from zoo_jax.data.source import Source, open_source


def gaussian_noise(
    key: Key, shape: tuple[int, ...], *, sigma: tuple[float, float]
) -> tuple[Float[Array, "b h w c"], Float[Array, "b"]]:
    """White noise whose strength differs from image to image.

    A pure function of the key, whatever the number of devices.

    Args:
      key: For this batch alone.
      shape: (b, h, w, c).
      sigma: Least and largest standard deviation, in grey levels of 255; drawn uniformly
        and once per image.

    Returns:
      The noise in units of [0, 1], and the deviations in grey levels.

    >>> noise, level = gaussian_noise(jax.random.key(0), (2, 64, 64, 3), sigma=(25, 25))
    >>> level.tolist(), round(float(255 * jnp.std(noise)))
    ([25.0, 25.0], 25)
    """
    level_key, noise_key = jax.random.split(key)
    low, high = sigma
    level = jax.random.uniform(level_key, shape[:1], minval=low, maxval=high)
    # `uniform` promises [low, high) only up to rounding; equal bounds must be exact.
    level = jnp.clip(level, low, high)
    noise = jax.random.normal(noise_key, shape) * (level / 255).reshape(-1, 1, 1, 1)
    return noise, level


def fixed_noise(
    shape: tuple[int, ...], *, sigma: float, index: int
) -> Float[np.ndarray, "h w c"]:
    """White noise that depends on (sigma, index) alone, the same on every machine and day.

    It comes from numpy's legacy generator, whose stream is frozen.

    Args:
      shape: Of the image.
      sigma: Standard deviation in grey levels of 255, in steps of 0.001.
      index: Number of the image in its data set.

    Returns:
      float32, in units of [0, 1].

    >>> a, b = (fixed_noise((4, 5, 3), sigma=25, index=7) for _ in range(2))
    >>> bool((a == b).all())
    True
    """
    rng = np.random.RandomState([round(1000 * sigma), index])
    return rng.normal(0.0, sigma / 255, shape).astype(np.float32)


class NoisyImages:
    """Another source, with a noisy copy of each image: ``noisy = image / 255 + noise``.

    ``noisy`` is float32 and not clipped; `fixed_noise` says which noise. ``image`` becomes
    float32 in [0, 1].

    Args:
      source: The section of the clean images, e.g. ``dict(name="sample_photos", split="test")``.
      sigma: Standard deviation of the noise in grey levels of 255.

    Raises:
      ConfigError: for a negative deviation.
    """

    def __init__(self, *, source: Mapping[str, Any] | Source, sigma: float):
        if not 0 <= sigma <= 255:
            raise ConfigError(f"noisy_images: sigma must be in 0..255, got {sigma}")
        self._source = open_source(source) if isinstance(source, Mapping) else source
        self._sigma = sigma
        self.info = dict(getattr(self._source, "info", {}))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._source[index]
        image = example["image"]
        if image.dtype != np.uint8:
            raise ConfigError(
                f"noisy_images: takes uint8 images, its source has {image.dtype}"
            )
        image = image.astype(np.float32) / np.float32(255)
        noise = fixed_noise(image.shape, sigma=self._sigma, index=index)
        return {**example, "image": image, "noisy": image + noise}


Picture = UInt8[np.ndarray, "h w 3"]


def gaussian_blur(image: Picture, *, sigma: float) -> Picture:
    """Blurs by a Gaussian up to four deviations away; borders are mirrored, values rounded.

    Args:
      image: To degrade.
      sigma: Deviation in pixels; below 0.1 nothing changes.
    """
    if sigma < 0.1:
        return image
    reach = max(math.ceil(4 * sigma), 1)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    weights = (weights / weights.sum()).astype(np.float32)
    out = image.astype(np.float32)
    for axis in (0, 1):
        n = image.shape[axis]
        padded = np.take(out, mirrored(np.arange(-reach, n + reach), n), axis)
        out = sum(
            weight * np.take(padded, np.arange(i, i + n), axis)
            for i, weight in enumerate(weights)
        )
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def linear_motion_blur(image: Picture, *, length: int, degrees: float) -> Picture:
    """The mean over the pixels of a thin line through each pixel.

    Args:
      image: To degrade.
      length: Of the line in pixels, odd; 1 changes nothing.
      degrees: Its angle to the rows, turning upwards.
    """
    reach, angle = length // 2, math.radians(degrees)
    x, y = round(reach * math.cos(angle)), round(reach * math.sin(angle))
    ends = (reach - x, reach + y), (reach + x, reach - y)
    return motion_blur(image, draw_line(length, *ends))


def lower_resolution(image: Picture, *, factor: float) -> Picture:
    """Shrinks by a factor and enlarges to the old size, both with Pillow's bicubic kernel."""
    h, w = image.shape[:2]
    small = (max(round(w / factor), 1), max(round(h / factor), 1))
    resample = Image.Resampling.BICUBIC
    picture = Image.fromarray(image).resize(small, resample)
    return np.array(picture.resize((w, h), resample))


@dataclasses.dataclass(frozen=True)
class Degrade:
    """Degrades an image and keeps the clean one beside it.

    In this order, each where it is asked for: loss of resolution, Gaussian blur, linear motion
    blur at any angle, JPEG. The defaults are those of a participant of the UG^2 challenge
    (arXiv 1901.09482), who let either blurs or JPEG out at times.

    Args:
      quality: Of the JPEG; 0 for none.
      sigma: Least and largest deviation of the Gaussian blur in pixels, drawn evenly.
      lengths: Of the motion blur in pixels, odd, each as likely; empty for none.
      factor: By which the resolution is lowered; 1 for none.
      probability: With which the blurs, and then the JPEG, are applied, each by its own draw.
      key: The image, uint8 [h, w, 3].
      truth: Where the clean one is kept; empty drops it.

    Raises:
      ConfigError: for a value out of range.
    """

    quality: int = 10
    sigma: Sequence[float] = (0.0, 1.0)
    lengths: Sequence[int] = (3, 5, 7, 9)
    factor: float = 1.0
    probability: float = 1.0
    key: str = "image"
    truth: str = "sharp"

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 95:
            raise ConfigError(f"degrade: quality must be in 0..95, got {self.quality}")
        if len(self.sigma) != 2 or not 0 <= self.sigma[0] <= self.sigma[1]:
            raise ConfigError(
                f"degrade: sigma must be (least, largest) from 0, got {self.sigma}"
            )
        if any(n < 1 or n % 2 == 0 for n in self.lengths):
            raise ConfigError(
                f"degrade: lengths must be odd and positive, got {list(self.lengths)}"
            )
        if not self.factor >= 1:
            raise ConfigError(f"degrade: factor must be 1 or more, got {self.factor}")
        if not 0 <= self.probability <= 1:
            raise ConfigError(
                f"degrade: probability must lie in [0, 1], got {self.probability}"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Degrades `key`."""
        image = clean = example[self.key]
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise DataError(
                f"degrade: takes uint8 images [h, w, 3], {self.key!r} is {image.dtype} "
                f"{list(image.shape)}: put it before to_float"
            )
        # All draws come first, so that one option does not change what another draws.
        blurs, compresses = rng.random(2) < self.probability
        sigma, degrees = rng.uniform(*self.sigma), rng.uniform(0, 360)
        place = rng.random()
        if self.factor > 1:
            image = lower_resolution(image, factor=self.factor)
        if blurs:
            image = gaussian_blur(image, sigma=sigma)
            if self.lengths:
                length = self.lengths[int(place * len(self.lengths))]
                image = linear_motion_blur(image, length=length, degrees=degrees)
        if compresses and self.quality:
            image = jpeg(image, quality=self.quality)
        kept = {self.truth: clean} if self.truth else {}
        return {**example, self.key: image, **kept}
