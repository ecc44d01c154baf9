"""Augmentations of clips on the device: pure functions of a key and one clip; vmap over more.

Colours of 32 pictures cost more than the loader has time for, and next to nothing here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from zoo_jax.core.types import Key


def to_unit(video: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 -> float32 in [0, 1].

    >>> to_unit(jnp.array([0, 255], jnp.uint8)).tolist()
    [0.0, 1.0]
    """
    return video.astype(jnp.float32) / 255


def to_signed(video: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """[0, 1] -> [-1, 1], what the networks take. Values outside are cut off first.

    >>> to_signed(jnp.array([0.0, 0.5, 1.5])).tolist()
    [-1.0, 0.0, 1.0]
    """
    return 2 * jnp.clip(video, 0, 1) - 1


def jitter_colours(
    key: Key,
    video: Float[Array, "t h w 3"],
    *,
    brightness: float = 32 / 255,
    saturation: float = 0.4,
    contrast: float = 0.4,
    hue: float = 0.2,
    probability: float = 0.8,
) -> Float[Array, "t h w 3"]:
    r"""Changes brightness, saturation, contrast and hue, alike for all pictures of a clip.

    In this order, each by a number drawn evenly:
    :math:`x + u(\pm brightness)`; saturation times :math:`1 + u(\pm saturation)`; distance
    from the mean of picture and channel times :math:`1 + u(\pm contrast)`; hue turned by
    :math:`u(\pm hue)` of a full circle. The result is cut off to [0, 1].

    Args:
      key: Decides all draws.
      video: RGB in [0, 1].
      brightness: Of the range [0, 1].
      saturation: Share.
      contrast: Share.
      hue: Of a full circle.
      probability: Of any change at all.

    Returns:
      RGB in [0, 1].

    Source: arXiv 2104.11178, section 4 (the four numbers); order and probability as in the
    released code.
    """
    draws = jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0)
    out = video + brightness * draws[0]
    out = adjust_hsv(out, saturation=1 + saturation * draws[1])
    mean = out.mean(axis=(1, 2), keepdims=True)
    out = (out - mean) * (1 + contrast * draws[2]) + mean
    out = adjust_hsv(out, turn=hue * draws[3])
    changed = (draws[4] + 1) / 2 < probability
    return jnp.where(changed, jnp.clip(out, 0, 1), video)


def adjust_hsv(
    image: Float[Array, "*shape 3"],
    *,
    saturation: Float[Array, ""] | float = 1.0,
    turn: Float[Array, ""] | float = 0.0,
) -> Float[Array, "*shape 3"]:
    """Multiplies the saturation (at most 1 results) and turns the hue.

    >>> adjust_hsv(jnp.array([1.0, 0.0, 0.0]), turn=1 / 3).tolist()
    [0.0, 1.0, 0.0]

    Args:
      image: RGB; below 0 it is cut off.
      saturation: Factor.
      turn: Of a full circle.
    """
    image = jnp.maximum(image, 0)
    value = image.max(axis=-1)
    spread = value - image.min(axis=-1)
    grey = spread == 0
    r, g, b = (image[..., i] for i in range(3))
    safe = jnp.where(grey, 1, spread)
    sixth = jnp.where(
        r == value,
        (g - b) / safe,
        jnp.where(g == value, 2 + (b - r) / safe, 4 + (r - g) / safe),
    )
    share = spread / jnp.where(value == 0, 1, value)
    chroma = value * jnp.clip(share * saturation, 0, 1)
    sixth = sixth + 6 * turn

    def channel(place: float) -> Array:  # falls and rises around its own sixth
        k = (place + sixth) % 6
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def add_noise(
    key: Key, audio: Float[Array, "s"], *, scale: float = 0.01
) -> Float[Array, "s"]:
    """Adds Gaussian noise of ``scale * max |audio|``, as `clip_augment.AudioNoise` does."""
    noise = jax.random.normal(key, audio.shape, audio.dtype)
    return audio + scale * jnp.abs(audio).max() * noise
