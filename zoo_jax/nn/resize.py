"""Changes of size without weights."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


def upsample_nearest(
    x: Float[Array, "b h w c"], factor: int
) -> Float[Array, "b i j c"]:
    """Repeats every pixel `factor` times in both directions.

    >>> upsample_nearest(jnp.arange(2.0).reshape(1, 1, 2, 1), 2)[0, :, :, 0].tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    b, h, w, c = x.shape
    spread = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, factor, w, factor, c))
    return spread.reshape(b, h * factor, w * factor, c)


class Pad(NamedTuple):
    """Rows and columns to add around an image."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


def reflect_pad(x: Float[Array, "b h w c"], pad: Pad) -> Float[Array, "b i j c"]:
    """Mirrors an image at its borders without repeating the border itself.

    >>> reflect_pad(jnp.arange(3.0).reshape(1, 1, 3, 1), Pad(left=1))[0, 0, :, 0].tolist()
    [1.0, 0.0, 1.0, 2.0]
    """
    rows, columns = (pad.top, pad.bottom), (pad.left, pad.right)
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode="reflect")
