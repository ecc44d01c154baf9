"""Made-up images for unit tests and ``:tiny`` configs; no substitute for real data."""

from typing import Any

import numpy as np

from zoo_jax.core.errors import ConfigError

_SPLITS = {"train": 0, "valid": 1, "test": 2}


class SyntheticImages:
    """Images of class-dependent waves in noise, a pure function of their index.

    Class `k` is a plane wave whose direction and colour depend on `k` alone, with a random
    phase. An example is ``image`` (uint8 [h, w, c]) and ``label`` (int32).

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``: different examples of the same classes.
      size: Number of examples.
      height: Pixels.
      width: Pixels.
      channels: Usually 3 or 1.
      num_classes: Example `i` has the class ``i % num_classes``.
      noise: Standard deviation of the noise, in units of [0, 1].
      seed: Another seed gives other phases and noise.
      masks: Adds ``segmentation`` (int32 [h, w]): the class on the crests of its wave, 255
        elsewhere.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        size: int = 64,
        height: int = 32,
        width: int = 32,
        channels: int = 3,
        num_classes: int = 10,
        noise: float = 0.1,
        seed: int = 0,
        masks: bool = False,
    ):
        if split not in _SPLITS:
            raise ConfigError(f"unknown split {split!r}: choose from {sorted(_SPLITS)}")
        if min(size, height, width, channels, num_classes) < 1:
            raise ConfigError(
                "size, height, width, channels and num_classes must be positive, got "
                f"{size}, {height}, {width}, {channels}, {num_classes}"
            )
        self._size, self._shape = size, (height, width, channels)
        self._classes, self._noise = num_classes, noise
        self._masks = masks
        self._key = (seed, _SPLITS[split])
        self.info = {"num_classes": num_classes, "image_shape": self._shape}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._size:
            raise IndexError(f"example {index} of {self._size}")
        h, w, c = self._shape
        rng = np.random.default_rng([*self._key, index])
        label = index % self._classes
        angle = np.pi * label / self._classes
        y, x = np.mgrid[:h, :w] / max(h, w)
        along = np.cos(angle) * x + np.sin(angle) * y
        wave = np.sin(2 * np.pi * (3 * along + rng.random()))  # h w
        colour = 0.5 + 0.5 * np.cos(angle + 2 * np.pi * np.arange(c) / 3)
        image = 0.5 + 0.35 * wave[..., None] * colour
        image = image + self._noise * rng.standard_normal((h, w, c))
        image = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
        example = {"image": image, "label": np.int32(label)}
        if self._masks:
            mask = np.where(wave > 0, label, 255)
            example["segmentation"] = mask.astype(np.int32)
        return example
