"""Small things that gradients per example need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zoo_jax.core.types import Batch


def each(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(params, example, key)`` for all examples of a batch, each with its own key."""
    return jax.vmap(function, (None, 0, 0))


def rows(values: Float[Array, "b"], like: Array) -> Array:
    """Adds axes of length 1, so that `values` meets the examples of `like` [b, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def finite_rows(batch: Batch) -> tuple[dict[str, Array], Bool[Array, "b"]]:
    """Replaces examples that hold a NaN or an infinity by zeros; says which were fine."""
    size = next(iter(batch.values())).shape[0]
    finite = jnp.ones(size, bool)
    for value in batch.values():
        if jnp.issubdtype(value.dtype, jnp.inexact):
            finite &= jnp.all(jnp.isfinite(value), tuple(range(1, value.ndim)))
    blank = {
        name: jnp.where(rows(finite, value), value, jnp.zeros_like(value))
        for name, value in batch.items()
    }
    return blank, finite


def inner(one: Array, other: Array) -> Float[Array, "b"]:
    """Inner product of each example's part [...], in float32."""
    product = one.astype(jnp.float32) * other.astype(jnp.float32)
    return jnp.sum(product, tuple(range(1, product.ndim)))


def gram_of(
    gradients: list[dict[str, Array]], names: Any
) -> Float[Array, "b k k"] | float:
    """Inner products between gradients, given as leaves [b, ...] by name for each term.

    Leaves that a term lacks are zero. 0.0 if there is nothing to add up.
    """
    upper = {}
    for i, one in enumerate(gradients):
        for j, other in enumerate(gradients[i:], i):
            both = [n for n in sorted(names) if n in one and n in other]
            upper[i, j] = sum((inner(one[n], other[n]) for n in both), 0.0)
    return symmetric(upper, len(gradients))


def symmetric(upper: dict[tuple[int, int], Any], k: int) -> Any:
    """The matrix [b, k, k] of entries [b] for i <= j; all 0.0 gives 0.0."""
    arrays = [v for v in upper.values() if not isinstance(v, float)]
    if not arrays:
        return 0.0
    full = {key: jnp.broadcast_to(v, arrays[0].shape) for key, v in upper.items()}
    lines = [
        jnp.stack([full[min(i, j), max(i, j)] for j in range(k)], -1) for i in range(k)
    ]
    return jnp.stack(lines, -2)


def in_chunks(function: Callable[..., Any], arguments: Any, *, chunk: int = 0) -> Any:
    """`function` of each example, by a scan over chunks of examples.

    Args:
      function: Of one example of `arguments`.
      arguments: A tree of arrays [b, ...].
      chunk: Examples at a time; 0 is one per device. The largest divisor of b that is not
        above it is taken.
    """
    size = jax.tree.leaves(arguments)[0].shape[0]
    wanted = min(chunk or jax.device_count(), size)
    chunk = next(n for n in range(wanted, 0, -1) if size % n == 0)
    parts = size // chunk
    if parts == 1:
        return jax.vmap(function)(arguments)

    def divide(x):
        # Part i takes the rows i::parts, so every device holds its share of every part.
        return x.reshape(chunk, parts, *x.shape[1:]).swapaxes(0, 1)

    out = jax.lax.map(jax.vmap(function), jax.tree.map(divide, arguments))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size, *x.shape[2:]), out)
