"""Enhancement chosen by camera and conditions: a reconstruction of the CCRE entry.

Remembered of it, not read: frames of gliders are checked for interlacing; ground and drone frames
are rid of compression artefacts by a fast AR-CNN; nothing is done that the picture does not
need. How blocks are detected, and that without a known collection both detectors look at
every picture, is ours. Its lens corrections and its removal of haze and drops are left out.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import RestoreFn
from zoo_jax.methods.ug2.enhancers.colour import luminance
from zoo_jax.methods.ug2.enhancers.interlace import THRESHOLD, repair_interlace

BLOCK = 8  # pixels, of JPEG and of most video codecs
BLOCKY = (
    1.3  # of `blockiness`; photographs have 0.9 to 1.1, JPEG of quality 10 above 1.5
)
COLLECTIONS = ("uav", "glider", "ground")


class Enhanced(NamedTuple):
    """Pictures, and what was done to each."""

    images: Float[Array, "b h w 3"]
    shift: Float[Array, "b"]  # between the fields, in pixels; 0 where nobody looked
    deinterlaced: Bool[Array, "b"]
    cleaned: Bool[Array, "b"]  # of compression artefacts

    def steps(self) -> list[tuple[str, ...]]:
        """The names of the applied steps, per picture. Needs numbers: not under `jax.jit`."""
        both = zip(self.deinterlaced.tolist(), self.cleaned.tolist(), strict=True)
        names = ("deinterlace", "arcnn")
        return [
            tuple(n for n, done in zip(names, flags, strict=True) if done)
            for flags in both
        ]


def enhance_relevant(
    images: Float[Array, "b h w 3"],
    *,
    collection: str | None = None,
    arcnn: RestoreFn | None = None,
    threshold: float = THRESHOLD,
    blocky: float = BLOCKY,
    field: str = "even",
) -> Enhanced:
    """Repairs what is wrong with each picture, and tells what that was.

    Args:
      images: RGB in [0, 1].
      collection: ``"glider"`` looks for interlacing, ``"uav"`` and ``"ground"`` for compression
        artefacts; None looks for both.
      arcnn: Removes compression artefacts; None leaves that step out.
      threshold: Shift between fields in pixels, above which a picture is interlaced.
      blocky: `blockiness` above which a picture is rid of artefacts.
      field: Which field is kept, see `deinterlace`.

    Returns:
      A picture that needs nothing comes back bit for bit.

    Raises:
      ConfigError: for another collection.
    """
    if collection is not None and collection not in COLLECTIONS:
        raise ConfigError(
            f"unknown collection {collection!r}: {closest(collection, COLLECTIONS)}"
        )
    b = len(images)
    shift, none = jnp.zeros(b), jnp.zeros(b, bool)
    deinterlaced = cleaned = none
    if collection in (None, "glider"):
        images, shift = repair_interlace(images, threshold=threshold, field=field)
        deinterlaced = jnp.abs(shift) > threshold
    if collection in (None, "uav", "ground") and arcnn is not None:
        cleaned = blockiness(images) > blocky
        images = jnp.where(cleaned.reshape(-1, 1, 1, 1), arcnn(images), images)
    return Enhanced(images, shift, deinterlaced, cleaned)


def blockiness(images: Float[Array, "b h w 3"]) -> Float[Array, "b"]:
    """Mean step of luminance across the borders of 8x8 blocks over that elsewhere.

    Above 1 with blocks whose grid begins at the corner of the picture; 1 for a picture too
    small to have a border, or without any step.
    """
    y = luminance(images)
    if min(y.shape[1:]) <= BLOCK:
        return jnp.ones(len(y))
    at_border = between = 0.0
    for axis in (1, 2):
        steps = jnp.moveaxis(jnp.abs(jnp.diff(y, axis=axis)), axis, 1)
        mean = jnp.mean(steps, axis=2)  # b n
        border = jnp.arange(mean.shape[1]) % BLOCK == BLOCK - 1
        at_border += jnp.mean(mean[:, BLOCK - 1 :: BLOCK], axis=1)
        total = jnp.sum(jnp.where(border[None], 0.0, mean), axis=1)
        between += total / jnp.sum(~border)
    flat = between < 1e-6
    return jnp.where(flat, 1.0, at_border / jnp.where(flat, 1.0, between))
