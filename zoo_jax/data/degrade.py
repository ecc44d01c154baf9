"""Noise: drawn on the device while training, and tied to the image while measuring."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Key
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
