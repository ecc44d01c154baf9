"""NIQE: how far the local statistics of an image are from those of natural ones, without a truth.

Computed with numpy in float64 on the host, image by image.
"""

import functools
import math
import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from zoo_jax.core.errors import DataError

BLOCK = 96  # pixels; the image is cut to multiples of it
_FEATURES = 36


class NiqeModel(NamedTuple):
    """What natural images look like: mean and covariance of 36 features."""

    mean: Float[np.ndarray, "36"]
    covariance: Float[np.ndarray, "36 36"]


def load_niqe_model(path: str | os.PathLike[str]) -> NiqeModel:
    """Reads a published model, which this project does not carry.

    Args:
      path: ``niqe_pris_params.npz`` of BasicSR, which holds the numbers of the authors' MATLAB
        file. Models fitted otherwise give other values.

    Raises:
      DataError: if the file is absent, damaged or another one.
    """
    where = os.fspath(path)
    try:
        file = np.load(where, allow_pickle=False)
        names = ("mu_pris_param", "cov_pris_param")
        mean, covariance = (np.asarray(file[name], np.float64) for name in names)
        return NiqeModel(
            mean.reshape(_FEATURES), covariance.reshape(_FEATURES, _FEATURES)
        )
    except (OSError, EOFError, KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"{where}: is no NIQE model of {_FEATURES} features ({error}): take "
            "niqe_pris_params.npz of BasicSR"
        ) from None


def niqe(image: Real[np.ndarray, "h w"], model: NiqeModel) -> float:
    """Naturalness of one grey image; lower is better, clean photographs have 2 to 5.

    Args:
      image: Grey levels in [0, 255], at least 192x96 or 96x192 pixels. Papers on colour images take
        the luma, rounded: ``np.round(255 * luma(rgb))``.
      model: From `load_niqe_model`.

    Raises:
      ValueError: for an image with fewer than two blocks of 96x96 pixels.

    Source: Mittal, Soundararajan and Bovik, IEEE Signal Processing Letters 20, 2013; borders and
    resizing as in the authors' MATLAB program.
    """
    image = np.asarray(image, np.float64)
    rows, columns = (n // BLOCK for n in image.shape)
    if rows * columns < 2:
        raise ValueError(
            f"NIQE needs two blocks of {BLOCK}x{BLOCK} pixels or more, got {image.shape}"
        )
    image = image[: rows * BLOCK, : columns * BLOCK]
    halves = []
    for block in (BLOCK, BLOCK // 2):
        halves.append(_features(_normalised(image), block))
        image = _half(image)
    found = np.concatenate(halves, axis=1)  # blocks 36
    mean = np.nanmean(found, axis=0)
    covariance = np.cov(found[~np.isnan(found).any(axis=1)], rowvar=False)
    step = model.mean - mean
    inverse = np.linalg.pinv((model.covariance + covariance) / 2)
    return float(np.sqrt(step @ inverse @ step))


def _normalised(image: np.ndarray) -> np.ndarray:
    """Grey levels minus their local mean, over their local deviation plus 1."""
    mean = _blur(image)
    deviation = np.sqrt(np.abs(_blur(np.square(image)) - np.square(mean)))
    return (image - mean) / (deviation + 1)


def _blur(image: np.ndarray) -> np.ndarray:
    """7x7 Gaussian of deviation 7/6; the border is repeated."""
    window = np.exp(-0.5 * np.square(np.arange(-3, 4) / (7 / 6)))
    window /= window.sum()
    padded = np.pad(image, 3, mode="edge")
    h, w = image.shape
    rows = sum(k * padded[i : i + h] for i, k in enumerate(window))
    return sum(k * rows[:, i : i + w] for i, k in enumerate(window))


def _half(image: np.ndarray) -> np.ndarray:
    """Bicubic with antialiasing to half the size, borders mirrored: MATLAB's ``imresize``."""
    # Distances of the eight taps to the centre of a new pixel, in new pixels.
    x = np.abs((np.arange(8) - 3.5) / 2)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    window = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    window /= window.sum()
    for _ in range(2):  # rows, then columns
        padded = np.pad(image, ((3, 3), (0, 0)), mode="symmetric")
        n = image.shape[0] // 2
        image = sum(k * padded[i : i + 2 * n : 2] for i, k in enumerate(window)).T
    return image


def _features(normalised: np.ndarray, size: int) -> np.ndarray:
    """18 features of each block: of its values, and of products of neighbours."""
    h, w = normalised.shape
    blocks = normalised.reshape(h // size, size, w // size, size).swapaxes(1, 2)
    out: list[list[float]] = []
    for block in blocks.transpose(1, 0, 2, 3).reshape(-1, size, size):
        alpha, left, right = _fit(block)
        row = [alpha, (left + right) / 2]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
            alpha, left, right = _fit(block * np.roll(block, shift, axis=(0, 1)))
            mean = (right - left) * math.gamma(2 / alpha) / math.gamma(1 / alpha)
            row += [alpha, mean, left, right]
        out.append(row)
    return np.array(out)


def _fit(values: np.ndarray) -> tuple[float, float, float]:
    """Shape and two scales of an asymmetric generalised Gaussian, by moments."""
    values = values.reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (
            np.sqrt(np.square(side).sum() / side.size) if side.size else np.nan
            for side in (values[values < 0], values[values > 0])
        )
        ratio = left / right
        moment = np.square(np.abs(values).mean()) / np.square(values).mean()
        moment *= (ratio**3 + 1) * (ratio + 1) / np.square(ratio**2 + 1)
    shapes, moments = _shapes()
    alpha = float(shapes[np.argmin(np.square(moments - moment))])
    scale = math.sqrt(math.gamma(1 / alpha) / math.gamma(3 / alpha))
    return alpha, left * scale, right * scale


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    shapes = np.arange(0.2, 10.001, 0.001)
    log = np.vectorize(math.lgamma)
    return shapes, np.exp(2 * log(2 / shapes) - log(1 / shapes) - log(3 / shapes))
