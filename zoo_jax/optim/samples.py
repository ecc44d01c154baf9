"""Kernels as samples to cluster, and back."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError, closest

Samples = Literal["row", "kernel2d", "filter", "scalar"]


def sample_shape(
    shape: Sequence[int], samples: Samples = "row", row_length: int | None = None
) -> tuple[int, int]:
    """Returns (n, d): how many samples of what length a kernel of `shape` holds.

    Args:
      shape: Of a convolution kernel, window first: [w, i, o], [h, w, i, o] or
        [t, h, w, i, o]; or of a dense kernel [in, out].
      samples: What one sample is. ``"row"``: the last window axis, for a fixed output,
        input and vertical position. ``"kernel2d"``: the last two window axes.
        ``"filter"``: everything that makes one output. ``"scalar"``: one weight.
      row_length: Length of the rows of a *dense* kernel, a divisor of ``in``. A row is
        then `row_length` consecutive inputs of one output (an extension: the published
        method clusters convolutions only).

    Raises:
      ConfigError: if the kernel has no such samples.

    Source: arXiv 1806.09228; published code, ``cluster_filters``, which takes the window's
    height as row length and so is right for square windows only. Here rows are horizontal.

    >>> sample_shape((3, 5, 16, 32)), sample_shape((3, 5, 16, 32), "filter")
    ((1536, 5), (32, 240))
    """
    shape = tuple(shape)
    if samples not in get_args(Samples):
        hint = closest(samples, get_args(Samples))
        raise ConfigError(f"unknown samples {samples!r}: {hint}")
    if not 2 <= len(shape) <= 5:
        raise ConfigError(
            f"a kernel to cluster has 2 to 5 axes ([in, out] or [window.., in, out]), "
            f"got shape {shape}"
        )
    dense = len(shape) == 2
    if row_length is not None and not (dense and samples == "row"):
        raise ConfigError(
            f"row_length={row_length} fits dense kernels with samples='row' only, "
            f"got samples={samples!r} and shape {shape}"
        )
    size = math.prod(shape)
    if samples == "scalar":
        d = 1
    elif samples == "filter":
        d = size // shape[-1]
    elif samples == "row" and not dense:
        d = shape[-3]
    elif samples == "row":
        if not row_length or row_length < 1 or shape[0] % row_length:
            raise ConfigError(
                f"rows of a dense kernel {shape} need a row_length that divides "
                f"{shape[0]}, got {row_length}"
            )
        d = row_length
    elif len(shape) >= 4:
        d = shape[-4] * shape[-3]
    else:
        raise ConfigError(
            f"samples='kernel2d' needs a window of 2 or 3 axes, got shape {shape}"
        )
    return size // d, d


def _outputs_first(rank: int) -> tuple[int, ...]:
    """Axes that turn [window.., i, o] into [o, i, window..]."""
    return (rank - 1, rank - 2, *range(rank - 2))


def to_matrix(
    kernel: Float[Array, "*shape"],
    samples: Samples = "row",
    row_length: int | None = None,
) -> Float[Array, "n d"]:
    """Lays a kernel out as samples, in the order of an OIHW kernel's memory.

    Args:
      kernel: As in `sample_shape`.
      samples: As in `sample_shape`.
      row_length: As in `sample_shape`.

    Returns:
      One sample per row. `from_matrix` undoes it.

    Raises:
      ConfigError: if the kernel has no such samples.

    >>> import jax.numpy as jnp
    >>> kernel = jnp.arange(12.0).reshape(2, 3, 1, 2)      # h w i o
    >>> to_matrix(kernel).tolist()
    [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0], [1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]
    """
    _, d = sample_shape(kernel.shape, samples, row_length)
    return kernel.transpose(_outputs_first(kernel.ndim)).reshape(-1, d)


def from_matrix(
    matrix: Float[Array, "n d"],
    shape: Sequence[int],
    samples: Samples = "row",
    row_length: int | None = None,
) -> Float[Array, "*shape"]:
    """Puts samples back into a kernel of `shape`; the inverse of `to_matrix`.

    Raises:
      ConfigError: if a kernel of this shape has no such samples.
      ValueError: if it has another number of them.

    >>> import jax.numpy as jnp
    >>> kernel = jnp.arange(12.0).reshape(2, 3, 1, 2)
    >>> bool((from_matrix(to_matrix(kernel), kernel.shape) == kernel).all())
    True
    """
    expected = sample_shape(shape, samples, row_length)
    if matrix.shape != expected:
        raise ValueError(
            f"a kernel {tuple(shape)} has {samples} samples of shape {expected}, "
            f"got {matrix.shape}"
        )
    axes = _outputs_first(len(shape))
    inverse = tuple(axes.index(i) for i in range(len(shape)))
    return matrix.reshape([shape[i] for i in axes]).transpose(inverse)
