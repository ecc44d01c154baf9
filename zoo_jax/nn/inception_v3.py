"""Inception-v3 for 299x299 images, under the names of torchvision.

Two variants are published: that of torchvision counts the padding in its mean poolings, that of
Keras does not (and its norms have no factors: ones).
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.inception_resnet_v2 import ConvNorm

Variant = Literal["torchvision", "keras"]


class Layer(NamedTuple):
    """One convolution of a block, with its norm and ReLU."""

    name: str
    features: int
    size: tuple[int, int]


class Block(NamedTuple):
    """Branches side by side, and a pooling as the last one."""

    branches: tuple[tuple[Layer, ...], ...]
    reduce: bool = (
        False  # the last convolutions and the pooling (a maximum) have stride 2
    )
    pool: int = 0  # channels of the 1x1 behind the pooling (a mean); with `reduce` there is none

    def layers(self) -> tuple[Layer, ...]:
        """All convolutions, in the order of the published files."""
        last = () if self.reduce else (Layer("branch_pool", self.pool, (1, 1)),)
        return tuple(layer for branch in self.branches for layer in branch) + last


def _branch(name: str, *steps: tuple[int, int, int]) -> tuple[Layer, ...]:
    """A chain of (channels, height, width of the kernel); numbered if it is longer than one."""
    numbers = [""] if len(steps) == 1 else [f"_{i}" for i in range(1, len(steps) + 1)]
    return tuple(
        Layer(name + number, features, size)
        for number, (features, *size) in zip(numbers, steps, strict=True)
    )


def _fork(name: str, *steps: tuple[int, int, int]) -> tuple[Layer, ...]:
    """A chain whose last two convolutions stand side by side."""
    *chain, a, b = _branch(name, *steps)
    number = len(steps) - 1
    return (
        *chain,
        a._replace(name=f"{name}_{number}a"),
        b._replace(name=f"{name}_{number}b"),
    )


def _a(pool: int) -> Block:
    return Block(
        (
            _branch("branch1x1", (64, 1, 1)),
            _branch("branch5x5", (48, 1, 1), (64, 5, 5)),
            _branch("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        ),
        pool=pool,
    )


def _c(inner: int) -> Block:
    wide, tall = (inner, 1, 7), (inner, 7, 1)
    return Block(
        (
            _branch("branch1x1", (192, 1, 1)),
            _branch("branch7x7", (inner, 1, 1), wide, (192, 7, 1)),
            _branch("branch7x7dbl", (inner, 1, 1), tall, wide, tall, (192, 1, 7)),
        ),
        pool=192,
    )


_E = Block(
    (
        _branch("branch1x1", (320, 1, 1)),
        _fork("branch3x3", (384, 1, 1), (384, 1, 3), (384, 3, 1)),
        _fork("branch3x3dbl", (448, 1, 1), (384, 3, 3), (384, 1, 3), (384, 3, 1)),
    ),
    pool=192,
)
# Source: arXiv 1512.00567, section 6 and figures 5 to 7 and 10, as released.
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": Block(
        (
            _branch("branch3x3", (384, 3, 3)),
            _branch("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        ),
        reduce=True,
    ),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": Block(
        (
            _branch("branch3x3", (192, 1, 1), (320, 3, 3)),
            _branch("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)),
        ),
        reduce=True,
    ),
    "Mixed_7b": _E,
    "Mixed_7c": _E,
}
# (name, channels, kernel, stride, padding); a pooling stands behind the third and the fifth.
STEM = (
    ("Conv2d_1a_3x3", 32, 3, 2, 0),
    ("Conv2d_2a_3x3", 32, 3, 1, 0),
    ("Conv2d_2b_3x3", 64, 3, 1, 1),
    ("Conv2d_3b_1x1", 80, 1, 1, 0),
    ("Conv2d_4a_3x3", 192, 3, 1, 0),
)
_AUX_BEFORE = "Mixed_7a"  # the auxiliary head sees what this block sees


class Mixed(nn.Module):
    """One block."""

    block: Block
    width: float
    count_padding: bool  # in the mean of a pooling
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the branches and puts their outputs side by side."""

        def single(x, layer: Layer, stride: int = 1):
            rows, columns = layer.size
            padding = (rows // 2, columns // 2) if stride == 1 else 0
            return ConvNorm(
                round(layer.features * self.width),
                layer.size,
                stride=stride,
                padding=padding,
                norm_mode="running",
                dtype=self.dtype,
                name=layer.name,
            )(x, train=train)

        out = []
        for branch in self.block.branches:
            fork = branch[-1].name.endswith("b")
            chain, y = branch[: -2 if fork else -1], x
            for layer in chain:
                y = single(y, layer)
            stride = 2 if self.block.reduce else 1
            out += [single(y, layer, stride) for layer in branch[len(chain) :]]
        if self.block.reduce:
            out.append(nn.max_pool(x, (3, 3), strides=(2, 2)))
        else:
            mean = nn.avg_pool(
                x,
                (3, 3),
                padding="SAME",
                count_include_pad=self.count_padding,
            )
            out.append(single(mean, self.block.layers()[-1]))
        return jnp.concatenate(out, axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier on an inner map, which passes gradients to lower layers in training."""

    num_classes: int
    width: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits."""

        def single(x, features: int, size: int, name: str):
            layer = ConvNorm(
                round(features * self.width), size, "running", self.dtype, name=name
            )
            return layer(x, train=train)

        x = nn.avg_pool(x, (5, 5), strides=(3, 3))
        x = single(single(x, 128, 1, "conv0"), 768, 5, "conv1")
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # b c
        return nn.Dense(self.num_classes, name="fc")(x)


class InceptionV3(nn.Module):
    """Inception-v3. The input is RGB in [-1, 1], of 75x75 pixels or more.

    torchvision's own input, normalised by ImageNet's mean and deviation, it moves to [-1, 1] first;
    here that is left to the caller.

    Attributes:
      num_classes: Number of logits.
      blocks: Names of the blocks that are there; fewer than in `BLOCKS` make a small network of
        the same kind.
      width: Multiplies all channels.
      aux: Adds the auxiliary head. Its logits are sown as the intermediate ``aux_logits`` and do not
        enter the output; a program that does not ask for them does not compute them. It needs
        a map of 17x17, which images of 299x299 have.
      dropout: Rate before the last layer.
      variant: Which published network.
      dtype: Compute dtype; parameters, statistics and logits are float32.

    Source: arXiv 1512.00567.
    """

    num_classes: int = 1000
    blocks: tuple[str, ...] = tuple(BLOCKS)
    width: float = 1.0
    aux: bool = False
    dropout: float = 0.5
    variant: Variant = "torchvision"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics and dropout (rng ``"dropout"``)."""
        for index, (name, features, size, stride, padding) in enumerate(STEM):
            x = ConvNorm(
                round(features * self.width),
                size,
                stride=stride,
                padding=padding,
                norm_mode="running",
                dtype=self.dtype,
                name=name,
            )(x, train=train)
            if index in (2, 4):
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
        for name in self.blocks:
            if name == _AUX_BEFORE and self.aux:
                head = AuxiliaryHead(
                    self.num_classes, self.width, self.dtype, name="AuxLogits"
                )
                self.sow("intermediates", "aux_logits", head(x, train=train))
            x = Mixed(
                BLOCKS[name],
                self.width,
                self.variant == "torchvision",
                self.dtype,
                name=name,
            )(x, train=train)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # b c
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="fc")(x)
