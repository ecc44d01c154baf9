"""Motion blur as a camera makes it: the mean light of frames along a path or of a video."""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from zoo_jax.core.errors import ConfigError

Gamma = float | Literal["srgb"]


@functools.lru_cache(maxsize=8)
def _light_of_levels(gamma: Gamma) -> Float[np.ndarray, "256"]:
    check_gamma(gamma)
    value = np.arange(256) / 255
    if gamma == "srgb":
        bent = ((value + 0.055) / 1.055) ** 2.4
        value = np.where(value <= 0.04045, value / 12.92, bent)
    else:
        value = value**gamma
    return value.astype(np.float32)


def to_light(
    image: UInt8[np.ndarray, "*shape"], *, gamma: Gamma
) -> Float[np.ndarray, "*shape"]:
    """The light in [0, 1] that a camera with this response stores as `image`.

    Args:
      image: Grey levels or colours in [0, 255].
      gamma: ``"srgb"`` (IEC 61966-2-1), or the exponent of a power law; 1 is no response at
        all, so that means are taken of the stored values.
    """
    return _light_of_levels(gamma)[image]


def from_light(
    light: Float[np.ndarray, "*shape"], *, gamma: Gamma
) -> UInt8[np.ndarray, "*shape"]:
    """What a camera stores of `light`, rounded: the inverse of `to_light`."""
    check_gamma(gamma)
    light = np.clip(light, 0, 1)
    if gamma == "srgb":
        bent = 1.055 * light ** np.float32(1 / 2.4) - 0.055
        light = np.where(light <= 0.0031308, 12.92 * light, bent)
    elif gamma != 1:
        light = light ** np.float32(1 / gamma)
    return (255 * light + 0.5).astype(np.uint8)


def check_gamma(gamma: Gamma) -> None:
    """Raises `ConfigError` unless `gamma` is ``"srgb"`` or an exponent in [1, 4]."""
    number = isinstance(gamma, int | float) and not isinstance(gamma, bool)
    if gamma != "srgb" and not (number and 1 <= gamma <= 4):
        raise ConfigError(f"gamma must be 'srgb' or in 1..4, got {gamma!r}")


def exposure_weights(frames: int, *, interpolate: int = 1) -> Float[np.ndarray, "n"]:
    """The share of each frame in a blurred one.

    With ``interpolate=k``, k - 1 linear blends are put between neighbouring frames before the
    mean is taken. In linear light that is the same as weighting the frames, so no blend is
    ever computed: it approaches the trapezoidal rule, in which the two ends count half. It
    fills no gap of a fast motion; smaller frames do.

    >>> exposure_weights(3, interpolate=2).tolist()  # a, (a+b)/2, b, (b+c)/2, c
    [0.30000001192092896, 0.4000000059604645, 0.30000001192092896]
    """
    if interpolate < 1:
        raise ConfigError(f"interpolate must be 1 or more, got {interpolate}")
    weights = np.full(frames, interpolate, np.float64)
    weights[[0, -1]] = (interpolate + 1) / 2
    return (weights / weights.sum()).astype(np.float32)


def mean_frame(
    frames: Sequence[UInt8[np.ndarray, "h w c"]],
    *,
    gamma: Gamma,
    interpolate: int = 1,
) -> UInt8[np.ndarray, "h w c"]:
    """The frame of one long exposure: the weighted mean of the light of short ones.

    Args:
      frames: Consecutive frames of one size.
      gamma: Response of the camera, see `to_light`.
      interpolate: See `exposure_weights`.
    """
    weights = exposure_weights(len(frames), interpolate=interpolate)
    light = np.zeros(frames[0].shape, np.float32)
    for weight, frame in zip(weights, frames, strict=True):
        light += weight * to_light(frame, gamma=gamma)
    return from_light(light, gamma=gamma)


def camera_path(
    rng: np.random.RandomState,
    frames: int,
    *,
    length: float,
    degrees: float,
) -> Float[np.ndarray, "n 3"]:
    """A smooth random path of a hand-held camera, its mean at the origin.

    Each coordinate is a cubic in time, with Legendre coefficients that are normal and decay:
    mostly a line, sometimes a hook or a loop.

    Args:
      rng: Where the coefficients come from.
      frames: Number of poses, evenly spaced in time; 2 or more.
      length: Of the path that the image travels, in pixels.
      degrees: Between the two extreme rolls.

    Returns:
      Per pose how far the camera points down and right (pixels) and its roll (radians).
    """
    time = np.linspace(-1, 1, frames)
    basis = np.polynomial.legendre.legvander(time, 3)[:, 1:]  # without the constant
    path = basis @ (rng.standard_normal((3, 3)) * [[1.0], [0.6], [0.3]])
    path -= path.mean(axis=0)
    travelled = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum()
    path[:, :2] *= length / travelled
    path[:, 2] *= math.radians(degrees) / np.ptp(path[:, 2])
    return path


def path_margin(path: Float[np.ndarray, "n 3"], height: int, width: int) -> int:
    """Pixels around a picture of this size that `shake` may read."""
    farthest = np.abs(path[:, :2]).max()
    swing = np.abs(path[:, 2]).max() * math.hypot(height, width) / 2
    return math.ceil(farthest + swing) + 2  # the taps of the interpolation


def shake(
    scene: UInt8[np.ndarray, "H W 3"],
    path: Float[np.ndarray, "n 3"],
    *,
    margin: int,
    gamma: Gamma,
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture that a camera takes of a flat scene while it moves along `path`.

    Args:
      scene: Sharp, and larger than the picture by `margin` on every side, so that nothing
        has to be made up at the borders.
      path: See `camera_path`. Rolls turn about the centre of the picture.
      margin: At least `path_margin`.
      gamma: Response of the camera, see `to_light`.

    Returns:
      The blurred picture: h = H - 2 margin, w = W - 2 margin. The sharp one, which is what a
      camera at rest takes, is the scene without its margin.
    """
    h, w = scene.shape[0] - 2 * margin, scene.shape[1] - 2 * margin
    light = to_light(scene, gamma=gamma)
    planes = [Image.fromarray(np.ascontiguousarray(light[..., c])) for c in range(3)]
    total = np.zeros((h, w, 3), np.float32)
    # Bilinear, since finer kernels have negative lobes: points of light would gain a fifth.
    for down, right, roll in path:
        cos, sin = math.cos(roll), math.sin(roll)
        # Pillow asks where in the scene the pixel (x, y) of the picture comes from.
        x = margin + w / 2 + right - (cos * w - sin * h) / 2
        y = margin + h / 2 + down - (sin * w + cos * h) / 2
        for c, plane in enumerate(planes):
            total[..., c] += plane.transform(
                (w, h),
                Image.Transform.AFFINE,
                (cos, -sin, x, sin, cos, y),
                resample=Image.Resampling.BILINEAR,
            )
    return from_light(total / np.float32(len(path)), gamma=gamma)
