"""GoogLeNet (Inception v1) with batch norm, in the layout of torchvision."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.norm import BatchNorm
from zoo_jax.nn.pool import adaptive_mean_pool, ceil_max_pool

_NORMAL = nn.initializers.normal(0.01)

# Channels of an inception block: 1x1; 1x1 then 3x3; 1x1 then 3x3; 1x1 behind the pooling.
INCEPTIONS: dict[str, tuple[int, int, int, int, int, int]] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


def inception_names(num_blocks: int) -> list[str]:
    """The first blocks, in the order of execution."""
    return list(INCEPTIONS)[:num_blocks]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    features: int
    size: int
    bn_momentum: float
    dtype: DTypeLike
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the three."""
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,
            use_bias=False,
            kernel_init=_NORMAL,
            dtype=self.dtype,
            name="conv",
        )(x)
        norm = BatchNorm(
            momentum=self.bn_momentum, epsilon=1e-3, dtype=self.dtype, name="bn"
        )
        return nn.relu(norm(x, train=train))


class Inception(nn.Module):
    """Four branches side by side; their outputs are concatenated.

    The third branch convolves by 3x3, not by the 5x5 of the paper: torchvision keeps this
    for the sake of its published weights, and so do we.
    """

    channels: tuple[int, int, int, int, int, int]  # as in `INCEPTIONS`
    bn_momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w d"]:
        """Applies the block."""

        def conv(x, features: int, size: int, name: str):
            layer = ConvNorm(features, size, self.bn_momentum, self.dtype, name=name)
            return layer(x, train=train)

        one, reduce2, two, reduce3, three, pooled = self.channels
        branches = [
            conv(x, one, 1, "branch1"),
            conv(conv(x, reduce2, 1, "branch2_0"), two, 3, "branch2_1"),
            conv(conv(x, reduce3, 1, "branch3_0"), three, 3, "branch3_1"),
            conv(ceil_max_pool(x, 3, 1, padding=1), pooled, 1, "branch4"),
        ]
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier on an inner map, which passes gradients to lower layers in training."""

    num_classes: int
    bn_momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits."""
        x = adaptive_mean_pool(x, 4)
        x = ConvNorm(128, 1, self.bn_momentum, self.dtype, name="conv")(x, train=train)
        x = x.reshape(x.shape[0], -1)  # b (h w c)
        x = nn.Dense(1024, kernel_init=_NORMAL, dtype=self.dtype, name="fc1")(x)
        x = nn.Dropout(0.7, deterministic=not train)(nn.relu(x))
        x = nn.Dense(self.num_classes, kernel_init=_NORMAL, name="fc2")(x)
        return x.astype(jnp.float32)


class GoogLeNet(nn.Module):
    """GoogLeNet with batch norm for images of about 224x224.

    Attributes:
      num_classes: Number of logits.
      num_blocks: Inception blocks, from the image on; fewer than the published 9 make a
        small network of the same kind.
      dropout: Rate before the last layer.
      aux: Adds the two auxiliary heads. Their logits are sown as intermediates ``aux1_logits``
        and ``aux2_logits`` and do not enter the output; a program that does not ask for them does not
        compute them.
      transform_input: Whether inputs normalised by the ImageNet mean and deviation are moved
        to (x - 0.5) / 0.5, on which the published weights were trained.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      dtype: Compute dtype; parameters, statistics and logits are float32.

    Source: arXiv 1409.4842, table 1; batch norm, epsilon and the 3x3 in place of 5x5 as in
    torchvision.
    """

    num_classes: int = 1000
    num_blocks: int = len(INCEPTIONS)
    dropout: float = 0.2
    aux: bool = False
    transform_input: bool = True
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics and dropout (rng ``"dropout"``)."""
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        head = (self.num_classes, momentum, self.dtype)

        def conv(x, features: int, size: int, name: str, stride: int = 1):
            layer = ConvNorm(features, size, momentum, self.dtype, stride, name=name)
            return layer(x, train=train)

        if self.transform_input:
            mean = jnp.array([0.485, 0.456, 0.406]).reshape(1, 1, 1, 3)
            std = jnp.array([0.229, 0.224, 0.225]).reshape(1, 1, 1, 3)
            x = (x * std + mean - 0.5) / 0.5
        x = ceil_max_pool(conv(x, 64, 7, "conv1", 2), 3, 2)
        x = conv(conv(x, 64, 1, "conv2"), 192, 3, "conv3")
        x = ceil_max_pool(x, 3, 2)
        for name in inception_names(self.num_blocks):
            channels = INCEPTIONS[name]
            x = Inception(channels, momentum, self.dtype, name=name)(x, train=train)
            if name == "inception3b":
                x = ceil_max_pool(x, 3, 2)
            elif name == "inception4e":
                x = ceil_max_pool(x, 2, 2)
            elif self.aux and name in ("inception4a", "inception4d"):
                which = "aux1" if name == "inception4a" else "aux2"
                logits = AuxiliaryHead(*head, name=which)(x, train=train)
                self.sow("intermediates", f"{which}_logits", logits)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # b c
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=_NORMAL, name="fc")(x)
