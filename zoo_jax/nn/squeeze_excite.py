"""Squeeze and excitation: channels weighed by what the whole map holds."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a gate in [0, 1] computed from the means of all channels.

    Attributes:
      features: Width of the layer between the means and the gates.
      gate: Maps the last layer to [0, 1]: the logistic function as published, or
        `jax.nn.hard_sigmoid` as in MobileNetV3.
      dtype: Compute dtype.

    Source: arXiv 1709.01507, equations (2) to (4).
    """

    features: int
    gate: Callable[[Array], Array] = jax.nn.sigmoid
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        """Weighs the channels."""
        axes = tuple(range(1, x.ndim - 1))
        # 1x1 convolutions, in whose layout published weights come.
        ones = (1,) * len(axes)
        y = jnp.mean(x, axis=axes, keepdims=True)
        y = nn.relu(nn.Conv(self.features, ones, dtype=self.dtype, name="reduce")(y))
        y = nn.Conv(x.shape[-1], ones, dtype=self.dtype, name="expand")(y)
        return x * self.gate(y)
