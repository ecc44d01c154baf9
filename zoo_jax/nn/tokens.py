"""From clips, sounds and words to tokens: patches, positions, fewer tokens, an aggregator.

Sources: arXiv 2104.11178, sections 3.1 to 3.3, and its released code, which puts a layer norm on
the summed positions.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from scipy.interpolate import CubicSpline

from zoo_jax.core.types import Key
from zoo_jax.nn.transformer import layer_norm

Resampling = Literal["spline", "cubic"]
RESAMPLINGS: tuple[Resampling, ...] = ("spline", "cubic")


def patches(
    x: Float[Array, "b *size c"], patch: Sequence[int]
) -> tuple[Float[Array, "b n p"], tuple[int, ...]]:
    """Cuts a clip, a picture or a sound into patches that do not overlap.

    What is left over at the end of an axis is cut off, as by a convolution without padding.

    Args:
      x: One, two or three axes between batch and channels.
      patch: The size of a patch along each of them.

    Returns:
      The patches in C order, each flattened in C order with channels last, and the grid.

    Raises:
      ValueError: if the axes do not go with `patch`, or are shorter than a patch.

    >>> patches(jnp.arange(7.0).reshape(1, 7, 1), (3,))[0].tolist()
    [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
    """
    size = x.shape[1:-1]
    if len(size) != len(patch) or any(s < p for s, p in zip(size, patch, strict=True)):
        raise ValueError(
            f"patches of size {tuple(patch)} do not fit an input of {size}"
        )
    grid = tuple(s // p for s, p in zip(size, patch, strict=True))
    for axis, (g, p) in enumerate(zip(grid, patch, strict=True), 1):
        x = jax.lax.slice_in_dim(x, 0, g * p, axis=axis)
    split = [n for pair in zip(grid, patch, strict=True) for n in pair]
    x = x.reshape(x.shape[0], *split, x.shape[-1])  # b t tp h hp w wp c
    k = len(grid)
    x = x.transpose(0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2), 2 * k + 1)
    return x.reshape(x.shape[0], math.prod(grid), -1), grid


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel, as one matrix product over patches.

    Attributes:
      features: Width of a token.
      patch: Size of a patch: (frames, rows, columns), (steps, bands) or (samples,).
      dtype: Compute dtype.
    """

    features: int
    patch: tuple[int, ...]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *size c"]
    ) -> tuple[Float[Array, "b n d"], tuple[int, ...]]:
        """Returns tokens and their grid; errors as `patches`."""
        cut, grid = patches(x, self.patch)
        # Glorot for a convolution: every place of the kernel counts as an output, too.
        fan = cut.shape[-1] + math.prod(self.patch) * self.features
        limit = math.sqrt(6 / fan)

        def init(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        layer = nn.Dense(
            self.features, kernel_init=init, dtype=self.dtype, name="project"
        )
        return layer(cut), grid


class PositionTables(nn.Module):
    """Learned positions: one table per axis, summed, normalised, and added to the tokens.

    Attributes:
      axes: Name and length of the table of each axis.
      resampling: How tables are brought to a grid of another size. ``"spline"``: through the
        rows at i / N, read at j / M (released code). ``"cubic"``: bicubic with half-pixel
        centres (paper).
      dropout_rate: Of the sum of tokens and positions.
      dtype: Compute dtype.
    """

    axes: tuple[tuple[str, int], ...]
    resampling: Resampling = "spline"
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: tuple[int, ...], *, train: bool
    ) -> Float[Array, "b n d"]:
        """Adds the position of each token; `n` is the size of `grid`, in C order."""
        d = x.shape[-1]
        init = nn.initializers.truncated_normal(d**-0.5)
        total = jnp.zeros((1,) * len(grid) + (d,))
        for i, ((name, length), size) in enumerate(zip(self.axes, grid, strict=True)):
            table = self.param(name, init, (length, d), jnp.float32)
            rows = resample_rows(table, size, kind=self.resampling)
            total = total + rows.reshape(
                [size if j == i else 1 for j in range(len(grid))] + [d]
            )
        positions = layer_norm(dtype=self.dtype, name="norm")(total.reshape(1, -1, d))
        return nn.Dropout(self.dropout_rate)(x + positions, deterministic=not train)


def resample_rows(
    table: Float[Array, "n d"], size: int, *, kind: Resampling = "spline"
) -> Float[Array, "m d"]:
    """Brings a table of positions to another length; the same length is left as it is.

    Args:
      table: Its rows.
      size: Rows of the result.
      kind: As in `PositionTables`.

    >>> [round(float(x), 3) for x in resample_rows(jnp.arange(4.0)[:, None], 8)[:, 0]]
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    """
    n = len(table)
    if size == n:
        return table
    if kind == "cubic":
        return jax.image.resize(table, (size, table.shape[1]), "cubic")
    weights = jnp.asarray(_spline_weights(n, size), table.dtype)
    # Outside the table the weights are large and of both signs.
    return jnp.matmul(weights, table, precision="highest")


@functools.lru_cache(maxsize=16)
def _spline_weights(n: int, m: int) -> Float[np.ndarray, "m n"]:
    """Row j: weights of the table's rows at i / n in the value at j / m.

    The natural cubic spline, continued by straight lines: in one dimension what the released
    code computes as a polyharmonic spline of order 3 with a linear part.
    """
    if n == 1:
        return np.ones((m, 1))
    knots, queries = np.arange(n) / n, np.arange(m) / m
    spline = CubicSpline(knots, np.eye(n), bc_type="natural")
    inside = np.minimum(queries, knots[-1])
    return spline(inside) + (queries - inside)[:, None] * spline(knots[-1], 1)


def drop_tokens(
    x: Float[Array, "b n d"], key: Key, *, keep: float
) -> Float[Array, "b k d"]:
    """DropToken: keeps a random subset of the tokens, the same of every example.

    Args:
      x: Tokens with their positions.
      key: One for the whole batch; under `jax.vmap` over examples and keys, one for each.
      keep: Share of the tokens that stay, rounded down, but at least one.

    Source: arXiv 2104.11178, section 3.2. The released code counts from the size of the position
    tables, and fails on shorter clips; here it is the length at hand.
    """
    n = x.shape[1]
    kept = jax.random.permutation(key, n)[: max(int(keep * n), 1)]
    return x[:, kept]


def prepend_vector(
    x: Float[Array, "b n d"], vector: Float[Array, "d"]
) -> Float[Array, "b n+1 d"]:
    """Puts the same token in front of every sequence."""
    first = jnp.broadcast_to(vector.astype(x.dtype), (len(x), 1, x.shape[-1]))
    return jnp.concatenate([first, x], axis=1)


def aggregator_init(
    key: Key, shape: tuple[int], dtype: DTypeLike = jnp.float32
) -> Array:
    """Truncated normal of variance 1/d: what Keras' ``glorot_normal`` is for one vector."""
    # A unit normal that is cut off at two deviations has this deviation.
    std = shape[0] ** -0.5 / 0.87962566103423978
    return std * jax.random.truncated_normal(key, -2, 2, shape, dtype)


class WordTable(nn.Module):
    """Word vectors by id.

    Attributes:
      vocabulary: Words; id 0 is padding.
      features: Width of a word vector.
      trainable: Otherwise the table has no gradient. It stays a parameter, so give it no
        optimiser state and no weight decay (a mask on the optimiser).
      dtype: Of the output.
    """

    vocabulary: int
    features: int
    trainable: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Looks words up; an id outside the vocabulary gives NaN."""
        init = nn.initializers.uniform(0.1)
        table = nn.Embed(
            self.vocabulary,
            self.features,
            embedding_init=lambda *args: init(*args) - 0.05,  # that of Keras
            dtype=self.dtype,
            name="table",
        )
        return table(ids) if self.trainable else jax.lax.stop_gradient(table(ids))
