"""Deconvolution with a known blur, and with one that is estimated from the picture.

A blur kernel is an array [k, k] that sums to 1, its centre at ``k // 2``. Channels are treated
alike, each by itself.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.ug2.enhancers.colour import luminance

Kernel = Float[Array, "k k"]


def gaussian_kernel(
    sigma: float, *, size: int | None = None
) -> Float[np.ndarray, "k k"]:
    """A Gaussian blur; by default as large as three deviations to each side.

    >>> gaussian_kernel(1.0).shape
    (7, 7)
    """
    if not sigma > 0:
        raise ConfigError(f"sigma must be above 0, got {sigma}")
    size = 2 * int(np.ceil(3 * sigma)) + 1 if size is None else size
    line = np.exp(-0.5 * np.square((np.arange(size) - size // 2) / sigma))
    kernel = np.outer(line, line)
    return (kernel / kernel.sum()).astype(np.float32)


def as_kernel(
    kernel: Sequence | Array | None, sigma: float
) -> Float[np.ndarray, "k k"]:
    """The given kernel, normalised, or a Gaussian one where there is none.

    Raises:
      ConfigError: for one that is not square of an odd size, or has no positive sum.
    """
    if kernel is None:
        return gaussian_kernel(sigma)
    kernel = np.asarray(kernel, np.float32)
    square = kernel.ndim == 2 and kernel.shape[0] == kernel.shape[1]
    if not square or kernel.shape[0] % 2 == 0 or not kernel.sum() > 0:
        raise ConfigError(
            "a blur kernel is square, of an odd size and has a positive sum, got shape "
            f"{list(kernel.shape)}, sum {kernel.sum():g}"
        )
    return kernel / kernel.sum()


def wiener(
    images: Float[Array, "b h w 3"],
    *,
    kernel: Sequence | Array | None = None,
    sigma: float = 1.0,
    balance: float = 0.01,
    border: int = 16,
) -> Float[Array, "b h w 3"]:
    r"""Wiener's filter with a Laplacian that keeps the result smooth.

    .. math:: \hat x = F^\dagger \frac{\bar\Lambda_H}{|\Lambda_H|^2 + \lambda |\Lambda_D|^2} F y

    Args:
      images: RGB in [0, 1].
      kernel: The blur; None for a Gaussian one.
      sigma: Of that, in pixels.
      balance: The lambda: larger values give a smoother and less sharp result.
      border: Pixels by which the picture is mirrored at each side first, since the filter takes
        it for periodic. 0 gives what scikit-image's ``restoration.wiener`` gives.

    Source: Hunt, 1971; scikit-image.
    """
    kernel = jnp.asarray(as_kernel(kernel, sigma))
    pad = (border, border)
    padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)), mode="symmetric")
    restored = jax.vmap(lambda x: _wiener(x, kernel, balance))(padded)
    h, w = images.shape[1:3]
    return jnp.clip(restored[:, border : border + h, border : border + w], 0.0, 1.0)


_LAPLACIAN = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], np.float32)


def _wiener(x: Float[Array, "h w c"], kernel: Kernel, balance: float) -> Array:
    size = x.shape[:2]
    blur = transfer(kernel, size)
    smooth = transfer(jnp.asarray(_LAPLACIAN), size)
    inverse = jnp.conj(blur) / (_power(blur) + balance * _power(smooth))
    spectrum = jnp.fft.rfft2(x, axes=(0, 1))
    return jnp.fft.irfft2(inverse[..., None] * spectrum, s=size, axes=(0, 1))


def transfer(kernel: Kernel, size: tuple[int, int]) -> Array:
    """Transfer function of a kernel on periodic pictures of this size, by `rfft2`.

    A kernel larger than the picture is wrapped round it.
    """
    k = kernel.shape[0]
    rows, columns = ((np.arange(k) - k // 2) % n for n in size)
    whole = jnp.zeros(size, jnp.float32).at[rows[:, None], columns[None]].add(kernel)
    return jnp.fft.rfft2(whole)


def _power(z: Array) -> Array:
    return jnp.square(z.real) + jnp.square(z.imag)


def richardson_lucy(
    images: Float[Array, "b h w 3"],
    *,
    kernel: Sequence | Array | None = None,
    sigma: float = 1.0,
    iterations: int = 10,
) -> Float[Array, "b h w 3"]:
    """Richardson and Lucy's iteration from a grey start, outside the picture all black.

    Each step multiplies the estimate by how much the blurred estimate lacks, blurred backwards.
    More steps sharpen more and amplify noise. Equals scikit-image's
    ``restoration.richardson_lucy``.

    Args:
      images: RGB in [0, 1].
      kernel: The blur; None for a Gaussian one.
      sigma: Of that, in pixels.
      iterations: Number of steps.
    """
    kernel = jnp.asarray(as_kernel(kernel, sigma))
    b, h, w, c = images.shape
    # Channels as images: a convolution of one channel each, not a grouped one.
    y = images.transpose(0, 3, 1, 2).reshape(b * c, h, w, 1)

    def step(_: int, x: Array) -> Array:
        blurred = _convolve(x, kernel) + 1e-12
        return x * _convolve(y / blurred, kernel[::-1, ::-1])

    x = jax.lax.fori_loop(0, iterations, step, jnp.full_like(y, 0.5))
    x = x.reshape(b, c, h, w).transpose(0, 2, 3, 1)
    return jnp.clip(x, 0.0, 1.0)


def _convolve(x: Float[Array, "n h w 1"], kernel: Kernel) -> Float[Array, "n h w 1"]:
    """A convolution, its kernel flipped as mathematics has it, with zeros around."""
    reach = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1, None, None],
        window_strides=(1, 1),
        padding=((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def blind_deconvolution(
    images: Float[Array, "b h w 3"],
    *,
    size: int = 9,
    rounds: int = 8,
    balance: float = 0.03,
    kernel_balance: float = 0.1,
    border: int = 16,
) -> Float[Array, "b h w 3"]:
    """Estimates a blur per picture and undoes it; the alternating scheme is ours.

    `estimate_kernel`, then `wiener` with what it found. Gaussian blur is found well, motion blur
    roughly; where the estimate fails the picture gains false edges.

    Args:
      images: RGB in [0, 1].
      size: Side of the square that the blur fits into, in pixels; odd.
      rounds: How often kernel and picture are estimated in turns.
      balance: As in `wiener`.
      kernel_balance: Weight of the kernel's energy, relative to that of the gradients.
      border: As in `wiener`.
    """
    if size < 3 or size % 2 == 0:
        raise ConfigError(f"size must be odd and 3 or more, got size={size}")
    pad = (border, border)
    padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)), mode="symmetric")

    def restore(x: Array, whole: Array) -> Array:
        kernel = estimate_kernel(
            luminance(x[None])[0],
            size=size,
            rounds=rounds,
            balance=balance,
            kernel_balance=kernel_balance,
        )
        return _wiener(whole, kernel, balance)

    h, w = images.shape[1:3]
    restored = jax.vmap(restore)(images, padded)
    return jnp.clip(restored[:, border : border + h, border : border + w], 0.0, 1.0)


def estimate_kernel(
    y: Float[Array, "h w"],
    *,
    size: int,
    rounds: int = 8,
    balance: float = 0.03,
    kernel_balance: float = 0.1,
) -> Kernel:
    """The blur of a picture, by turns of three steps; starts from no blur.

    1. Predict sharp edges: smooth the estimate, shock-filter it (each pixel moves away from
       the mean of its surroundings), keep the strongest gradients.
    2. Kernel: least squares from predicted to observed gradients, with a penalty on its energy;
       then it is cut to its square, to what is above a tenth of its peak, and normalised.
    3. Picture: Wiener's filter with that kernel.

    Args:
      y: Luminance in [0, 1].
      size: Side of the kernel; odd.
      rounds: Number of turns.
      balance: Of the Wiener filter.
      kernel_balance: Weight of the kernel's energy, relative to that of the gradients.

    Returns:
      A kernel [size, size], no entry negative, sum 1. Of a picture without edges: no blur.

    Source: ours, after the scheme of Cho and Lee, ACM Transactions on Graphics 28(5), 2009.
    """
    h, w = y.shape
    # Fades out at the borders, where differences of a periodic picture are not its own.
    window = jnp.asarray(np.outer(_fade(h, size), _fade(w, size)))
    centre = size // 2
    none = jnp.zeros((size, size), jnp.float32).at[centre, centre].set(1.0)
    observed = [jnp.fft.rfft2(window * g) for g in _gradients(y)]
    rows, columns = ((np.arange(size) - centre) % n for n in (h, w))

    def turn(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        latent, _ = carry
        gx, gy = _gradients(_shock(latent))
        strength = jnp.hypot(gx, gy)
        strong = strength >= jnp.quantile(strength, 0.9)
        predicted = [jnp.fft.rfft2(window * g * strong) for g in (gx, gy)]
        pairs = list(zip(predicted, observed, strict=True))
        top = sum(jnp.conj(p) * o for p, o in pairs)
        energy = sum(_power(p) for p, _ in pairs)
        floor = kernel_balance * jnp.mean(energy) + 1e-12
        whole = jnp.fft.irfft2(top / (energy + floor), s=(h, w))
        found = whole[rows[:, None], columns[None]]
        found = jnp.where(found >= jnp.max(found) / 10, jnp.maximum(found, 0.0), 0.0)
        total = jnp.sum(found)
        found = jnp.where(total > 1e-6, found / jnp.maximum(total, 1e-6), none)
        return _wiener(y[..., None], found, balance)[..., 0], found

    return jax.lax.fori_loop(0, rounds, turn, (y, none))[1]


def _fade(n: int, width: int) -> np.ndarray:
    """Rises from 0 at both ends to 1 within `width` pixels, if there are so many."""
    edge = np.minimum(np.arange(n), np.arange(n)[::-1]) / min(width, max(n / 2, 1))
    return np.sin(0.5 * np.pi * np.minimum(edge, 1)).astype(np.float32) ** 2


def _gradients(y: Float[Array, "h w"]) -> tuple[Array, Array]:
    """Differences to the pixel on the right and below; beyond the border there is none."""
    right = jnp.diff(y, axis=1, append=y[:, -1:])
    return right, jnp.diff(y, axis=0, append=y[-1:])


def _shock(y: Float[Array, "h w"], *, steps: int = 4) -> Array:
    """Sharpens edges of a smoothed picture: brighter sides grow brighter, up to their surroundings."""
    kernel = jnp.asarray(gaussian_kernel(0.8, size=5))

    padded = jnp.pad(y, 2, mode="edge")[None, ..., None]
    z = _convolve(padded, kernel)[0, 2:-2, 2:-2, 0]
    for _ in range(steps):
        p = jnp.pad(z, 1, mode="edge")
        around = jnp.stack([p[1:-1, :-2], p[1:-1, 2:], p[:-2, 1:-1], p[2:, 1:-1]])
        above = z > jnp.mean(around, axis=0)
        # Above the mean of its surroundings a pixel rises to their highest, below it falls.
        z = jnp.where(
            above,
            jnp.maximum(z, jnp.max(around, axis=0)),
            jnp.minimum(z, jnp.min(around, axis=0)),
        )
    return z
