"""Histograms of whole pictures: equalised, and matched to those of another picture."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.methods.ug2.enhancers.colour import change_luminance, luminance


def equalize(
    images: Float[Array, "b h w 3"], *, bins: int = 256
) -> Float[Array, "b h w 3"]:
    """Spreads the luminance of each picture evenly over [0, 1].

    The luminance is mapped by its own cumulative histogram over its range, read linearly
    between the centres of bins, as scikit-image's ``equalize_hist`` does. A picture of one
    luminance comes back as it is.

    Args:
      images: RGB in [0, 1].
      bins: Of the histogram.
    """
    y = luminance(images)
    return change_luminance(images, jax.vmap(lambda y: _equalized(y, bins) - y)(y))


def _equalized(y: Float[Array, "h w"], bins: int) -> Float[Array, "h w"]:
    low, high = jnp.min(y), jnp.max(y)
    flat = high <= low
    width = jnp.where(flat, 1.0, high - low) / bins
    place = (y - low) / width
    index = jnp.clip(jnp.floor(place), 0, bins - 1).astype(jnp.int32)
    counts = jnp.zeros(bins, jnp.int32).at[index].add(1)
    share = jnp.cumsum(counts) / y.size
    # np.interp between centres, which lie at i + 1/2 in units of bins.
    left = jnp.clip(jnp.floor(place - 0.5), 0, bins - 2).astype(jnp.int32)
    part = jnp.clip(place - 0.5 - left, 0.0, 1.0)
    found = share[left] + part * (share[left + 1] - share[left])
    return jnp.where(flat, y, found)


def match_histograms(
    images: Float[Array, "b h w c"], references: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """Gives every channel of every picture the histogram of its reference.

    A value that a share q of its channel does not exceed becomes the q-quantile of the
    reference, read linearly between the values that occur there: scikit-image's
    ``match_histograms`` with a channel axis. A picture matched to itself comes back bit for bit.

    Args:
      images: Any real values.
      references: As large.

    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> match_histograms(x**2, x)[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    b, h, w, c = images.shape
    planes = (
        x.transpose(0, 3, 1, 2).reshape(b * c, h * w) for x in (images, references)
    )
    matched = jax.vmap(_match)(*planes)
    return matched.reshape(b, c, h, w).transpose(0, 2, 3, 1)


def _match(source: Float[Array, "n"], reference: Float[Array, "n"]) -> Array:
    n = source.size
    order = jnp.argsort(source)
    template = jnp.sort(reference)
    # How many values are no larger: the end of the run of equals. Counts, not shares, so
    # that nothing is rounded.
    _, count = _runs(source[order])
    before, end = _runs(template)
    value, before, end = (x[count - 1] for x in (template, before, end))
    previous = template[jnp.maximum(before - 1, 0)]
    part = (count - before) / (end - before)
    between = previous + part * (value - previous)
    exact = (count == end) | (before == 0)  # below the first knot np.interp is constant
    matched = jnp.where(exact, value, between)
    return jnp.zeros(n, matched.dtype).at[order].set(matched)


def _runs(values: Float[Array, "n"]) -> tuple[Array, Array]:
    """Of each sorted value: how many are smaller, and how many are no larger."""
    n = values.size
    place = jnp.arange(n)
    fresh = jnp.concatenate([jnp.ones(1, bool), values[1:] != values[:-1]])
    start = jax.lax.cummax(jnp.where(fresh, place, 0))
    last = jnp.concatenate([fresh[1:], jnp.ones(1, bool)])
    end = jax.lax.cummin(jnp.where(last, place + 1, n), reverse=True)
    return start, end
