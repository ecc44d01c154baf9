"""Augmentations of clips on the host: the same crop and mirror for all pictures of a clip.

They take and give uint8, before the batch goes to the device; colours are changed there
(`clip_jitter`). The order of VATT is crop, mirror, colours; audio gets noise.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.geometry import (
    RandomResizedCrop,
    fit_short_side,
    pair,
    require_method,
)


@dataclasses.dataclass(frozen=True)
class ClipResizedCrop:
    """Inception crop: one window of random area and aspect, resampled to one size.

    Source: arXiv 2104.11178, section 4: area in [0.08, 1], aspect in [0.5, 2], 224 pixels.

    Args:
      size: (height, width) of the result, or one number for both.
      area: Least and largest share of the picture's area.
      aspect: Least and largest width over height.
      method: As in `Resize`.
      key: The clip, uint8 [t, h, w, 3].
    """

    size: int | Sequence[int] = 224
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    method: str = "bilinear"
    key: str = "video"

    def __post_init__(self) -> None:
        self._crop()  # checks the ranges

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Crops and resamples `key`."""
        video = _clip(self.key, example)
        y, x, h, w = self._crop().window(*video.shape[1:3], rng)
        out = resample(video[:, y : y + h, x : x + w], pair(self.size), self.method)
        return {**example, self.key: out}

    def _crop(self) -> RandomResizedCrop:
        return RandomResizedCrop(
            self.size, tuple(self.area), tuple(self.aspect), self.method
        )


@dataclasses.dataclass(frozen=True)
class ClipRandomCrop:
    """VGG-style crop: the shorter side gets `resize` pixels, then a window at a random place.

    It is the default of the released code of VATT, where the paper has the Inception crop.

    Args:
      size: (height, width) of the window, or one number for both.
      resize: Length of the shorter side before; None leaves the clip as it is.
      method: As in `Resize`.
      key: The clip, uint8 [t, h, w, 3].
    """

    size: int | Sequence[int] = 224
    resize: int | None = 256
    method: str = "bilinear"
    key: str = "video"

    def __post_init__(self) -> None:
        require_method("clip_random_crop", self.method)

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Crops `key`."""
        video = _resized(_clip(self.key, example), self.resize, self.method)
        (h, w), (ch, cw) = video.shape[1:3], pair(self.size)
        _require_room("clip_random_crop", (h, w), (ch, cw))
        y, x = int(rng.random() * (h - ch + 1)), int(rng.random() * (w - cw + 1))
        return {**example, self.key: video[:, y : y + ch, x : x + cw]}


@dataclasses.dataclass(frozen=True)
class ClipCenterCrop:
    """The shorter side gets `resize` pixels, then the window in the middle.

    Args:
      size: (height, width) of the window, or one number for both.
      resize: Length of the shorter side before; None leaves the clip as it is.
      method: As in `Resize`.
      key: The clip, uint8 [t, h, w, 3].
    """

    size: int | Sequence[int] = 224
    resize: int | None = None
    method: str = "bilinear"
    key: str = "video"

    def __post_init__(self) -> None:
        require_method("clip_center_crop", self.method)

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Crops `key`."""
        del rng
        video = _resized(_clip(self.key, example), self.resize, self.method)
        (h, w), (ch, cw) = video.shape[1:3], pair(self.size)
        _require_room("clip_center_crop", (h, w), (ch, cw))
        y, x = (h - ch) // 2, (w - cw) // 2
        return {**example, self.key: video[:, y : y + ch, x : x + cw]}


@dataclasses.dataclass(frozen=True)
class ClipViews:
    """Three squares along the longer side: the crops of a multi-view test.

    With ``windows=4`` of the source these are the 4 x 3 views over which VATT averages after
    fine-tuning. The result is uint8 [3, t, size, size, 3]: start, middle, end.

    Args:
      size: Height and width.
      resize: Length of the shorter side before; None is `size`.
      method: As in `Resize`.
      key: The clip, uint8 [t, h, w, 3].
    """

    size: int = 320
    resize: int | None = None
    method: str = "bilinear"
    key: str = "video"

    def __post_init__(self) -> None:
        require_method("clip_views", self.method)

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Cuts `key` three times."""
        del rng
        resize = self.resize or self.size
        video = _resized(_clip(self.key, example), resize, self.method)
        h, w = video.shape[1:3]
        _require_room("clip_views", (h, w), (self.size, self.size))
        views = []
        for share in (0, 1, 2):
            # Along the longer side the places are spread, along the other in the middle.
            y = (h - self.size) * (share if h >= w else 1) // 2
            x = (w - self.size) * (share if h < w else 1) // 2
            views.append(video[:, y : y + self.size, x : x + self.size])
        return {**example, self.key: np.stack(views)}


@dataclasses.dataclass(frozen=True)
class ClipFlip:
    """Mirrors all pictures of a clip left and right with a given probability.

    Args:
      probability: In [0, 1].
      key: The clip [t, h, w, c].
    """

    probability: float = 0.5
    key: str = "video"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(
                f"clip_flip: probability must lie in [0, 1], got {self.probability}"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Mirrors `key`, or returns the example as it is."""
        flip = rng.random() < self.probability  # drawn always: later draws keep place
        video = _clip(self.key, example)
        return {**example, self.key: video[:, :, ::-1]} if flip else example


@dataclasses.dataclass(frozen=True)
class AudioNoise:
    """Adds Gaussian noise whose deviation is a share of the loudest sample.

    Source: the released code of arXiv 2104.11178, 0.01. The result may leave [-1, 1] a little.

    Args:
      scale: Deviation over the largest absolute value.
      key: The sound [s].
    """

    scale: float = 0.01
    key: str = "audio"

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ConfigError(
                f"audio_noise: scale must not be negative, got {self.scale}"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Adds noise to `key`."""
        audio = example[self.key]
        noise = rng.standard_normal(audio.shape, np.float32)
        deviation = np.float32(self.scale) * np.abs(audio).max(initial=0)
        return {**example, self.key: audio + deviation * noise}


def resample(
    video: UInt8[np.ndarray, "t h w 3"], size: tuple[int, int], method: str
) -> UInt8[np.ndarray, "t r c 3"]:
    """Pictures of another (height, width), antialiased as Pillow does."""
    if video.shape[1:3] == tuple(size):
        return video
    filter_ = Image.Resampling[method.upper()]
    pictures = (Image.fromarray(picture) for picture in video)
    return np.stack([np.asarray(p.resize(size[::-1], filter_)) for p in pictures])


def _resized(video: np.ndarray, short_side: int | None, method: str) -> np.ndarray:
    if short_side is None:
        return video
    return resample(video, fit_short_side(video.shape[1:3], short_side), method)


def _clip(key: str, example: dict[str, Any]) -> np.ndarray:
    video = example.get(key)
    if video is None or np.ndim(video) != 4 or video.dtype != np.uint8:
        what = "absent" if video is None else f"{video.dtype} {np.shape(video)}"
        raise DataError(f"a clip is uint8 [t, h, w, 3]; {key!r} is {what}")
    return video


def _require_room(name: str, there: tuple[int, int], needed: tuple[int, int]) -> None:
    if there[0] < needed[0] or there[1] < needed[1]:
        raise DataError(
            f"{name}: pictures of {there[0]}x{there[1]} are smaller than the crop "
            f"{needed[0]}x{needed[1]}: choose a smaller size, or set resize"
        )
