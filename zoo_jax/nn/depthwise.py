"""Depthwise convolution: each channel has its own kernel."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Form = Literal["shifted", "grouped"]


def depthwise_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "m n 1 c"],
    *,
    stride: int = 1,
    padding: int = 0,
    form: Form | None = None,
) -> Float[Array, "b i j c"]:
    """Convolves every channel with its own kernel.

    XLA computes a grouped convolution on CPU many times slower than the sum of shifted
    products that it is, so that is what CPUs get; accelerators get the grouped convolution.

    Args:
      x: Images or maps.
      kernel: One m x n kernel for each channel, in the layout of a grouped convolution.
      stride: The same in both directions.
      padding: Zeros on all four sides.
      form: ``"shifted"`` or ``"grouped"``; None chooses by the backend when traced.
    """
    if form is None:
        form = "shifted" if jax.default_backend() == "cpu" else "grouped"
    if form == "grouped":
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
    b, h, w, c = x.shape
    rows, columns = kernel.shape[:2]
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Otherwise every shift would pad again for itself.
    padded = jax.lax.optimization_barrier(padded)
    out_h = (h + 2 * padding - rows) // stride + 1
    out_w = (w + 2 * padding - columns) // stride + 1
    out = jnp.zeros((b, out_h, out_w, c), x.dtype)
    for i in range(rows):
        for j in range(columns):
            last = (b, i + (out_h - 1) * stride + 1, j + (out_w - 1) * stride + 1, c)
            window = jax.lax.slice(padded, (0, i, j, 0), last, (1, stride, stride, 1))
            out += window * kernel[i, j].reshape(1, 1, 1, c)
    return out


class DepthwiseConv(nn.Module):
    """A square `depthwise_conv` with symmetric padding, as in PyTorch.

    Attributes:
      size: Side of the kernels, odd.
      stride: Stride; a map of n pixels becomes one of ceil(n / stride).
      kernel_init: For the kernels [size, size, 1, c].
      bias_init: For the bias [c]; None means that there is none.
      dtype: Compute dtype.
    """

    size: int
    stride: int = 1
    kernel_init: jax.nn.initializers.Initializer = nn.initializers.he_normal()
    bias_init: jax.nn.initializers.Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        """Applies the convolution."""
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = depthwise_conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.size // 2,
        )
        if self.bias_init is None:
            return y
        bias = self.param("bias", self.bias_init, shape[-1:], jnp.float32)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
