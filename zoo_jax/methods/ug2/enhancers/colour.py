"""Luminance, and pictures that change in it alone."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def luminance(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Y of BT.601 in its full range: 0 for black, 1 for white.

    >>> luminance(jnp.ones((1, 1, 1, 3))).tolist()
    [[[1.0]]]
    """
    red, green, blue = (images[..., i] for i in range(3))
    # Blue's weight is what is left, so that grey levels are exact.
    return blue + 0.299 * (red - blue) + 0.587 * (green - blue)


def change_luminance(
    images: Float[Array, "b h w 3"], change: Float[Array, "b h w"]
) -> Float[Array, "b h w 3"]:
    """Adds to the luminance, keeps both colour differences, and clips to [0, 1]."""
    return jnp.clip(images + change[..., None], 0.0, 1.0)
