"""Distances between a restored image and the truth: of pixels, and of features.

Images are RGB in [-1, 1]. Distances give one value per image. The truth gets no gradient.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PixelSpace = Literal["imagenet", "unit", "pm1"]
PIXEL_SPACES: tuple[PixelSpace, ...] = ("imagenet", "unit", "pm1")
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def to_space(
    image: Float[Array, "b h w 3"], space: PixelSpace
) -> Float[Array, "b h w 3"]:
    """Changes units: ``"pm1"`` [-1, 1] as given, ``"unit"`` [0, 1], ``"imagenet"`` normalised.

    >>> to_space(jnp.ones((1, 1, 1, 3)), "unit").tolist()
    [[[[1.0, 1.0, 1.0]]]]
    """
    if space not in PIXEL_SPACES:
        raise ValueError(
            f"unknown pixel space {space!r}: choose from {', '.join(PIXEL_SPACES)}"
        )
    if space == "pm1":
        return image
    unit = (image + 1) / 2
    if space == "unit":
        return unit
    mean, std = (x.reshape(1, 1, 1, 3) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (unit - mean) / std


def pixel_distance(
    image: Float[Array, "b h w 3"],
    truth: Float[Array, "b h w 3"],
    *,
    kind: Literal["mse", "l1"] = "mse",
    space: PixelSpace = "imagenet",
) -> Float[Array, "b"]:
    """Mean squared or absolute difference of pixels.

    Args:
      image: The restored images.
      truth: The sharp ones.
      kind: ``"mse"`` or ``"l1"``.
      space: Units of the pixels. ``"imagenet"`` is the released code's: the squared error is
        then 19 to 20 times that of [0, 1], which its weight of 0.5 is meant for.

    Source: arXiv 1908.03826, section 3.2; released code (``models/losses.py``).

    >>> x = jnp.zeros((2, 4, 4, 3))
    >>> pixel_distance(x + 1, x, space="unit").tolist()
    [0.25, 0.25]
    """
    if kind not in ("mse", "l1"):
        raise ValueError(f"kind must be 'mse' or 'l1', got {kind!r}")
    truth = jax.lax.stop_gradient(truth)
    difference = to_space(image, space) - to_space(truth, space)
    each = jnp.square(difference) if kind == "mse" else jnp.abs(difference)
    return jnp.mean(each, axis=(1, 2, 3))


def perceptual_distance(
    features: Callable[[Float[Array, "b h w 3"]], Float[Array, "b i j c"]],
    image: Float[Array, "b h w 3"],
    truth: Float[Array, "b h w 3"],
) -> Float[Array, "b"]:
    """Mean squared difference of features.

    Args:
      features: Takes images normalised by ImageNet's mean and deviation, such as
        ``lambda x: Vgg19Features().apply({"params": params}, x)``, or `gradient_features`.
      image: The restored images.
      truth: The sharp ones.

    Source: arXiv 1603.08155; arXiv 1908.03826, section 3.2 with VGG-19 up to conv3_3. The
    released code normalises only the first image of a batch; here all are.

    >>> x = jnp.linspace(-1, 1, 48).reshape(1, 4, 4, 3)
    >>> perceptual_distance(gradient_features, x, x).tolist()
    [0.0]
    """
    a, b = (to_space(x, "imagenet") for x in (image, truth))
    difference = features(a) - jax.lax.stop_gradient(features(b))
    return jnp.mean(jnp.square(difference), axis=(1, 2, 3))


def gradient_features(x: Float[Array, "b h w c"]) -> Float[Array, "b h-1 w-1 2c"]:
    """Differences to the pixel below and to the right: edges, which need no trained network.

    A stand-in for features of VGG-19 where its weights are not at hand. It punishes soft
    edges more than the pixel distance does, and knows nothing of textures or objects.

    >>> x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    >>> gradient_features(x)[0, 0, 0].tolist()
    [4.0, 1.0]
    """
    down = x[:, 1:, :-1] - x[:, :-1, :-1]
    right = x[:, :-1, 1:] - x[:, :-1, :-1]
    return jnp.concatenate([down, right], axis=-1)
