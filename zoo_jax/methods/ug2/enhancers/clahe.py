"""Contrast-limited adaptive histogram equalisation of the luminance, as OpenCV computes it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoo_jax.methods.ug2.enhancers.colour import change_luminance, luminance

LEVELS = 256


def clahe(
    images: Float[Array, "b h w 3"],
    *,
    clip_limit: float = 2.0,
    tiles: tuple[int, int] = (8, 8),
) -> Float[Array, "b h w 3"]:
    """Equalises the luminance locally; colour differences stay.

    Args:
      images: RGB in [0, 1]; the luminance is rounded to 256 levels for its histograms.
      clip_limit: Largest count of a level, as a multiple of the mean count; 0 sets no limit.
      tiles: How many regions with a histogram of their own, down and across.

    Source: Zuiderveld, Graphics Gems IV, 1994; conventions of OpenCV's ``createCLAHE``.
    """
    levels = jnp.round(255 * luminance(images)).astype(jnp.int32)
    mapped = clahe_levels(levels, clip_limit=clip_limit, tiles=tiles)
    return change_luminance(images, (mapped - levels) / 255)


def clahe_levels(
    levels: Int[Array, "b h w"],
    *,
    clip_limit: float = 2.0,
    tiles: tuple[int, int] = (8, 8),
) -> Int[Array, "b h w"]:
    """The same on grey levels 0..255, equal to OpenCV's up to the rounding of ties.

    Every tile has a table from level to level, its clipped and cumulated histogram. A pixel
    takes the bilinear mean of the tables of the four tiles whose centres surround it.
    """
    return jax.vmap(lambda x: _clahe(x, float(clip_limit), tuple(tiles)))(levels)


def _clahe(x: Int[Array, "h w"], clip_limit: float, tiles: tuple[int, int]) -> Array:
    (h, w), (rows, columns) = x.shape, tiles
    if h % rows or w % columns:
        # OpenCV's habit: a side that needs no padding gets a whole row of tiles then.
        below, right = rows - h % rows, columns - w % columns
        padded = jnp.pad(x, ((0, below), (0, right)), mode="reflect")
    else:
        padded = x
    height, width = padded.shape[0] // rows, padded.shape[1] // columns
    tables = _tables(padded, tiles, height * width, clip_limit)

    down, across = _neighbours(h, height, rows), _neighbours(w, width, columns)

    def looked_up(row: np.ndarray, column: np.ndarray) -> Array:
        tile = row[:, None] * columns + column[None]
        index = jnp.asarray(tile * LEVELS) + x
        return tables.at[index].get(mode="promise_in_bounds").astype(jnp.float32)

    # Where a pixel lies between two centres, on the axis across and on the axis down.
    share, part = across.part[None], down.part[:, None]
    upper, lower = (
        looked_up(row, across.first) * (1 - share)
        + looked_up(row, across.second) * share
        for row in (down.first, down.second)
    )
    return jnp.round(upper * (1 - part) + lower * part).astype(jnp.int32)


class _Between(NamedTuple):
    """Of each pixel along one axis: the tiles on both sides, and how near it is to the second."""

    first: np.ndarray
    second: np.ndarray
    part: np.ndarray


def _neighbours(pixels: int, size: int, tiles: int) -> _Between:
    place = np.arange(pixels, dtype=np.float32) * np.float32(1 / size) - np.float32(0.5)
    first = np.floor(place).astype(np.int32)
    part = place - first
    return _Between(np.maximum(first, 0), np.minimum(first + 1, tiles - 1), part)


def _tables(
    x: Int[Array, "h w"], tiles: tuple[int, int], area: int, clip_limit: float
) -> Int[Array, "n"]:
    """The tables of all tiles, one behind the other."""
    (h, w), (rows, columns) = x.shape, tiles
    row, column = np.arange(h) // (h // rows), np.arange(w) // (w // columns)
    tile = jnp.asarray((row[:, None] * columns + column[None]) * LEVELS)
    counts = jnp.zeros(rows * columns * LEVELS, jnp.int32)
    counts = counts.at[tile + x].add(1, mode="promise_in_bounds").reshape(-1, LEVELS)
    if clip_limit > 0:
        counts = _clipped(counts, max(int(clip_limit * area / LEVELS), 1))
    scale = np.float32(LEVELS - 1) / np.float32(area)
    table = jnp.round(jnp.cumsum(counts, axis=1).astype(jnp.float32) * scale)
    return jnp.clip(table, 0, LEVELS - 1).astype(jnp.int32).reshape(-1)


def _clipped(counts: Int[Array, "t k"], limit: int) -> Int[Array, "t k"]:
    """Cuts counts at the limit and spreads what was cut: evenly, the rest in equal steps."""
    kept = jnp.minimum(counts, limit)
    excess = jnp.sum(counts - kept, axis=1, keepdims=True)
    rest = excess % LEVELS
    step = jnp.maximum(LEVELS // jnp.maximum(rest, 1), 1)
    level = jnp.arange(LEVELS)[None]
    one_more = (level % step == 0) & (level // step < rest)
    return kept + excess // LEVELS + one_more
