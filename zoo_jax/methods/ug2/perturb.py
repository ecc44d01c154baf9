"""Ways to spoil a picture step by step, for item-response curves."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.data.corruptions import jpeg
from zoo_jax.data.degrade import fixed_noise, gaussian_blur, lower_resolution
from zoo_jax.data.interlace import move_right, weave

Picture = UInt8[np.ndarray, "h w 3"]


def noise(image: Picture, sigma: float, index: int) -> Picture:
    """Adds Gaussian noise of `sigma` grey levels, the same for every picture of that number."""
    spoilt = image + 255 * fixed_noise(image.shape, sigma=sigma, index=index)
    return np.clip(np.rint(spoilt), 0, 255).astype(np.uint8)


def contrast(image: Picture, share: float, index: int) -> Picture:
    """Leaves a share of the distance to mid-grey.

    >>> contrast(np.array([[[0, 255, 128]]], np.uint8), 0.1, 0).tolist()
    [[[115, 140, 128]]]
    """
    del index
    return np.rint(127.5 + share * (image - 127.5)).astype(np.uint8)


# Name -> (picture, level, number of the picture) -> picture. Levels: deviation in pixels, quality,
# deviation in grey levels, pixels between the fields, share that is left, factor.
PERTURBATIONS: dict[str, Callable[[Picture, float, int], Picture]] = {
    "blur": lambda image, sigma, index: gaussian_blur(image, sigma=sigma),
    "jpeg": lambda image, quality, index: jpeg(image, quality=int(quality)),
    "noise": noise,
    "interlace": lambda image, pixels, index: weave(image, move_right(image, pixels)),
    "contrast": contrast,
    "resolution": lambda image, factor, index: lower_resolution(image, factor=factor),
}


def perturb(
    images: UInt8[np.ndarray, "n h w 3"], name: str, level: float
) -> UInt8[np.ndarray, "n h w 3"]:
    """Spoils every picture of a stack to one level.

    Raises:
      ConfigError: for an unknown perturbation.
    """
    if name not in PERTURBATIONS:
        raise ConfigError(
            f"unknown perturbation {name!r}: {closest(name, PERTURBATIONS)}"
        )
    spoil = PERTURBATIONS[name]
    return np.stack([spoil(image, level, i) for i, image in enumerate(images)])


def check_levels(perturbations: dict[str, Sequence[float]]) -> None:
    """Raises `ConfigError` unless every perturbation is known and has two levels or more."""
    for name, levels in perturbations.items():
        if name not in PERTURBATIONS:
            raise ConfigError(
                f"unknown perturbation {name!r}: {closest(name, PERTURBATIONS)}"
            )
        steps = np.diff(levels)
        if len(levels) < 2 or not ((steps > 0).all() or (steps < 0).all()):
            raise ConfigError(
                f"levels of {name!r} must rise or fall throughout, and be two or more, got"
                f" {list(levels)}"
            )
