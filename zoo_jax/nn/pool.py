"""Pooling as published networks have it."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


def ceil_max_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, *, padding: int = 0
) -> Float[Array, "b i j c"]:
    """Max pooling whose last window may reach over the edge (``ceil_mode`` of PyTorch)."""

    def pads(n: int) -> tuple[int, int]:
        steps = -(-(n + 2 * padding - window) // stride)
        if steps * stride >= n + padding:  # a window must start inside
            steps -= 1
        return padding, max(steps * stride + window - n - padding, 0)

    return nn.max_pool(
        x, (window, window), (stride, stride), [pads(n) for n in x.shape[1:3]]
    )


def adaptive_mean_pool(
    x: Float[Array, "b h w c"], size: int
) -> Float[Array, "b s s c"]:
    """Means over `size` x `size` windows that cover the map, as equal as whole pixels allow."""

    def cuts(n: int) -> list[slice]:
        return [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]

    rows = [jnp.mean(x[:, rows], axis=1) for rows in cuts(x.shape[1])]
    x = jnp.stack(rows, axis=1)
    columns = [jnp.mean(x[:, :, columns], axis=2) for columns in cuts(x.shape[2])]
    return jnp.stack(columns, axis=2)
