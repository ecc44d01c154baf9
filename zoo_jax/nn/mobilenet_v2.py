"""MobileNet-v2 as a feature extractor: maps at five strides."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.conv import conv, normal_by_outputs
from zoo_jax.nn.depthwise import DepthwiseConv
from zoo_jax.nn.norm import BatchNorm, NormMode

# (expansion, channels, repeats, stride) of the groups of blocks. Source: arXiv 1801.04381, table 2.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM = 32  # channels of the first convolution
# Number of the block that ends each map. The 160-channel group is cut before its third block,
# as in the published deblurring networks.
TAPS = (1, 3, 6, 10, 15)


def scaled(channels: int, width: float) -> int:
    """Channels times `width`, rounded to a multiple of 8, at least 8 and not 10 % too few."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class InvertedResidual(nn.Module):
    """Widens by a 1x1, filters depthwise, and narrows by a 1x1 without a nonlinearity."""

    features: int
    expansion: int
    stride: int
    norm_mode: NormMode
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the block."""

        def pointwise(x, features: int, name: str):
            return conv(
                x,
                features,
                1,
                bias=False,
                kernel_init=normal_by_outputs,
                dtype=self.dtype,
                name=name,
            )

        def norm(x, name: str):
            layer = BatchNorm(mode=self.norm_mode, dtype=self.dtype, name=name)
            return layer(x, train=train)

        y = x
        if self.expansion != 1:
            y = pointwise(y, self.expansion * x.shape[-1], "expand")
            y = nn.relu6(norm(y, "expand_bn"))
        y = DepthwiseConv(
            3,
            self.stride,
            kernel_init=normal_by_outputs,
            dtype=self.dtype,
            name="depthwise",
        )(y)
        y = nn.relu6(norm(y, "depthwise_bn"))
        y = norm(pointwise(y, self.features, "project"), "project_bn")
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV2Trunk(nn.Module):
    """The first 15 blocks of MobileNet-v2.

    Attributes:
      width: Multiplies all channels; see `scaled`.
      norm_mode: Of the batch norms.
      dtype: Compute dtype; parameters and statistics are float32.

    Source: arXiv 1801.04381.
    """

    width: float = 1.0
    norm_mode: NormMode = "running"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns the maps at strides 2, 4, 8, 16 and 32: 16, 24, 32, 64, 160 channels."""
        x = conv(
            x,
            scaled(STEM, self.width),
            3,
            stride=2,
            padding=1,
            bias=False,
            kernel_init=normal_by_outputs,
            dtype=self.dtype,
            name="stem",
        )
        norm = BatchNorm(mode=self.norm_mode, dtype=self.dtype, name="stem_bn")
        x = nn.relu6(norm(x, train=train))
        maps, number = [], 0
        for expansion, channels, repeats, stride in GROUPS:
            for index in range(repeats):
                number += 1
                if number > TAPS[-1]:
                    return tuple(maps)
                x = InvertedResidual(
                    features=scaled(channels, self.width),
                    expansion=expansion,
                    stride=stride if index == 0 else 1,
                    norm_mode=self.norm_mode,
                    dtype=self.dtype,
                    name=f"block{number}",
                )(x, train=train)
                if number in TAPS:
                    maps.append(x)
        return tuple(maps)
