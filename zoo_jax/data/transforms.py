"""Transforms of examples: pure functions of an example and its own random generator.

A transform is any ``f(example: dict, rng: np.random.Generator) -> dict``. It must not change
its argument. One that sets ``elementwise = True`` ignores `rng`, treats every example alike
and broadcasts over leading axes, so that the loader may call it once for a whole batch.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, closest

Transform = Callable[[dict[str, Any], Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ToFloat:
    """Integer image -> float32 in [0, 1]: uint8 over 255, uint16 over 65,535.

    Float images become float32 and keep their range.
    """

    elementwise: ClassVar[bool] = True
    key: str = "image"

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Scales `key`."""
        del rng
        return {**example, self.key: _to_float(example[self.key])}


def _to_float(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype.kind in "iu":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32, copy=False)


@dataclasses.dataclass(frozen=True)
class Normalize:
    """(`ToFloat` - mean) / std per channel; `mean` and `std` are in units of [0, 1]."""

    elementwise: ClassVar[bool] = True
    mean: Sequence[float] | float
    std: Sequence[float] | float
    key: str = "image"

    def __post_init__(self) -> None:
        if not np.all(np.asarray(self.std, np.float64) > 0):
            raise ConfigError(f"normalize: std must be positive, got {self.std}")

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Normalises `key`."""
        del rng
        image = _to_float(example[self.key])
        mean, std = np.asarray(self.mean, "f4"), np.asarray(self.std, "f4")
        for name, value in (("mean", mean), ("std", std)):
            if value.size not in (1, image.shape[-1]):
                raise ConfigError(
                    f"normalize: {name} has {value.size} entries, "
                    f"{self.key!r} has {image.shape[-1]} channels"
                )
        return {**example, self.key: (image - mean) / std}


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Pads by `pad` zero pixels on each side, then cuts a window at a random place.

    Args:
      size: (height, width) of the window, or one number for both; None keeps the image size.
      pad: Pixels added on every side before the cut.
      key: The image [h, w, c].
    """

    size: int | Sequence[int] | None = None
    pad: int = 0
    key: str = "image"

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ConfigError(f"random_crop: pad must not be negative, got {self.pad}")

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Crops `key`."""
        image = example[self.key]
        h, w = image.shape[:2]
        size = (h, w) if self.size is None else self.size
        ch, cw = (size, size) if isinstance(size, int) else size
        spare_y, spare_x = h + 2 * self.pad - ch, w + 2 * self.pad - cw
        if spare_y < 0 or spare_x < 0:
            raise DataError(
                f"random_crop: an image of {h}x{w} padded by {self.pad} is smaller than "
                f"the crop {ch}x{cw}: choose a smaller size or resize first"
            )
        # Not rng.integers, which takes four times longer for a single number.
        y = int(rng.random() * (spare_y + 1)) - self.pad
        x = int(rng.random() * (spare_x + 1)) - self.pad
        # Only the part inside the image is copied: np.pad would cost more than the rest.
        top, left = max(y, 0), max(x, 0)
        inside = image[top : max(y + ch, top), left : max(x + cw, left)]
        if inside.shape[:2] != (ch, cw):
            window = np.zeros((ch, cw, *image.shape[2:]), image.dtype)
            ih, iw = inside.shape[:2]
            window[top - y : top - y + ih, left - x : left - x + iw] = inside
            inside = window
        return {**example, self.key: inside}


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors left and right with a given probability."""

    probability: float = 0.5
    key: str = "image"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(
                f"horizontal_flip: probability must lie in [0, 1], got {self.probability}"
            )

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Mirrors `key`, or returns the example as it is."""
        flip = rng.random() < self.probability  # drawn always: later draws keep place
        return {**example, self.key: example[self.key][:, ::-1]} if flip else example


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resamples a uint8 image to (height, width), antialiased as Pillow does.

    Args:
      size: (height, width), or one number for both.
      method: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"lanczos"``.
      key: The image, uint8 [h, w, c] with 1, 3 or 4 channels.
    """

    size: int | Sequence[int]
    method: str = "bilinear"
    key: str = "image"

    def __post_init__(self) -> None:
        methods = ("bilinear", "bicubic", "nearest", "lanczos")
        if self.method not in methods:
            raise ConfigError(
                f"resize: unknown method {self.method!r}: {closest(self.method, methods)}"
            )

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Resamples `key`."""
        from PIL import Image

        del rng
        image = example[self.key]
        if image.dtype != np.uint8:
            raise DataError(
                f"resize: takes uint8 images, got {image.dtype}: put it before to_float"
            )
        h, w = (self.size, self.size) if isinstance(self.size, int) else self.size
        grey = image.shape[-1] == 1
        picture = Image.fromarray(image[..., 0] if grey else image)
        out = np.asarray(
            picture.resize((w, h), Image.Resampling[self.method.upper()])
        ).reshape(h, w, image.shape[-1])
        return {**example, self.key: out}


class Compose:
    """Transforms in order. Picklable if its steps are.

    Args:
      steps: Transforms, applied first to last.
    """

    def __init__(self, steps: Sequence[Transform] = ()):
        self.steps = tuple(steps)

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Applies all steps to one example."""
        for step in self.steps:
            example = step(example, rng)
        return example

    def batch(
        self, batch: dict[str, np.ndarray], rngs: Iterable[Any]
    ) -> dict[str, np.ndarray]:
        """Transforms stacked examples; equal to stacking transformed examples.

        Args:
          batch: Arrays [b, ...].
          rngs: One generator per example, taken one after the other; untouched if all steps
            are elementwise.
        """
        # One by one up to the last step that draws, the rest at once.
        single = [i for i, s in enumerate(self.steps) if not _is_elementwise(s)]
        split = single[-1] + 1 if single else 0
        if split:
            each = Compose(self.steps[:split])
            rows = len(next(iter(batch.values())))
            examples = ({k: v[i] for k, v in batch.items()} for i in range(rows))
            pairs = zip(examples, rngs, strict=True)
            batch = stack([each(example, rng) for example, rng in pairs])
        return Compose(self.steps[split:])(batch, None)


def _is_elementwise(step: Transform) -> bool:
    return getattr(step, "elementwise", False)


def stack(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks examples into arrays [b, ...].

    Raises:
      DataError: if their names or shapes differ.
    """
    first = examples[0]
    for example in examples:
        if example.keys() != first.keys():
            raise DataError(
                "examples of one batch have different entries: "
                f"{sorted(first)} and {sorted(example)}"
            )
    return {name: _stack(name, [e[name] for e in examples]) for name in first}


def _stack(name: str, values: Sequence[Any]) -> np.ndarray:
    shapes = {np.shape(value) for value in values}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise DataError(
            f"examples of one batch differ in the shape of {name!r}: {one} and {other}:"
            " add a resize or random_crop to the transform"
        )
    return np.stack(values) if shapes != {()} else np.asarray(values)


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "horizontal_flip": HorizontalFlip,
    "normalize": Normalize,
    "random_crop": RandomCrop,
    "resize": Resize,
    "to_float": ToFloat,
}


def make_transform(
    steps: Transform | Sequence[Transform | Mapping[str, Any]] | None,
) -> Compose:
    """Builds a transform from config.

    Args:
      steps: A list whose entries are transforms or ``dict(name="random_crop", pad=4)``; one
        transform; or None for none.

    Raises:
      ConfigError: for an unknown name, or an argument that the transform does not have.
    """
    if steps is None:
        return Compose()
    if isinstance(steps, Compose):
        return steps
    if callable(steps):
        return Compose((steps,))
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise ConfigError(
            f'transform must be a list such as [dict(name="to_float")], got {steps!r}'
        )
    return Compose([step if callable(step) else _make_step(step) for step in steps])


def _make_step(spec: Any) -> Transform:
    kwargs = dict(spec) if isinstance(spec, Mapping) else {}
    name = kwargs.pop("name", None)
    if name is None:
        raise ConfigError(
            f'a transform needs a name: dict(name="to_float"), not {spec!r}'
        )
    if name not in TRANSFORMS:
        raise ConfigError(f"unknown transform {name!r}: {closest(name, TRANSFORMS)}")
    parameters = inspect.signature(TRANSFORMS[name]).parameters
    for key in kwargs:
        if key not in parameters:
            raise ConfigError(
                f"transform {name!r} has no argument {key!r}: {closest(key, parameters)}"
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in kwargs:
            raise ConfigError(f"transform {name!r} needs the argument {key!r}")
    return TRANSFORMS[name](**kwargs)
