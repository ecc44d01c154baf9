"""Bottleneck residual networks for photographs: ResNet-50, ResNet-101.

Two variants are published. That of torchvision has its stride on the 3x3 and no biases. That of
Keras (2.1, file of release v0.2) has the stride on the first 1x1 as in the paper, biases behind
every convolution, a norm epsilon of 1e-3, and a first pooling that does not pad.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.conv import pointwise
from zoo_jax.nn.norm import BatchNorm

Variant = Literal["torchvision", "keras"]

RESNET_50, RESNET_101 = (3, 4, 6, 3), (3, 4, 23, 3)  # blocks per group

_HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_EPSILON = {"torchvision": 1e-5, "keras": 1e-3}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm around a shortcut."""

    features: int  # of the 3x3; the block has four times as many outputs
    stride: int
    project: bool  # a 1x1 convolution on the shortcut: first block of each group
    bn_momentum: float
    dtype: DTypeLike
    variant: Variant = "torchvision"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the block."""
        keras = self.variant == "keras"

        def conv(x, features: int, size: int, stride: int, names: tuple[str, str]):
            x = nn.Conv(
                features,
                (size, size),
                strides=stride,
                padding=size // 2,  # symmetric; "SAME" pads (0, 1) at stride 2
                use_bias=keras,
                kernel_init=_HE,
                dtype=self.dtype,
                conv_general_dilated=pointwise if size == 1 else None,
                name=names[0],
            )(x)
            norm = BatchNorm(
                momentum=self.bn_momentum,
                epsilon=_EPSILON[self.variant],
                dtype=self.dtype,
                name=names[1],
            )
            return norm(x, train=train)

        wide = 4 * self.features
        first, second = (self.stride, 1) if keras else (1, self.stride)
        y = nn.relu(conv(x, self.features, 1, first, ("conv1", "bn1")))
        y = nn.relu(conv(y, self.features, 3, second, ("conv2", "bn2")))
        y = conv(y, wide, 1, 1, ("conv3", "bn3"))
        if self.project:
            x = conv(x, wide, 1, self.stride, ("downsample_conv", "downsample_bn"))
        return nn.relu(x + y)


class ResNetTrunk(nn.Module):
    """A bottleneck ResNet without its classifier: the maps behind each of the four groups.

    Attributes:
      blocks: Blocks per group; `RESNET_50`, `RESNET_101`.
      width: Channels of the first convolution; 64 in the published networks.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      dtype: Compute dtype; parameters and statistics are float32.
      variant: Which published network.

    Source: arXiv 1512.03385, table 1.
    """

    blocks: tuple[int, ...] = RESNET_101
    width: int = 64
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32
    variant: Variant = "torchvision"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns the maps c2, c3, ... at 1/4, 1/8, ... of the height and width, rounded up."""
        keras = self.variant == "keras"
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        x = nn.Conv(
            self.width,
            (7, 7),
            strides=2,
            padding=3,
            use_bias=keras,
            kernel_init=_HE,
            dtype=self.dtype,
            name="conv1",
        )(x)
        norm = BatchNorm(
            momentum=momentum,
            epsilon=_EPSILON[self.variant],
            dtype=self.dtype,
            name="bn1",
        )
        x = nn.relu(norm(x, train=train))
        pad = (
            (0, 0) if keras else (1, 1)
        )  # by -inf: negative values are not lifted to 0
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=(pad, pad))
        maps = []
        for group, count in enumerate(self.blocks):
            for index in range(count):
                x = Bottleneck(
                    features=self.width * 2**group,
                    stride=2 if group and index == 0 else 1,
                    project=index == 0,
                    bn_momentum=momentum,
                    dtype=self.dtype,
                    variant=self.variant,
                    name=f"layer{group + 1}_{index}",
                )(x, train=train)
            maps.append(x)
        return tuple(maps)


class ResNet(nn.Module):
    """A bottleneck ResNet with its classifier.

    Attributes:
      blocks: Blocks per group; `RESNET_50`, `RESNET_101`.
      width: Channels of the first convolution; 64 in the published networks.
      num_classes: Number of logits.
      variant: Which published network.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      dtype: Compute dtype; parameters, statistics and logits are float32.

    Source: arXiv 1512.03385, table 1.
    """

    blocks: tuple[int, ...] = RESNET_50
    width: int = 64
    num_classes: int = 1000
    variant: Variant = "torchvision"
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics."""
        trunk = ResNetTrunk(
            blocks=self.blocks,
            width=self.width,
            bn_momentum=self.bn_momentum,
            dtype=self.dtype,
            variant=self.variant,
            name="trunk",
        )
        x = jnp.mean(trunk(x, train=train)[-1].astype(jnp.float32), axis=(1, 2))  # b c
        return nn.Dense(self.num_classes, name="fc")(x)
