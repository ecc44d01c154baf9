"""Interlaced frames: two fields, even and odd rows, taken one after the other.

A moving camera leaves combs at edges. The fields are registered horizontally; where they disagree,
one of them is kept and its missing rows are interpolated.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.ug2.enhancers.colour import luminance

THRESHOLD = 0.16  # pixels; what is remembered of the challenge entry
FIELDS = {"even": 0, "odd": 1}
_STEPS = 8


def detect_interlace(
    images: Float[Array, "b h w 3"], *, largest: int = 12
) -> Float[Array, "b"]:
    """How far the odd rows lie to the right of where the even rows put them, in pixels.

    The rows between the even ones are predicted by their mean and compared with the odd rows,
    shifted by every whole number of pixels; from the best of them Gauss-Newton steps find the
    fraction. A picture without horizontal detail has 0.

    Args:
      images: RGB in [0, 1].
      largest: The farthest shift that is looked for; a narrow picture allows a quarter of its
        width.
    """
    h, w = images.shape[1:3]
    if h < 3 or w < 8:
        return jnp.zeros(len(images))
    # The farthest shift and its interpolation leave two columns to compare.
    largest = min(largest, w // 4, (w - 8) // 2)
    return jax.vmap(lambda y: _field_shift(y, largest))(luminance(images))


def _field_shift(y: Float[Array, "h w"], largest: int) -> Float[Array, ""]:
    even, odd = y[::2], y[1::2]
    rows = len(even) - 1  # odd rows with an even one on both sides
    predicted, observed = (even[:-1] + even[1:]) / 2, odd[:rows]
    # Columns that the farthest shift, and the four taps of the interpolation, leave inside.
    margin = largest + 3
    low, high = margin, y.shape[1] - margin
    inner = observed[:, low:high]

    def shifted(d: Array) -> tuple[Array, Array]:
        """What is predicted, d to the right, and its slope along a row; d within reach."""
        whole = jnp.floor(d)
        start = low - whole.astype(jnp.int32) - 2
        wide = jax.lax.dynamic_slice_in_dim(predicted, start, high - low + 3, axis=1)
        # Sampled at x - d = (x - whole - 1) + (1 - part): a cubic through four pixels.
        t = 1 - (d - whole)
        a, b, c, e = (wide[:, i : i + high - low] for i in range(4))
        p1 = (c - a) / 2
        p2 = a - 2.5 * b + 2 * c - 0.5 * e
        p3 = 1.5 * (b - c) + 0.5 * (e - a)
        value = b + t * (p1 + t * (p2 + t * p3))
        return value, p1 + t * (2 * p2 + 3 * t * p3)

    candidates = jnp.arange(-largest, largest + 1, dtype=jnp.float32)
    errors = jax.lax.map(
        lambda d: jnp.sum(jnp.square(inner - shifted(d)[0])), candidates
    )
    # Of equal errors the smallest shift: a flat picture stays.
    nearest = jnp.argsort(jnp.abs(candidates), stable=True)
    best = nearest[jnp.argmin(errors[nearest])]

    def refine(_: int, d: Array) -> Array:
        value, slope = shifted(d)
        energy = jnp.sum(jnp.square(slope))
        safe = jnp.where(energy > 1e-6, energy, 1.0)
        # value(d) falls along its slope as d grows.
        step = -jnp.sum(slope * (inner - value)) / safe
        step = jnp.where(energy > 1e-6, jnp.clip(step, -0.5, 0.5), 0.0)
        return jnp.clip(d + step, -float(largest), float(largest))

    return jax.lax.fori_loop(0, _STEPS, refine, candidates[best])


def deinterlace(
    images: Float[Array, "b h w 3"], *, field: str = "even"
) -> Float[Array, "b h w 3"]:
    """Keeps one field and fills the rows of the other from the four kept rows around.

    A missing row is (9 (x[-1] + x[1]) - (x[-3] + x[3])) / 16, exact for cubics, clipped to
    [0, 1]; rows beyond the border repeat the last kept one.

    Args:
      images: RGB in [0, 1].
      field: ``"even"``, rows 0, 2, ..., which come first, or ``"odd"``.

    Raises:
      ConfigError: for another field.
    """
    if field not in FIELDS:
        raise ConfigError(f"field must be 'even' or 'odd', got {field!r}")
    h = images.shape[1]
    if h == 1:
        return images
    kept = np.arange(FIELDS[field], h, 2)
    missing = np.arange(1 - FIELDS[field], h, 2)

    def row(offset: int) -> Array:
        place = np.clip(missing + offset, kept[0], kept[-1])
        return images[:, place]

    filled = (9 * (row(-1) + row(1)) - (row(-3) + row(3))) / 16
    return images.at[:, missing].set(jnp.clip(filled, 0.0, 1.0))


def repair_interlace(
    images: Float[Array, "b h w 3"],
    *,
    threshold: float = THRESHOLD,
    field: str = "even",
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b"]]:
    """Deinterlaces the pictures whose fields are more than `threshold` pixels apart.

    Returns:
      The pictures, the others bit for bit as they were, and what `detect_interlace` found.
    """
    shift = detect_interlace(images)
    apart = (jnp.abs(shift) > threshold).reshape(-1, 1, 1, 1)
    return jnp.where(apart, deinterlace(images, field=field), images), shift
