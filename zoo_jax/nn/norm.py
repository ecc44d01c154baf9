"""Normalisation layers that keep the conventions of published PyTorch networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with an unbiased running variance.

    It differs from `flax.linen.BatchNorm` in one point: the running variance is averaged over
    *unbiased* batch variances (divisor n - 1), as in PyTorch, so that running statistics of
    converted and of further trained networks agree. Batches are normalised with the biased
    variance in both. Statistics are of the global batch and in float32 at any compute dtype.

    Attributes:
      momentum: Weight of the old running value; PyTorch's momentum is one minus this. With 0
        the running statistics are those of the last batch.
      epsilon: Added to the variance.
      dtype: Dtype of the output.
      scale_init: Of the factors.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], *, train: bool) -> Float[Array, "*b c"]:
        """Normalises by batch statistics and updates the running ones, or by the latter."""
        c = x.shape[-1]
        scale = self.param("scale", self.scale_init, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        running_mean = self.variable(
            "batch_stats", "mean", jnp.zeros, (c,), jnp.float32
        )
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        x = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        if train:
            mean, var = jnp.mean(x, axes), jnp.var(x, axes)
            if not self.is_initializing():
                n = x.size // c
                old = self.momentum
                # One value per channel has no unbiased variance; PyTorch refuses it.
                unbiased = var * (n / max(n - 1, 1))
                running_mean.value = old * running_mean.value + (1 - old) * mean
                running_var.value = old * running_var.value + (1 - old) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        # One multiply-add per element instead of a subtraction, a product and a sum.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (c,)
        offset = bias - mean * factor
        return (x * factor.reshape(shape) + offset.reshape(shape)).astype(self.dtype)
