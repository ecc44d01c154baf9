"""Convolutions as PyTorch makes them: symmetric padding, and its default initialisation."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.forms import by_backend
from zoo_jax.nn.matmul_conv import conv_by_matmul

# XLA takes three times as long to compile a draw of four axes as the same draw of one axis, and
# networks draw a hundred kernels: 13 s against 6 s for FPN-MobileNet on one core.


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
    """Draws from [-bound, bound)."""

    def draw(key, shape, dtype=jnp.float32):
        flat = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
        return flat.reshape(shape)

    return draw


def normal_by_outputs(key, shape, dtype=jnp.float32):
    """Draws a kernel from a normal distribution of variance 2 / (height width outputs)."""
    std = (2 / math.prod((*shape[:-2], shape[-1]))) ** 0.5
    return std * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def pointwise(
    inputs: Float[Array, "b h w i"],
    kernel: Float[Array, "1 1 i o"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **rest: Any,
) -> Float[Array, "b y x o"]:
    """A 1x1 convolution, which on a CPU is computed as the matrix product that it is.

    XLA's convolution takes up to a third longer; ResNet-50 as a whole a quarter, EfficientNet-Lite0
    a tenth, Inception-v3 and the others a twentieth (CPU time, one core of a shared machine). For
    ``flax.linen.Conv(..., conv_general_dilated=pointwise)``; arguments as `conv_by_matmul`.
    """

    def native(inputs: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            inputs, kernel, window_strides, padding, **rest
        )

    def product(inputs: Array, kernel: Array) -> Array:
        return conv_by_matmul(inputs, kernel, window_strides, padding, **rest)

    return by_backend(inputs, kernel, cpu=product, native=native)


def conv(
    x: Float[Array, "b h w c"],
    features: int,
    size: int | tuple[int, int],
    *,
    name: str,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    bias: bool = True,
    kernel_init: nn.initializers.Initializer | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b i j d"]:
    """Adds a convolution to the module that is being written.

    Args:
      x: Its input.
      features: Output channels.
      size: Of the kernel, or its height and width.
      name: Of the layer in the module.
      stride: The same in both directions.
      padding: Zeros above and below, left and right: one number or two. Flax's ``"SAME"`` pads
        even sizes on one side only at stride 2.
      bias: Adds one.
      kernel_init: None draws kernels, as always biases, from +-1/sqrt(inputs of one output).
      dtype: Compute dtype.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    pads = (padding, padding) if isinstance(padding, int) else padding
    default = symmetric_uniform((rows * columns * x.shape[-1]) ** -0.5)
    return nn.Conv(
        features,
        (rows, columns),
        strides=stride,
        padding=[(p, p) for p in pads],
        use_bias=bias,
        kernel_init=kernel_init or default,
        bias_init=default,
        dtype=dtype,
        conv_general_dilated=pointwise if (rows, columns) == (1, 1) else None,
        name=name,
    )(x)
