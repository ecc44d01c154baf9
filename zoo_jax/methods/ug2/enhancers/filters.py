"""Short linear filters: unsharp masks, and a bank of which each picture gets the best.

The bank is a reconstruction of the sixth entry of the UG^2 challenge, of which no more than
"multiple FIR filters" is remembered; the filters and the way to choose are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoo_jax.methods.ug2.enhancers.colour import luminance
from zoo_jax.methods.ug2.enhancers.deconvolution import gaussian_kernel

NATURAL_SLOPE = (
    -2.0
)  # of the power of photographs against frequency: Field, JOSA A 4, 1987


def unsharp(
    images: Float[Array, "b h w 3"], *, sigma: float = 1.0, amount: float = 1.0
) -> Float[Array, "b h w 3"]:
    """Adds what a Gaussian blur takes away, `amount` times, and clips to [0, 1].

    Args:
      images: RGB in [0, 1]; borders are mirrored.
      sigma: Of the blur, in pixels.
      amount: 0 changes nothing.
    """
    return jnp.clip(filter_images(images, unsharp_kernel(sigma, amount)), 0.0, 1.0)


def unsharp_kernel(sigma: float, amount: float) -> Float[np.ndarray, "k k"]:
    """The kernel of `unsharp`; it sums to 1."""
    blur = gaussian_kernel(sigma)
    kernel = -amount * blur
    kernel[len(blur) // 2, len(blur) // 2] += 1 + amount
    return kernel


def wiener_kernel(
    sigma: float, balance: float, *, size: int = 11
) -> Float[np.ndarray, "k k"]:
    """A short kernel that undoes a Gaussian blur as far as noise of power `balance` allows.

    The centre of the inverse Fourier transform of ``H / (H^2 + balance)`` on a large grid,
    normalised to the sum 1.
    """
    n = 64
    frequency = np.fft.fftfreq(n)
    line = np.exp(-2 * np.square(np.pi * sigma * frequency))
    blur = np.outer(line, line)
    whole = np.fft.fftshift(np.fft.ifft2(blur / (blur**2 + balance)).real)
    low = n // 2 - size // 2
    kernel = whole[low : low + size, low : low + size]
    return (kernel / kernel.sum()).astype(np.float32)


def filter_images(
    images: Float[Array, "b h w c"], kernel: Float[np.ndarray, "k k"]
) -> Float[Array, "b h w c"]:
    """Applies one symmetric kernel to every channel, with mirrored borders."""
    b, h, w, c = images.shape
    reach = len(kernel) // 2
    x = images.transpose(0, 3, 1, 2).reshape(b * c, h, w, 1)
    x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    out = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel, images.dtype)[..., None, None],
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return out.reshape(b, c, h, w).transpose(0, 2, 3, 1)


# The first is the identity: a picture that is well as it is stays.
BANK: dict[str, Float[np.ndarray, "k k"]] = {
    "identity": np.ones((1, 1), np.float32),
    "unsharp 1 x0.5": unsharp_kernel(1.0, 0.5),
    "unsharp 1 x1": unsharp_kernel(1.0, 1.0),
    "unsharp 1 x2": unsharp_kernel(1.0, 2.0),
    "unsharp 2 x1": unsharp_kernel(2.0, 1.0),
    "wiener 0.7": wiener_kernel(0.7, 0.01),
    "wiener 1": wiener_kernel(1.0, 0.01),
    "wiener 1.4": wiener_kernel(1.4, 0.01),
}


class Filtered(NamedTuple):
    """Pictures behind a bank, and which filter of `BANK` each of them got."""

    images: Float[Array, "b h w 3"]
    chosen: Int[Array, "b"]


def choose_filter(images: Float[Array, "b h w 3"]) -> Filtered:
    """Applies to each picture the filter of `BANK` that makes it look most natural.

    Natural is a `spectral_slope` near -2. A tie goes to the earlier filter.
    """
    candidates = [images] + [
        jnp.clip(filter_images(images, kernel), 0.0, 1.0)
        for name, kernel in BANK.items()
        if name != "identity"
    ]
    slopes = jnp.stack([spectral_slope(x) for x in candidates])  # filter b
    chosen = jnp.argmin(jnp.abs(slopes - NATURAL_SLOPE), axis=0)
    stacked = jnp.stack(candidates)  # filter b h w c
    out = jax.vmap(lambda i, x: x[i], (0, 1))(chosen, stacked)
    return Filtered(out, chosen)


def fir_bank(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The pictures of `choose_filter`. A reconstruction."""
    return choose_filter(images).images


def spectral_slope(images: Float[Array, "b h w 3"]) -> Float[Array, "b"]:
    """How the power of the luminance falls with frequency: the exponent of a power law.

    Fitted by least squares to the logarithms, every ring of frequencies alike, of a picture
    faded out towards its borders. Photographs have about -2; blur lowers it, noise and
    sharpening raise it. A flat picture has 0.

    Args:
      images: RGB in [0, 1].
    """
    y = luminance(images)
    h, w = y.shape[1:]
    if min(h, w) < 4:
        return jnp.zeros(len(y))
    fade = np.outer(np.hanning(h + 2)[1:-1], np.hanning(w + 2)[1:-1])
    fade = jnp.asarray(fade, jnp.float32)[None]
    centred = y - jnp.sum(fade * y, axis=(1, 2), keepdims=True) / jnp.sum(fade)
    spectrum = jnp.fft.rfft2(fade * centred)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # Rounding leaves about 1e-14 of the power; a floor above it makes flat pictures flat.
    logs = jnp.log(power + 1e-6)
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None])
    inside = (frequency > 2 / min(h, w)) & (frequency <= 0.5)
    weight = np.where(inside, 1 / np.maximum(frequency, 1e-9), 0)
    weight = weight / weight.sum()
    x = np.log(np.maximum(frequency, 1e-9))
    x = np.where(inside, x - (weight * x).sum(), 0)
    fit = weight * x / (weight * x * x).sum()
    return jnp.sum(jnp.asarray(fit, jnp.float32)[None] * logs, axis=(1, 2))
