"""Inception-ResNet-v2 as a feature extractor: maps at five strides.

Stem convolutions and poolings do not pad, so the maps fall short of the input's size over
their stride by one to three pixels; `TAP_PADS` makes up for it.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.conv import conv
from zoo_jax.nn.norm import BatchNorm, NormMode
from zoo_jax.nn.resize import Pad

BLOCKS = (10, 20)  # Block35 and Block17
EPSILON = 1e-3  # of all its norms

# By this the maps become 1/2, 1/4, ... of an input whose sides are multiples of 32.
TAP_PADS = (
    Pad(0, 1, 0, 1),
    Pad(1, 1, 1, 1),
    Pad(1, 2, 1, 2),
    Pad(1, 1, 1, 1),
    Pad(1, 1, 1, 1),
)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU. `padding` is of its longer side."""

    features: int
    size: int | tuple[int, int]
    norm_mode: NormMode
    dtype: DTypeLike
    stride: int = 1
    padding: int | tuple[int, int] = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the three."""
        x = conv(
            x,
            self.features,
            self.size,
            stride=self.stride,
            padding=self.padding,
            bias=False,
            dtype=self.dtype,
            name="conv",
        )
        norm = BatchNorm(
            epsilon=EPSILON, mode=self.norm_mode, dtype=self.dtype, name="bn"
        )
        return nn.relu(norm(x, train=train))


# One branch: (channels, kernel size, stride) of its convolutions. Those of stride 1 pad to keep
# the size, those of stride 2 do not pad.
Branch = tuple[tuple[int, int | tuple[int, int], int], ...]

_MIXED_5B: tuple[Branch, ...] = (
    ((96, 1, 1),),
    ((48, 1, 1), (64, 5, 1)),
    ((64, 1, 1), (96, 3, 1), (96, 3, 1)),
)
_BLOCK_35: tuple[Branch, ...] = (
    ((32, 1, 1),),
    ((32, 1, 1), (32, 3, 1)),
    ((32, 1, 1), (48, 3, 1), (64, 3, 1)),
)
_MIXED_6A: tuple[Branch, ...] = (
    ((384, 3, 2),),
    ((256, 1, 1), (256, 3, 1), (384, 3, 2)),
)
_BLOCK_17: tuple[Branch, ...] = (
    ((192, 1, 1),),
    ((128, 1, 1), (160, (1, 7), 1), (192, (7, 1), 1)),
)
_MIXED_7A: tuple[Branch, ...] = (
    ((256, 1, 1), (384, 3, 2)),
    ((256, 1, 1), (288, 3, 2)),
    ((256, 1, 1), (288, 3, 1), (320, 3, 2)),
)
# How many convolutions the branches of each kind of block have; the key tables need it.
BRANCH_LENGTHS = {
    "mixed_5b": tuple(map(len, _MIXED_5B)),
    "block35": tuple(map(len, _BLOCK_35)),
    "mixed_6a": tuple(map(len, _MIXED_6A)),
    "block17": tuple(map(len, _BLOCK_17)),
    "mixed_7a": tuple(map(len, _MIXED_7A)),
}


class Mixed(nn.Module):
    """Parallel branches of convolutions, side by side in the channels of the output."""

    branches: tuple[Branch, ...]
    pool: str  # a further branch: "max" at stride 2, "mean" with a 1x1 behind it, or "none"
    norm_mode: NormMode
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the branches."""
        options = {"norm_mode": self.norm_mode, "dtype": self.dtype}
        out = []
        for i, branch in enumerate(self.branches):
            y = x
            for j, (features, size, stride) in enumerate(branch):
                rows, columns = (size, size) if isinstance(size, int) else size
                y = ConvNorm(
                    features,
                    size,
                    stride=stride,
                    padding=(rows // 2, columns // 2) if stride == 1 else 0,
                    name=f"branch{i}_{j}",
                    **options,
                )(y, train=train)
            out.append(y)
        if self.pool == "max":
            out.append(nn.max_pool(x, window_shape=(3, 3), strides=(2, 2)))
        elif self.pool == "mean":
            y = nn.avg_pool(
                x,
                window_shape=(3, 3),
                strides=(1, 1),
                padding="SAME",
                count_include_pad=False,
            )
            out.append(ConvNorm(64, 1, name="pool_conv", **options)(y, train=train))
        return jnp.concatenate(out, -1)


class ResidualMixed(nn.Module):
    """`relu(x + factor * conv(branches(x)))`."""

    branches: tuple[Branch, ...]
    factor: float
    norm_mode: NormMode
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Applies the block."""
        mixed = Mixed(self.branches, "none", self.norm_mode, self.dtype, name="mixed")
        y = conv(mixed(x, train=train), x.shape[-1], 1, dtype=self.dtype, name="conv")
        return nn.relu(x + self.factor * y)


class InceptionResNetV2Trunk(nn.Module):
    """Inception-ResNet-v2 up to the block ``mixed_7a``.

    Attributes:
      blocks: How many blocks of each residual kind: at stride 8 and at stride 16.
      norm_mode: Of the batch norms.
      dtype: Compute dtype; parameters and statistics are float32.

    Source: arXiv 1602.07261, in the layout of the published PyTorch weights.
    """

    blocks: tuple[int, int] = BLOCKS
    norm_mode: NormMode = "running"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns the maps at strides 2 to 32: 32, 64, 192, 1088 and 2080 channels."""
        options = {"norm_mode": self.norm_mode, "dtype": self.dtype}

        def single(x, features, size, name, stride=1, padding=0):
            layer = ConvNorm(
                features, size, stride=stride, padding=padding, name=name, **options
            )
            return layer(x, train=train)

        def mixed(x, branches, pool, name):
            return Mixed(branches, pool, name=name, **options)(x, train=train)

        def residual(x, branches, factor, name):
            block = ResidualMixed(branches, factor, name=name, **options)
            return block(x, train=train)

        e0 = single(x, 32, 3, "conv2d_1a", stride=2)
        y = single(single(e0, 32, 3, "conv2d_2a"), 64, 3, "conv2d_2b", padding=1)
        e1 = nn.max_pool(y, window_shape=(3, 3), strides=(2, 2))
        y = single(single(e1, 80, 1, "conv2d_3b"), 192, 3, "conv2d_4a")
        e2 = nn.max_pool(y, window_shape=(3, 3), strides=(2, 2))
        y = mixed(e2, _MIXED_5B, "mean", "mixed_5b")
        for i in range(self.blocks[0]):
            y = residual(y, _BLOCK_35, 0.17, f"block35_{i}")
        e3 = y = mixed(y, _MIXED_6A, "max", "mixed_6a")
        for i in range(self.blocks[1]):
            y = residual(y, _BLOCK_17, 0.10, f"block17_{i}")
        e4 = mixed(y, _MIXED_7A, "max", "mixed_7a")
        return e0, e1, e2, e3, e4
