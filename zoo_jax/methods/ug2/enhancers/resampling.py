"""Interpolation by two and back: the baselines that add no information.

UG^2 enlarges a picture and lets the recogniser shrink it to its own size. Here the picture comes
back to its size by the same interpolation, so that what remains is what that pair does to it.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.nn.resize import upsample_nearest

Kind = Literal["nearest", "bilinear", "bicubic"]
_METHODS = {"bilinear": "linear", "bicubic": "cubic"}


def enlarge(
    images: Float[Array, "b h w c"], kind: Kind, *, factor: int = 2
) -> Float[Array, "b i j c"]:
    """Makes pictures `factor` times as high and wide.

    Pixels are squares: the first and the last centre lie half a pixel inside the border. The
    bicubic kernel is Keys' with a = -1/2, as in Pillow and MATLAB; it may leave [0, 1].
    """
    if kind == "nearest":
        return upsample_nearest(images, factor)
    b, h, w, c = images.shape
    return jax.image.resize(images, (b, factor * h, factor * w, c), _METHODS[kind])


def shrink(
    images: Float[Array, "b i j c"], kind: Kind, *, factor: int = 2
) -> Float[Array, "b h w c"]:
    """Makes them smaller again, with the kernel widened against aliasing.

    ``"nearest"`` takes the pixel right and below of the new centre: every `factor`-th one.
    """
    if kind == "nearest":
        return images[:, factor // 2 :: factor, factor // 2 :: factor]
    b, h, w, c = images.shape
    return jax.image.resize(images, (b, h // factor, w // factor, c), _METHODS[kind])


def there_and_back(
    images: Float[Array, "b h w 3"], *, kind: Kind, factor: int = 2
) -> Float[Array, "b h w 3"]:
    """Enlarges pictures and makes them small again, clipped to [0, 1].

    Nearest neighbours come back bit for bit.
    """
    large = jnp.clip(enlarge(images, kind, factor=factor), 0.0, 1.0)
    return jnp.clip(shrink(large, kind, factor=factor), 0.0, 1.0)


nearest_x2 = functools.partial(there_and_back, kind="nearest")
bilinear_x2 = functools.partial(there_and_back, kind="bilinear")
bicubic_x2 = functools.partial(there_and_back, kind="bicubic")
