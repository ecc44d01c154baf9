"""Made-up clips for unit tests and ``:tiny`` configs; no substitute for real data."""

from typing import Any

import numpy as np

from zoo_jax.core.errors import ConfigError
from zoo_jax.data.words import SPECIALS

_SPLITS = {"train": 0, "valid": 1, "test": 2}


class SyntheticClips:
    """Clips whose picture, sound and words depend on one class, in noise.

    Class `k` is a wave that wanders across the picture in its own direction, a tone of its
    own height, and the word number ``4 + k``, behind which other words of no meaning follow. A
    clip is a pure function of its index: ``video`` (uint8 [t, h, w, 3]), ``audio`` (float32
    [s] in [-1, 1]), ``text`` (int32 [l, words]), ``text_mask`` (float32) and ``label``.

    Args:
      split: ``"train"``, ``"valid"`` or ``"test"``: different clips of the same classes.
      size: Number of clips.
      frames: Pictures of a clip.
      height: Pixels.
      width: Pixels.
      samples: Of sound.
      sentences: Sentences of a clip (l): its own and its neighbours.
      words: Words of a sentence.
      num_classes: Clip `i` has the class ``i % num_classes``.
      vocabulary: Number of words, the four special ones included; 4 + num_classes at least.
      without_text: Every so-many-th clip has no text: zeros, and mask 0. 0 for none.
      noise: Standard deviation of the noise of picture and sound, of the range [0, 1].
      seed: Another seed gives other clips.

    Raises:
      ConfigError: for an unknown split or a number out of range.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        size: int = 64,
        frames: int = 4,
        height: int = 16,
        width: int = 16,
        samples: int = 512,
        sentences: int = 2,
        words: int = 4,
        num_classes: int = 8,
        vocabulary: int = 32,
        without_text: int = 0,
        noise: float = 0.1,
        seed: int = 0,
    ):
        if split not in _SPLITS:
            raise ConfigError(f"unknown split {split!r}: choose from {sorted(_SPLITS)}")
        sizes = (size, frames, height, width, samples, sentences, words, num_classes)
        if min(sizes) < 1 or without_text < 0:
            raise ConfigError(f"the sizes of clips must be positive, got {sizes}")
        if vocabulary < len(SPECIALS) + num_classes:
            raise ConfigError(
                f"vocabulary must be {len(SPECIALS)} + num_classes = "
                f"{len(SPECIALS) + num_classes} or more, got {vocabulary}"
            )
        self._size, self._frames, self._shape = size, frames, (height, width)
        self._samples, self._text = samples, (sentences, words)
        self._classes, self._vocabulary = num_classes, vocabulary
        self._without_text, self._noise = without_text, noise
        self._key = (seed, _SPLITS[split])
        self.info = {
            "num_classes": num_classes,
            "labels": np.arange(size, dtype=np.int32) % num_classes,
        }

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._size:
            raise IndexError(f"clip {index} of {self._size}")
        rng = np.random.default_rng([*self._key, index])
        label = index % self._classes
        silent = bool(self._without_text) and index % self._without_text == 0
        return {
            "video": self._video(label, rng),
            "audio": self._audio(label, rng),
            "text": self._sentences(label, rng) * (not silent),
            "text_mask": np.float32(not silent),
            "label": np.int32(label),
        }

    def _video(self, label: int, rng: np.random.Generator) -> np.ndarray:
        h, w = self._shape
        t = np.arange(self._frames)[:, None, None]
        y, x = np.mgrid[:h, :w] / max(h, w)
        angle = 2 * np.pi * label / self._classes
        along = np.cos(angle) * x + np.sin(angle) * y  # h w
        wave = np.sin(2 * np.pi * (2 * along - t / 8 + rng.random()))  # t h w
        colour = 0.5 + 0.5 * np.cos(angle + 2 * np.pi * np.arange(3) / 3)
        video = 0.5 + 0.35 * wave[..., None] * colour
        video = video + self._noise * rng.standard_normal(video.shape)
        return np.clip(np.rint(255 * video), 0, 255).astype(np.uint8)

    def _audio(self, label: int, rng: np.random.Generator) -> np.ndarray:
        # Cycles per sample: 1/4 for class 0, and each class a fifth lower than the one before.
        pitch = 0.25 * 1.2**-label
        wave = np.sin(2 * np.pi * (pitch * np.arange(self._samples) + rng.random()))
        wave = 0.5 * wave + self._noise * rng.standard_normal(self._samples)
        return np.clip(wave, -1, 1).astype(np.float32)

    def _sentences(self, label: int, rng: np.random.Generator) -> np.ndarray:
        first = len(SPECIALS) + self._classes
        text = np.zeros(self._text, np.int32)
        if first < self._vocabulary:
            text[:] = rng.integers(first, self._vocabulary, self._text)
        text[:, 0] = len(SPECIALS) + label
        return text
