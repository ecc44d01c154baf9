"""Tone mapping of the whole picture by one curve."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.methods.ug2.enhancers.colour import luminance


def reinhard(
    images: Float[Array, "b h w 3"], *, key: float = 0.18, white: float = 2.0
) -> Float[Array, "b h w 3"]:
    """Reinhard's global operator on the luminance, with colours scaled along.

    The luminance is scaled so that its geometric mean is `key`, then compressed:
    ``L (1 + L / white^2) / (1 + L)``, so that `white` and above become white.

    Source: Reinhard, Stark, Shirley and Ferwerda, SIGGRAPH 2002, equations 2 and 4. It is
    applied to stored values, not to light.
    """
    y = luminance(images)
    mean = jnp.exp(jnp.mean(jnp.log(y + 1e-3), axis=(1, 2), keepdims=True))
    scaled = key / mean * y
    mapped = scaled * (1 + scaled / white**2) / (1 + scaled)
    black = y < 1e-6
    gain = jnp.where(black, 1.0, mapped / jnp.where(black, 1.0, y))
    return jnp.clip(gain[..., None] * images, 0.0, 1.0)
