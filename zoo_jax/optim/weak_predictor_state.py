"""What has been measured, and fits to it: shared by the search and its continuous face."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Int

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import Key, Params
from zoo_jax.optim.predictors.protocol import Predictor

Normalise = Literal["buffer", "ranks", "none"] | tuple[float, float]
_MAX_FIT_SIZES = 10


class Buffer(NamedTuple):
    """Measurements in the order they were told; slots not used yet have mask False."""

    items: Array  # [b, ...]: what was measured: indices int32 [b], or points [b, d]
    values: Float[Array, "b"]  # float32
    mask: Bool[Array, "b"]  # which of them a fit sees


def empty_buffer(size: int, item: jax.ShapeDtypeStruct) -> Buffer:
    """A buffer of `size` slots for items of that shape and dtype."""
    return Buffer(
        jnp.zeros((size, *item.shape), item.dtype),
        jnp.zeros(size, jnp.float32),
        jnp.zeros(size, bool),
    )


def record(
    buffer: Buffer,
    items: Array,
    values: Float[Array, "k"],
    valid: Bool[Array, "k"],
    start: Int[Array, ""],
) -> Buffer:
    """Writes the valid ones of `k` measurements from slot `start` on.

    A value that is not finite takes a slot, and is hidden from fits.
    """
    size = buffer.mask.shape[0]
    slots = jnp.where(valid, start + jnp.arange(valid.shape[0]), size)
    finite = jnp.isfinite(values)
    return Buffer(
        buffer.items.at[slots].set(items, mode="drop"),
        buffer.values.at[slots].set(jnp.where(finite, values, 0), mode="drop"),
        buffer.mask.at[slots].set(finite, mode="drop"),
    )


def check_normalise(how: Normalise) -> None:
    """Raises ConfigError unless `how` is one that `normalised` knows."""
    names = ("buffer", "ranks", "none")
    if isinstance(how, str) and how not in names:
        raise ConfigError(f"unknown normalise {how!r}: {closest(how, names)}")
    if not isinstance(how, str) and (len(how) != 2 or not how[1] > 0):
        raise ConfigError(
            f"normalise is a name or (mean, deviation above 0), got {tuple(how)}"
        )


def normalised(
    values: Float[Array, "b"], mask: Bool[Array, "b"], how: Normalise
) -> Float[Array, "b"]:
    """Values as a predictor sees them; 0 where the mask is False.

    Args:
      values: Labels, higher is better.
      mask: Which to use; the others may hold anything.
      how: ``"buffer"``: zero mean, unit deviation over the mask; equal labels become 0.
        ``"ranks"``: normal scores, so only the order counts. ``"none"``: as they are.
        (mean, deviation): fixed numbers; those of the whole table are what the published
        code uses (it peeks).

    >>> normalised(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False]), "buffer").tolist()
    [-1.0, 1.0, 0.0]
    """
    weights = mask.astype(values.dtype)
    count = jnp.maximum(jnp.sum(weights), 1)
    if how == "ranks":
        below = jnp.sum((values[None] < values[:, None]) * weights[None], axis=1)
        equal = jnp.sum((values[None] == values[:, None]) * weights[None], axis=1)
        out = ndtri(jnp.clip((below + 0.5 * equal) / count, 1e-6, 1 - 1e-6))
    elif how == "buffer":
        # Differences from the best are exact for equal labels, those from a mean are not.
        top = jnp.max(jnp.where(mask, values, -jnp.inf))
        gaps = jnp.where(mask, values - top, 0)
        gaps = gaps - jnp.sum(gaps) / count
        deviation = jnp.sqrt(jnp.sum(jnp.square(gaps) * weights) / count)
        out = gaps / jnp.where(deviation > 0, deviation, 1)
    elif how == "none":
        out = values
    else:
        out = (values - how[0]) / how[1]
    return jnp.where(mask, out, 0)


def fit_sizes(first: int, budget: int, batch: int) -> tuple[int, ...]:
    """Numbers of leading slots that fits are compiled for: at most 10, ascending.

    A fit on all slots would spend most of its work on empty ones; one program per number of
    measurements would compile forever.

    >>> fit_sizes(10, 30, 10), fit_sizes(10, 1000, 10)
    ((10, 20, 30), (10, 120, 230, 340, 450, 560, 670, 780, 890, 1000))
    """
    counts = [first]
    while counts[-1] < budget:
        counts.append(min(counts[-1] + batch, budget))
    last = len(counts) - 1
    if len(counts) <= _MAX_FIT_SIZES:
        return tuple(counts)
    steps = _MAX_FIT_SIZES - 1
    return tuple(sorted({counts[-(-i * last // steps)] for i in range(steps + 1)}))


def fit_buffer(
    predictor: Predictor,
    key: Key,
    buffer: Buffer,
    inputs_of: Any,
    params: Params,
    *,
    count: Int[Array, ""],
    sizes: tuple[int, ...],
    normalise: Normalise,
    warm_start: bool,
) -> Params:
    """Fits the predictor to what the first `count` slots hold.

    Args:
      predictor: Whose params.
      key: For new weights and for shuffles.
      buffer: The measurements.
      inputs_of: Maps items to the predictor's inputs.
      params: Of the fit before; where a warm start begins.
      count: Slots in use.
      sizes: Of `fit_sizes`; the smallest that holds `count` slots is fitted.
      normalise: See `normalised`.
      warm_start: Go on from `params` instead of new weights.

    Returns:
      Params in the shapes of `params`.
    """
    values = normalised(buffer.values, buffer.mask, normalise)

    def on_first(size):
        def fit():
            inputs = inputs_of(buffer.items[:size])
            start = params
            if not warm_start:
                start = predictor.init(jax.random.fold_in(key, 0), inputs)
            mask = buffer.mask[:size].astype(values.dtype)
            fitted = predictor.fit(
                jax.random.fold_in(key, 1), inputs, values[:size], mask, start
            )
            return jax.tree.map(_pad_like, fitted, params)

        return fit

    if len(sizes) == 1:
        return on_first(sizes[0])()
    branch = jnp.searchsorted(jnp.array(sizes), count)
    return lax.switch(jnp.minimum(branch, len(sizes) - 1), [on_first(n) for n in sizes])


def _pad_like(leaf: Array, like: Array) -> Array:
    if leaf.shape == like.shape:
        return leaf
    widths = [(0, b - a) for a, b in zip(leaf.shape, like.shape, strict=True)]
    return jnp.pad(leaf, widths)
