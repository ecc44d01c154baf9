"""How the denoiser is used on pictures: see `zoo_jax.restorer`."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.core.types import Restoring
from zoo_jax.methods.u_said.model import DnCNN


def denoise(
    module: DnCNN, variables: Mapping[str, Any], x: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """Pictures without the noise that the network sees in them, clipped to [0, 1]."""
    return jnp.clip(x - module.apply(variables, x, train=False), 0.0, 1.0)


def dncnn_restoring(module: DnCNN) -> Restoring:
    """Takes any size. The receptive field is one pixel wider on each side per convolution."""
    return Restoring(denoise, channels=module.channels, reach=module.depth)
