"""How sharp an image is beside its truth."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def sharpness_ratio(
    image: Float[Array, "b h w c"], reference: Float[Array, "b h w c"]
) -> Float[Array, "b"]:
    """Energy of the gradient of an image over that of the truth.

    Below 1 for a blurred image, 1 for one as sharp as the truth, above for noise and ringing.
    PSNR prefers values below 1; a GAN should come closer to it.

    Args:
      image: The image to judge.
      reference: The truth, not all of one colour.

    >>> x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    >>> float(sharpness_ratio(x / 2, x)[0])
    0.25
    """
    return _gradient_energy(image) / _gradient_energy(reference)


def _gradient_energy(image: Array) -> Array:
    image = image.astype(jnp.float32)
    return sum(
        jnp.sum(jnp.square(jnp.diff(image, axis=axis)), axis=(1, 2, 3))
        for axis in (1, 2)
    )
