"""MobileNetV3 with the kernels, expansions and depths that a search has chosen."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.methods.weaknas.spaces.ofa_mobilenet_v3 import (
    DEPTHS,
    EXPANSIONS,
    KERNELS,
    SLOTS,
    STAGES,
    WIDTH,
    WINNERS,
    Block,
    SubNet,
    Widths,
    blocks,
)
from zoo_jax.nn.depthwise import DepthwiseConv
from zoo_jax.nn.norm import BatchNorm
from zoo_jax.nn.squeeze_excite import SqueezeExcite

_HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and an activation if there is one.

    Attributes:
      features: Output channels; None makes a depthwise convolution.
      size: Side of the kernel.
      stride: Stride.
      activation: Name in `jax.nn`, or None.
      squeeze: Width of a squeeze-and-excitation behind the activation, 0 for none.
      bn_momentum: Weight of the old running statistics.
      dtype: Compute dtype.
    """

    features: int | None
    size: int
    stride: int = 1
    activation: str | None = None
    squeeze: int = 0
    bn_momentum: float = 0.9
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies them in this order."""
        if self.features is None:
            conv = DepthwiseConv(
                self.size,
                self.stride,
                kernel_init=_HE,
                dtype=self.dtype,
                name="conv",
            )
        else:
            conv = nn.Conv(
                self.features,
                (self.size, self.size),
                strides=self.stride,
                padding=self.size // 2,
                use_bias=False,
                kernel_init=_HE,
                dtype=self.dtype,
                name="conv",
            )
        norm = BatchNorm(momentum=self.bn_momentum, dtype=self.dtype, name="bn")
        x = norm(conv(x), train=train)
        if self.activation is not None:
            x = getattr(jax.nn, self.activation)(x)
        if self.squeeze:
            x = SqueezeExcite(
                self.squeeze, gate=jax.nn.hard_sigmoid, dtype=self.dtype, name="se"
            )(x)
        return x


class InvertedBlock(nn.Module):
    """Widen, convolve each channel, narrow; added to the input where the shapes agree."""

    block: Block
    activation: str
    bn_momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the block."""
        block = self.block
        common = dict(bn_momentum=self.bn_momentum, dtype=self.dtype)
        y = x
        if block.hidden != block.inputs:
            widen = ConvNorm(
                block.hidden,
                1,
                activation=self.activation,
                name="inverted_bottleneck",
                **common,
            )
            y = widen(y, train=train)
        y = ConvNorm(
            None,
            block.kernel,
            block.stride,
            activation=self.activation,
            squeeze=block.squeeze,
            name="depth_conv",
            **common,
        )(y, train=train)
        y = ConvNorm(block.features, 1, name="point_linear", **common)(y, train=train)
        same = block.stride == 1 and block.inputs == block.features
        return x + y if same else y


class MobileNetV3OFA(nn.Module):
    """A sub-net of the once-for-all MobileNetV3, trained on its own.

    Attributes:
      kernels: Of the 20 slots, four for each stage.
      expansions: Likewise.
      depths: Blocks of the five stages; the slots beyond are not used.
      width: Width multiplier.
      num_classes: Number of logits.
      dropout: Rate before the last layer.
      bn_momentum: Weight of the old running statistics; None takes the published 0.9.
      dtype: Compute dtype; parameters, statistics and logits are float32.
    """

    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    depths: tuple[int, ...]
    width: float = WIDTH
    num_classes: int = 1000
    dropout: float = 0.3
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics and dropout (rng ``"dropout"``)."""
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        common = dict(bn_momentum=momentum, dtype=self.dtype)
        widths = Widths.of(self.width)
        net = SubNet(self.kernels, self.expansions, self.depths)
        stem = ConvNorm(
            widths.stem, 3, 2, activation="hard_swish", name="first_conv", **common
        )
        x = stem(x, train=train)
        first = Block(widths.stem, widths.first, widths.stem, 3, 1, 0, 0)
        for i, block in enumerate([first, *blocks(net, widths)]):
            # The first two stages, and the block before them, have the cheaper activation.
            activation = "relu" if block.stage < 2 else "hard_swish"
            x = InvertedBlock(block, activation, name=f"blocks_{i}", **common)(
                x, train=train
            )
        expand = ConvNorm(
            widths.expand,
            1,
            activation="hard_swish",
            name="final_expand_layer",
            **common,
        )
        x = jnp.mean(expand(x, train=train), axis=(1, 2), keepdims=True)
        x = nn.Conv(
            widths.mix,
            (1, 1),
            use_bias=False,
            kernel_init=_HE,
            dtype=self.dtype,
            name="feature_mix_layer",
        )(x)
        x = jax.nn.hard_swish(x)[:, 0, 0].astype(jnp.float32)  # b c
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="classifier")(x)


def build_mobilenet_v3_ofa(
    *,
    winner: str | None = None,
    kernels: Sequence[int] | None = None,
    expansions: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    width: float = WIDTH,
    num_classes: int = 1000,
    dropout: float = 0.3,
    dtype: DTypeLike = jnp.float32,
) -> MobileNetV3OFA:
    """Builds a sub-net by the name of a published winner, or from its numbers.

    Input: 236x236 RGB, normalised by the mean (.485, .456, .406) and deviation (.229, .224,
    .225). The winners count 593 and 561 million multiply-adds there, and have 8,577,088 and
    8,813,720 parameters.

    Args:
      winner: ``"800"`` (the default where no numbers are given) or ``"1000"``: the best network
        after so many queries.
      kernels: 20 numbers out of 3, 5, 7; four for each stage, used as far as `depths` says.
      expansions: 20 numbers out of 3, 4, 6.
      depths: 5 numbers out of 2, 3, 4.
      width: Width multiplier.
      num_classes: Number of logits.
      dropout: Rate in [0, 1) before the last layer; 0.3 in the published retraining.
      dtype: Compute dtype.

    Raises:
      ConfigError: for an unknown winner, numbers that are not of the space, or both.

    Source: arXiv 2102.10490, released code; the space of arXiv 1908.09791.
    """
    numbers = {"kernels": kernels, "expansions": expansions, "depths": depths}
    given = [name for name, value in numbers.items() if value is not None]
    if not given:
        winner = "800" if winner is None else str(winner)
        if winner not in WINNERS:
            raise ConfigError(f"unknown winner {winner!r}: {closest(winner, WINNERS)}")
        net = WINNERS[winner]
    elif winner is not None or len(given) < len(numbers):
        raise ConfigError(
            "give either winner or all of kernels, expansions and depths; got "
            + ", ".join(given + ([] if winner is None else ["winner"]))
        )
    else:
        net = SubNet(*(tuple(value) for value in numbers.values()))
    counts = (STAGES * SLOTS, STAGES * SLOTS, STAGES)
    choices = (KERNELS, EXPANSIONS, DEPTHS)
    for name, value, count, allowed in zip(
        SubNet._fields, net, counts, choices, strict=True
    ):
        if len(value) != count or not set(value) <= set(allowed):
            raise ConfigError(
                f"{name} must be {count} numbers out of {allowed}, got {name}={value}"
            )
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got dropout={dropout}")
    if num_classes < 1 or width <= 0:
        raise ConfigError(
            f"num_classes and width must be positive, got num_classes={num_classes}, "
            f"width={width}"
        )
    return MobileNetV3OFA(
        *net, width=width, num_classes=num_classes, dropout=dropout, dtype=dtype
    )
