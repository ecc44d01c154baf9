"""EfficientNet-Lite: inverted residuals without squeeze-and-excitation, padded as in TensorFlow."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.conv import conv, normal_by_outputs
from zoo_jax.nn.depthwise import DepthwiseConv
from zoo_jax.nn.norm import BatchNorm

EPSILON = 1e-3  # of all its norms


class Group(NamedTuple):
    """Blocks in a row; the first one has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    features: int


# Source: arXiv 1905.11946, table 1, at width and depth 1.
LITE0 = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320),
)


def same_pad(x: Float[Array, "b h w c"], size: int, stride: int) -> Array:
    """Pads for a map of ceil(n / stride); half a missing pixel more comes at the end."""

    def pads(n: int) -> tuple[int, int]:
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        return total // 2, total - total // 2

    return jnp.pad(x, ((0, 0), pads(x.shape[1]), pads(x.shape[2]), (0, 0)))


class InvertedResidual(nn.Module):
    """Widens by a 1x1, filters depthwise, and narrows by a 1x1 without a nonlinearity."""

    group: Group
    stride: int
    bn_momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the block."""

        def norm(x, name: str):
            layer = BatchNorm(
                momentum=self.bn_momentum,
                epsilon=EPSILON,
                dtype=self.dtype,
                name=f"{name}_bn",
            )
            return layer(x, train=train)

        def pointwise(x, features: int, name: str):
            y = conv(
                x,
                features,
                1,
                bias=False,
                kernel_init=normal_by_outputs,
                dtype=self.dtype,
                name=name,
            )
            return norm(y, name)

        y, group = x, self.group
        if group.expansion != 1:
            y = nn.relu6(pointwise(y, group.expansion * x.shape[-1], "expand"))
        y = DepthwiseConv(
            group.kernel,
            self.stride,
            padding=0,
            kernel_init=normal_by_outputs,
            dtype=self.dtype,
            name="depthwise",
        )(same_pad(y, group.kernel, self.stride))
        y = pointwise(nn.relu6(norm(y, "depthwise")), group.features, "project")
        return x + y if self.stride == 1 and x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite for 224x224 images. The input is (RGB in [0, 255] - 127) / 128.

    Attributes:
      groups: Of blocks; `LITE0`.
      stem: Channels of the first convolution.
      head: Channels of the last one.
      num_classes: Number of logits.
      dropout: Rate before the last layer.
      bn_momentum: Weight of the old running statistics; None takes the published 0.99.
      dtype: Compute dtype; parameters, statistics and logits are float32.

    Source: arXiv 1905.11946, and the released variant "lite" of it.
    """

    groups: tuple[Group, ...] = LITE0
    stem: int = 32
    head: int = 1280
    num_classes: int = 1000
    dropout: float = 0.2
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics and dropout (rng ``"dropout"``)."""
        momentum = 0.99 if self.bn_momentum is None else self.bn_momentum

        def layer(x, features: int, size: int, stride: int, name: str):
            x = conv(
                same_pad(x, size, stride),
                features,
                size,
                stride=stride,
                bias=False,
                kernel_init=normal_by_outputs,
                dtype=self.dtype,
                name=name,
            )
            norm = BatchNorm(
                momentum=momentum, epsilon=EPSILON, dtype=self.dtype, name=f"{name}_bn"
            )
            return nn.relu6(norm(x, train=train))

        x = layer(x, self.stem, 3, 2, "stem")
        number = 0
        for group in self.groups:
            for index in range(group.repeats):
                x = InvertedResidual(
                    group,
                    stride=group.stride if index == 0 else 1,
                    bn_momentum=momentum,
                    dtype=self.dtype,
                    name=f"block{number}",
                )(x, train=train)
                number += 1
        x = layer(x, self.head, 1, 1, "head")
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # b c
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="fc")(x)
