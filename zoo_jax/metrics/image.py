"""Likeness of images, one value per image: PSNR, and SSIM by the name of its variant."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoo_jax.metrics.complex_wavelet import complex_wavelet_ssim


def psnr(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    data_range: float = 1.0,
) -> Float[Array, "b"]:
    """Peak signal-to-noise ratio in dB over all pixels and channels of each image.

    Equal images have an infinite one. The mean over images of this is what papers report, not
    the ratio of the mean error.

    Args:
      image: The image to judge; not clipped here.
      reference: The truth.
      data_range: Distance between black and white.

    >>> x = jnp.zeros((1, 4, 5, 3))
    >>> round(float(psnr(x + 0.1, x)[0]), 3)
    20.0
    """
    error = image.astype(jnp.float32) - reference.astype(jnp.float32)
    mse = jnp.mean(jnp.square(error), axis=(1, 2, 3))
    return 20 * jnp.log10(data_range) - 10 * jnp.log10(mse)


def ssim_uniform(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    data_range: float = 1.0,
) -> Float[Array, "b"]:
    """SSIM by means over 7x7 windows and sample covariances: the default of scikit-image.

    Only windows inside the image count. The value is the mean over them and the channels.

    Args:
      image: At least 7x7 pixels.
      reference: The truth.
      data_range: Distance between black and white.

    Raises:
      ValueError: for a smaller image.

    >>> x = jnp.linspace(0, 1, 8 * 9).reshape(1, 8, 9, 1)
    >>> round(float(ssim_uniform(x, x)[0]), 4)
    1.0
    """
    n = 7 * 7
    window = np.full(7, 1 / 7)
    return _ssim(image, reference, window, n / (n - 1), data_range)


def ssim_gaussian(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    data_range: float = 1.0,
) -> Float[Array, "b"]:
    """SSIM as first published: 11x11 Gaussian windows of deviation 1.5, inside the image only.

    Args:
      image: At least 11x11 pixels.
      reference: The truth.
      data_range: Distance between black and white.

    Raises:
      ValueError: for a smaller image.

    Source: Wang, Bovik, Sheikh and Simoncelli, IEEE Transactions on Image Processing 13, 2004;
    mean over channels.

    >>> x = jnp.linspace(0, 1, 12 * 13).reshape(1, 12, 13, 1)
    >>> round(float(ssim_gaussian(x, x)[0]), 4)
    1.0
    """
    window = np.exp(-0.5 * np.square(np.arange(-5, 6) / 1.5))
    return _ssim(image, reference, window / window.sum(), 1.0, data_range)


SSIM_VARIANTS: dict[str, Callable[..., Array]] = {
    "skimage_uniform7": ssim_uniform,
    "gauss11_valid": ssim_gaussian,
    "cw": complex_wavelet_ssim,
}


def ssim(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    variant: str,
    data_range: float = 1.0,
) -> Float[Array, "b"]:
    """SSIM in one of the variants that papers mean by that word. Values differ by up to 0.15.

    Args:
      image: The image to judge.
      reference: The truth.
      variant: ``"skimage_uniform7"`` (`ssim_uniform`), ``"gauss11_valid"`` (`ssim_gaussian`) or
        ``"cw"`` (`complex_wavelet_ssim`, which runs on the host: not under `jax.jit`).
      data_range: Distance between black and white.

    Raises:
      ValueError: for another variant, or an image smaller than its window.

    >>> x = jnp.linspace(0, 1, 12 * 13).reshape(1, 12, 13, 1)
    >>> [round(float(ssim(x, x, variant=variant)[0]), 4) for variant in SSIM_VARIANTS]
    [1.0, 1.0, 1.0]
    """
    if variant not in SSIM_VARIANTS:
        raise ValueError(
            f"unknown variant of SSIM {variant!r}: choose from {', '.join(SSIM_VARIANTS)}"
        )
    return SSIM_VARIANTS[variant](image, reference, data_range=data_range)


def luma(image: Float[Array, "*b 3"]) -> Float[Array, "*b 1"]:
    """Y of BT.601 in its limited range: 16/255 for black to 235/255 for white.

    Args:
      image: RGB in [0, 1].

    >>> round(float(255 * luma(jnp.ones((1, 1, 3)))[0, 0, 0]), 3)
    235.0
    """
    weights = jnp.array([65.481, 128.553, 24.966]) / 255
    return (image.astype(jnp.float32) @ weights)[..., None] + 16 / 255


def _ssim(
    x: Array, y: Array, window: np.ndarray, unbias: float, data_range: float
) -> Array:
    size = len(window)
    if min(x.shape[1:3]) < size:
        raise ValueError(
            f"this SSIM needs images of {size}x{size} pixels or more, got "
            f"{x.shape[1]}x{x.shape[2]}"
        )
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # Covariances do not change with a common offset, but E[x^2] - E[x]^2 loses fewer digits
    # near zero. The means get it back.
    offset = jnp.mean(y, axis=(1, 2), keepdims=True)
    x, y = x - offset, y - offset
    mx, my, xx, yy, xy = (_filter(z, window) for z in (x, y, x * x, y * y, x * y))
    vx, vy, vxy = (
        unbias * (xx - mx * mx),
        unbias * (yy - my * my),
        unbias * (xy - mx * my),
    )
    mx, my = mx + offset, my + offset
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mx * my + c1) * (2 * vxy + c2)
    return jnp.mean(top / ((mx * mx + my * my + c1) * (vx + vy + c2)), axis=(1, 2, 3))


def _filter(x: Array, window: np.ndarray) -> Array:
    """Separable weighted sums over the windows that lie inside the image."""
    for axis in (1, 2):
        length = x.shape[axis] - len(window) + 1
        slices = [slice(None)] * 4
        total = jnp.zeros(())
        for i, weight in enumerate(window):
            slices[axis] = slice(i, i + length)
            total = total + float(weight) * x[tuple(slices)]
        x = total
    return x
