"""Normalisation layers that keep the conventions of published PyTorch networks."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

NormMode = Literal["per_image", "batch", "running"]
NORM_MODES: tuple[NormMode, ...] = ("per_image", "batch", "running")

# The collection in which a layer leaves, if the caller makes it mutable, what it normalised
# by: "mean" and "var" [b or 1, c] at the place of its running statistics.
USED_STATISTICS = "used_statistics"


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
      mode: What evaluation normalises by: ``"running"`` statistics, those of the ``"batch"``,
        or those of each image (``"per_image"``). The last one also holds in training, and
        makes a batch the same as its images one by one; the others train by the batch.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    mode: NormMode = "running"

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], *, train: bool) -> Float[Array, "*b c"]:
        """Normalises; training also updates the running statistics."""
        c = x.shape[-1]
        scale = self.param("scale", self.scale_init, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        x = x.astype(jnp.float32)
        mean, var = _statistics(
            self, x, train=train, per_image=self.mode == "per_image"
        )
        # One multiply-add per element instead of a subtraction, a product and a sum.
        factor = _spread(scale, x) * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor + (_spread(bias, x) - mean * factor)).astype(self.dtype)


class InstanceNorm(nn.Module):
    """Normalisation of each channel of each image, without factors, with running statistics.

    PyTorch's ``InstanceNorm2d(affine=False, track_running_stats=True)``: in training the running
    statistics are averaged over the images of a batch, the variance as an unbiased one.

    Attributes:
      momentum: Weight of the old running value.
      epsilon: Added to the variance.
      dtype: Dtype of the output.
      mode: ``"running"`` evaluates by the running statistics, the others as in training.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    mode: NormMode = "per_image"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Normalises; training also updates the running statistics."""
        x = x.astype(jnp.float32)
        mean, var = _statistics(self, x, train=train, per_image=True)
        factor = jax.lax.rsqrt(var + self.epsilon)
        return (x * factor - mean * factor).astype(self.dtype)


def _statistics(
    norm: BatchNorm | InstanceNorm, x: Array, *, train: bool, per_image: bool
) -> tuple[Array, Array]:
    """Mean and biased variance to normalise `x` by; updates the running ones."""
    c = x.shape[-1]
    running_mean = norm.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
    running_var = norm.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
    if not train and norm.mode == "running":
        return _spread(running_mean.value, x), _spread(running_var.value, x)
    axes = tuple(range(1 if per_image else 0, x.ndim - 1))
    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    if norm.is_initializing():
        return mean, var
    if train:
        n = x.size // mean.size
        old = norm.momentum
        # One value per channel has no unbiased variance; PyTorch refuses it.
        unbiased = var * (n / max(n - 1, 1))
        for running, now in ((running_mean, mean), (running_var, unbiased)):
            now = jnp.mean(now.reshape(-1, c), 0)
            running.value = old * running.value + (1 - old) * now
    for name, value in (("mean", mean), ("var", var)):
        norm.sow(
            USED_STATISTICS,
            name,
            value.reshape(-1, c),
            init_fn=lambda: None,
            reduce_fn=lambda _, new: new,
        )
    return mean, var


def _spread(values: Array, x: Array) -> Array:
    """[c] with axes of length 1 before it, to go with `x`."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)
