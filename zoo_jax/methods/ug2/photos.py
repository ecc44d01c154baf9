"""Photographs of ordinary packages whose content the classes of ImageNet name."""

from typing import NamedTuple

import numpy as np

from zoo_jax.core.errors import ConfigError
from zoo_jax.data.geometry import Resize
from zoo_jax.data.media import decode_image
from zoo_jax.data.samples import photos
from zoo_jax.data.source import ArraySource


class Named(NamedTuple):
    """What a photograph shows. The choice of classes is ours."""

    classes: tuple[int, ...]  # of ILSVRC, in the order of their WordNet ids
    meaning: str


# Most photographs in the packages show nothing that has a class: they are left out.
NAMED: dict[str, Named] = {
    "chelsea": Named((281, 282, 285), "tabby, tiger cat, Egyptian cat"),
    "china": Named((698,), "palace"),
    "coffee": Named((504, 967, 968), "coffee mug, espresso, cup"),
    "flower": Named((985,), "daisy"),
    "rocket": Named((657, 744), "missile, projectile"),
}
_SHARE = 0.85  # of the shorter side, of the squares beside the central one


def labelled_photos(*, size: int = 224, squares: int = 5) -> ArraySource:
    """Squares of five photographs that scikit-image and scikit-learn carry.

    The largest square in the middle comes first; then squares of 85 % of its side at the corners
    of the middle square, clockwise. Squares of one photograph show the same thing: they are one
    group for an interval, and five groups make a wide one.

    Args:
      size: Side that every square is resampled to (antialiased, bicubic).
      squares: Per photograph, 1 to 5.

    Returns:
      ``image`` (uint8 [size, size, 3]) and ``label`` (int32, index into `NAMED`); ``info`` has
      ``groups``, the label of every picture, and ``names``.

    Raises:
      ConfigError: for numbers out of range.
      DataError: if a package is absent.
    """
    if size < 1 or not 1 <= squares <= 5:
        raise ConfigError(
            f"labelled_photos: size must be positive and squares 1 to 5, got {size} and {squares}"
        )
    paths, resize = photos(), Resize(size, method="bicubic")
    images, labels = [], []
    for label, name in enumerate(NAMED):
        for square in _squares(decode_image(paths[name]))[:squares]:
            images.append(resize({"image": square}, None)["image"])
            labels.append(label)
    return ArraySource(
        {"image": np.stack(images), "label": np.array(labels, np.int32)},
        groups=tuple(labels),
        names=tuple(NAMED),
        num_classes=len(NAMED),
    )


def _squares(image: np.ndarray) -> list[np.ndarray]:
    h, w = image.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    small = round(_SHARE * side)
    rest = side - small
    corners = [(0, 0), (0, rest), (rest, rest), (rest, 0)]
    places = [(top, left, side)] + [(top + y, left + x, small) for y, x in corners]
    return [image[y : y + s, x : x + s] for y, x, s in places]
