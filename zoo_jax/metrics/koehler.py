"""The protocol of Koehler's camera-shake benchmark: one restored photograph against many frames.

Computed with numpy in float64 on the host. A restored image is compared with every sharp frame
of its trajectory (about 199), and its best values count; a method's score is the mean over
4 images and 12 trajectories.

Source: Koehler, Hirsch, Mohler, Schoelkopf and Harmeling, ECCV 2012, as their MATLAB program
``eval_image.m`` computes it with MeTriX MuX.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real, UInt8

IMAGES, TRAJECTORIES = range(1, 5), range(1, 13)
_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])  # of the five scales
# The low-pass filter of the biorthogonal 9/7 wavelet, by which images are halved.
_HALVING = (0.8526986790, 0.3774028556, -0.1106244044, -0.0238494650, 0.0378284555)


class KoehlerScore(NamedTuple):
    """The best of all frames, for each measure on its own."""

    psnr: float  # dB, of the luma; infinite for an equal frame
    mssim: float  # multi-scale SSIM of the luma


def koehler_counts(image: int, trajectory: int, frame: int) -> bool:
    """Whether a sharp frame takes part: those of (1, 3) do up to 198, and but for the 30th.

    Args:
      image: 1 to 4.
      trajectory: 1 to 12.
      frame: From 1.

    >>> koehler_counts(1, 3, 30), koehler_counts(1, 4, 30)
    (False, True)
    """
    return (image, trajectory) != (1, 3) or (frame != 30 and frame <= 198)


def koehler_score(
    restored: UInt8[np.ndarray, "h w 3"], frames: Iterable[UInt8[np.ndarray, "h w 3"]]
) -> KoehlerScore:
    """Best PSNR and best multi-scale SSIM over the sharp frames.

    For each frame the restored image is scaled by ``<frame, restored> / <restored, restored>``,
    then moved by the whole number of pixels at which their grey levels correlate most. Where
    it leaves the frame both are black; these pixels count.

    Args:
      restored: At least 176 pixels high and wide, which five scales need.
      frames: Read one by one.

    Raises:
      ValueError: for a smaller image, a frame of another size, or without frames.

    >>> truth = np.random.default_rng(0).integers(0, 200, (176, 180, 3), dtype=np.uint8)
    >>> koehler_score(truth, [truth[::-1], truth])
    KoehlerScore(psnr=inf, mssim=1.0)
    """
    if min(restored.shape[:2]) < 176:
        raise ValueError(
            f"the Koehler protocol needs 176x176 pixels or more, got {restored.shape}"
        )
    best = None
    for frame in frames:
        if frame.shape != restored.shape:
            raise ValueError(
                f"a frame of {frame.shape} cannot judge an image of {restored.shape}"
            )
        truth, moved = register(restored, frame)
        truth, moved = _luma(truth), _luma(moved)
        with np.errstate(divide="ignore"):
            psnr = 10 * np.log10(255**2 / np.mean(np.square(truth - moved)))
        found = KoehlerScore(float(psnr), multi_scale_ssim(moved, truth))
        best = found if best is None else KoehlerScore(*map(max, best, found))
    if best is None:
        raise ValueError("the Koehler protocol needs one sharp frame or more, got none")
    return best


def register(
    image: Real[np.ndarray, "h w c"], reference: Real[np.ndarray, "h w c"]
) -> tuple[Float[np.ndarray, "h w c"], Float[np.ndarray, "h w c"]]:
    """Scales and moves an image towards a reference.

    Returns:
      The reference, and the moved image; both black where the moved one has no pixels.

    >>> reference = np.random.default_rng(0).random((8, 9, 3))
    >>> truth, moved = register(np.roll(reference, 2, axis=0), reference)
    >>> round(float(np.corrcoef(truth.ravel(), moved.ravel())[0, 1]), 6)
    1.0
    >>> float(truth[6:].max()), float(moved[6:].max())
    (0.0, 0.0)
    """
    x, z = np.asarray(reference, np.float64), np.asarray(image, np.float64)
    energy = np.sum(z * z)
    z = z * (np.sum(x * z) / energy if energy else 1.0)
    spectra = (np.fft.rfft2(a.mean(axis=2)) for a in (x, z))
    correlation = np.fft.irfft2(next(spectra) * np.conj(next(spectra)), x.shape[:2])
    # The first maximum column by column, as MATLAB takes it where several are equal.
    place = np.unravel_index(np.argmax(correlation.T), correlation.T.shape)[::-1]
    target, origin = [], []
    for size, at in zip(x.shape[:2], place, strict=True):
        shift = int(at) if at < size // 2 else int(at) - size
        target.append(slice(max(shift, 0), size + min(shift, 0)))
        origin.append(slice(max(-shift, 0), size + min(-shift, 0)))
    truth, moved = np.zeros_like(x), np.zeros_like(x)
    truth[tuple(target)] = x[tuple(target)]
    moved[tuple(target)] = z[tuple(origin)]
    return truth, moved


def multi_scale_ssim(
    image: Real[np.ndarray, "h w"], reference: Real[np.ndarray, "h w"]
) -> float:
    """SSIM over five scales: contrast and structure at each, luminance at the coarsest.

    Args:
      image: Grey levels in [0, 255], at least 176x176.
      reference: The truth.

    Returns:
      At most 1; 0 where structures are opposed on average.

    Source: Wang, Simoncelli and Bovik, Asilomar 2003, in the form of MeTriX MuX: images are
    halved by the 9/7 wavelet filter, and each component is averaged over an image before it
    is raised to its power.

    >>> x = np.random.default_rng(0).integers(0, 256, (176, 176))
    >>> multi_scale_ssim(x, x)
    1.0
    """
    x, y = np.asarray(image, np.float64), np.asarray(reference, np.float64)
    value = 1.0
    for scale, weight in enumerate(_WEIGHTS):
        if scale:
            x, y = _half(x), _half(y)
        luminance, contrast, structure = _components(x, y)
        value *= max(contrast * structure, 0.0) ** weight
    return float(value * luminance ** _WEIGHTS[-1])


def _components(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    window = np.exp(-0.5 * np.square(np.arange(-5, 6) / 1.5))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my, xx, yy, xy = (_filter(z, window) for z in (x, y, x * x, y * y, x * y))
    vx, vy = np.maximum(xx - mx * mx, 0), np.maximum(yy - my * my, 0)
    both = np.sqrt(vx * vy)
    return (
        float(np.mean((2 * mx * my + c1) / (mx * mx + my * my + c1))),
        float(np.mean((2 * both + c2) / (vx + vy + c2))),
        float(np.mean((xy - mx * my + c2 / 2) / (both + c2 / 2))),
    )


def _half(image: np.ndarray) -> np.ndarray:
    taps = np.array([*reversed(_HALVING), *_HALVING[1:]])
    return _filter(np.pad(image, 4, mode="symmetric"), taps / taps.sum())[::2, ::2]


def _filter(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Weighted sums over the windows inside the image, along rows and columns."""
    for _ in range(2):
        length = image.shape[0] - len(window) + 1
        rows = (w * image[i : i + length] for i, w in enumerate(window))
        image = sum(rows, np.zeros((length, image.shape[1]))).T
    return image


def _luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114])
