"""How one array lies in a published (PyTorch) file and in a network of this project.

Each `Layout` goes both ways, so a converted network can be written back under the keys and
in the layout that it was published in.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A named, invertible change of axes. Both functions raise `ValueError` on a misfit."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_published: Callable[[np.ndarray], np.ndarray]


def _require_rank(name: str, array: np.ndarray, rank: int) -> None:
    if array.ndim != rank:
        raise ValueError(f"layout {name} takes {rank} axes, not {array.ndim}")


def _permutation(
    name: str, axes: tuple[int, ...], *, flip: tuple[int, ...] = ()
) -> Layout:
    """Transposes by `axes`, then reverses the axes `flip` of the result."""
    back = tuple(int(i) for i in np.argsort(axes))

    def to_ours(array: np.ndarray) -> np.ndarray:
        _require_rank(name, array, len(axes))
        return np.flip(array.transpose(axes), flip)

    def to_published(array: np.ndarray) -> np.ndarray:
        _require_rank(name, array, len(axes))
        return np.flip(array, flip).transpose(back)

    return Layout(name, to_ours, to_published)


def _depthwise(conv: Layout, name: str) -> Layout:
    """A convolution with one input channel per group: published (C m, 1, ...)."""

    def to_ours(array: np.ndarray) -> np.ndarray:
        if array.ndim > 1 and array.shape[1] != 1:
            raise ValueError(
                f"layout {name} takes shape (C, 1, ...), not {array.shape}"
            )
        return conv.to_ours(array)

    return Layout(name, to_ours, conv.to_published)


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _vector(array: np.ndarray) -> np.ndarray:
    _require_rank("vector", array, 1)
    return array


IDENTITY = Layout("identity", _same, _same)
VECTOR = Layout("vector", _vector, _vector)
LINEAR = _permutation("linear", (1, 0))  # (O, I) -> (I, O)

CONV_1D = _permutation("conv_1d", (2, 1, 0))  # (O, I, T) -> (T, I, O)
CONV_2D = _permutation("conv_2d", (2, 3, 1, 0))  # (O, I, H, W) -> (H, W, I, O)
CONV_3D = _permutation("conv_3d", (2, 3, 4, 1, 0))  # (O, I, T, H, W) -> (T, H, W, I, O)

# (C m, 1, ...) -> (..., 1, C m): the kernel of a convolution with C feature groups.
DEPTHWISE_1D = _depthwise(CONV_1D, "depthwise_1d")
DEPTHWISE_2D = _depthwise(CONV_2D, "depthwise_2d")
DEPTHWISE_3D = _depthwise(CONV_3D, "depthwise_3d")

# (I, O, ...) -> (..., I, O). PyTorch scatters the kernel over the output; as an ordinary
# convolution of the dilated input (`flax.linen.ConvTranspose` with transpose_kernel=False,
# `jax.lax.conv_transpose`), which is a correlation, the same kernel stands reversed.
CONV_TRANSPOSE_1D = _permutation("conv_transpose_1d", (2, 0, 1), flip=(0,))
CONV_TRANSPOSE_2D = _permutation("conv_transpose_2d", (2, 3, 0, 1), flip=(0, 1))
CONV_TRANSPOSE_3D = _permutation("conv_transpose_3d", (2, 3, 4, 0, 1), flip=(0, 1, 2))


def flattened_linear(channels: int, height: int, width: int) -> Layout:
    """A linear layer behind a flattened image: (O, C H W) -> (H W C, O).

    PyTorch flattens channels first, this project channels last: the inputs of the layer
    come in another order.

    Args:
      channels: Channels of the image that is flattened.
      height: Its rows.
      width: Its columns.
    """
    name = f"flattened_linear({channels}, {height}, {width})"
    inputs = channels * height * width

    def require(array: np.ndarray, axis: int) -> None:
        _require_rank(name, array, 2)
        if array.shape[axis] != inputs:
            raise ValueError(f"layout {name} takes {inputs} inputs, not {array.shape}")

    def to_ours(array: np.ndarray) -> np.ndarray:
        require(array, 1)
        image = array.reshape(-1, channels, height, width)  # O C H W
        return image.transpose(2, 3, 1, 0).reshape(inputs, -1)

    def to_published(array: np.ndarray) -> np.ndarray:
        require(array, 0)
        image = array.reshape(height, width, channels, -1)  # H W C O
        return image.transpose(3, 2, 0, 1).reshape(-1, inputs)

    return Layout(name, to_ours, to_published)
