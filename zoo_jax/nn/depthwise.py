"""Depthwise convolution: each channel has its own kernel."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.forms import by_backend

Form = Literal["shifted", "autodiff", "grouped"]


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
      form: ``"shifted"``, ``"grouped"``, or ``"autodiff"``: the shifts without the gradient that
        is written for them, two to three times slower in the backward pass, but with forward-mode
        derivatives (`jax.jvp`, `jax.hessian`). Gradients of gradients work with all three.
        None chooses by the backend when traced; see `zoo_jax.core.forms`.
    """
    run = {"shifted": _shifted, "autodiff": _shift, "grouped": _grouped}
    if form is not None:
        return run[form](x, kernel, stride, padding)
    return by_backend(
        x,
        kernel,
        cpu=lambda x, k: _shifted(x, k, stride, padding),
        native=lambda x, k: _grouped(x, k, stride, padding),
    )


def _grouped(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _shift(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    b, h, w, c = x.shape
    rows, columns = kernel.shape[:2]
    padded = _pad(x, padding)
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


def _pad(x: Array, padding: int) -> Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """`_shift` with a gradient that passes over the maps once."""
    return _shift(x, kernel, stride, padding)


def _shifted_fwd(x, kernel, stride, padding):
    return _shift(x, kernel, stride, padding), (x, kernel)


def _shifted_bwd(stride, padding, residuals, dy):
    x, kernel = residuals
    return _input_gradient(x, kernel, dy, stride, padding), _kernel_gradient(
        x, kernel, dy, stride, padding
    )


_shifted.defvjp(_shifted_fwd, _shifted_bwd)


def _input_gradient(x, kernel, dy, stride, padding):
    """The shifts of `dy`, with zeros between its pixels where there was a stride."""

    def edges(size: int, taps: int, out: int) -> tuple[int, int, int]:
        before = taps - 1 - padding
        unused = size + 2 * padding - taps - (out - 1) * stride  # by no window
        return before, before + unused, stride - 1

    rows, columns = kernel.shape[:2]
    spread = jax.lax.pad(
        dy,
        jnp.zeros((), dy.dtype),
        (
            (0, 0, 0),
            edges(x.shape[1], rows, dy.shape[1]),
            edges(x.shape[2], columns, dy.shape[2]),
            (0, 0, 0),
        ),
    )
    return _shift(spread, kernel[::-1, ::-1], 1, 0)


def _kernel_gradient(x, kernel, dy, stride, padding):
    """One pass over the rows of `dy`: products add up in as many rows as there are weights.

    Autodiff would pass over both maps once for every weight.
    """
    b, out_h, out_w, c = dy.shape
    rows, columns = kernel.shape[:2]
    wide = jnp.promote_types(dy.dtype, jnp.float32)  # many terms: not in bfloat16
    padded = _pad(x, padding)

    def add_row(sums, row):
        start = (0, row * stride, 0, 0)
        windows = jax.lax.dynamic_slice(padded, start, (b, rows, padded.shape[2], c))
        line = jax.lax.dynamic_slice(dy, (0, row, 0, 0), (b, 1, out_w, c)).astype(wide)
        last = (out_w - 1) * stride + 1
        products = [
            windows[:, i : i + 1, j : j + last : stride] * line
            for i in range(rows)
            for j in range(columns)
        ]
        return [s + p for s, p in zip(sums, products, strict=True)], None

    zeros = [jnp.zeros((b, 1, out_w, c), wide)] * (rows * columns)
    sums, _ = jax.lax.scan(add_row, zeros, jnp.arange(out_h))
    gradient = jnp.stack([jnp.sum(s, (0, 1, 2)) for s in sums])
    return gradient.reshape(kernel.shape).astype(kernel.dtype)


class DepthwiseConv(nn.Module):
    """A square `depthwise_conv` with symmetric padding, as in PyTorch.

    Attributes:
      size: Side of the kernels, odd.
      stride: Stride; a map of n pixels becomes one of ceil(n / stride).
      padding: Zeros on all four sides; None adds half a kernel.
      kernel_init: For the kernels [size, size, 1, c].
      bias_init: For the bias [c]; None means that there is none.
      dtype: Compute dtype.
    """

    size: int
    stride: int = 1
    padding: int | None = None
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
            padding=self.size // 2 if self.padding is None else self.padding,
        )
        if self.bias_init is None:
            return y
        bias = self.param("bias", self.bias_init, shape[-1:], jnp.float32)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
