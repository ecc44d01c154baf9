"""Residual networks for 32x32 images, as in the paper on residual learning."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.norm import BatchNorm

_HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class CifarBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut without parameters.

    Where the shape changes, the shortcut takes every second pixel and pads channels with
    zeros, the same number on both sides (option A).
    """

    features: int
    stride: int
    bn_momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the block."""
        y = x
        for index, stride in ((1, self.stride), (2, 1)):
            y = nn.Conv(
                self.features,
                (3, 3),
                strides=stride,
                padding=1,  # symmetric; "SAME" pads (0, 1) at stride 2
                use_bias=False,
                kernel_init=_HE,
                dtype=self.dtype,
                name=f"conv{index}",
            )(y)
            y = BatchNorm(
                momentum=self.bn_momentum, dtype=self.dtype, name=f"bn{index}"
            )(y, train=train)
            y = nn.relu(y) if index == 1 else y
        x = x[:, :: self.stride, :: self.stride].astype(y.dtype)
        missing = self.features - x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """Residual network for small images: three groups of 16, 32 and 64 channels.

    Attributes:
      depth: 6 n + 2 layers with n blocks per group.
      num_classes: Number of logits.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      dtype: Compute dtype; parameters, statistics and logits are float32.

    Source: arXiv 1512.03385, section 4.2, with shortcuts of option A.
    """

    depth: int = 20
    num_classes: int = 10
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics."""
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        x = nn.Conv(
            16,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=_HE,
            dtype=self.dtype,
            name="conv1",
        )(x)
        x = BatchNorm(momentum=momentum, dtype=self.dtype, name="bn1")(x, train=train)
        x = nn.relu(x)
        for group in (1, 2, 3):
            for index in range((self.depth - 2) // 6):
                x = CifarBlock(
                    features=8 * 2**group,
                    stride=2 if group > 1 and index == 0 else 1,
                    bn_momentum=momentum,
                    dtype=self.dtype,
                    name=f"layer{group}_{index}",
                )(x, train=train)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # b c
        return nn.Dense(self.num_classes, kernel_init=_HE, name="linear")(x)
