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
from zoo_jax.data.clip_augment import (
    AudioNoise,
    ClipCenterCrop,
    ClipFlip,
    ClipRandomCrop,
    ClipResizedCrop,
    ClipViews,
)
from zoo_jax.data.corruptions import Corrupt
from zoo_jax.data.degrade import Degrade
from zoo_jax.data.geometry import (
    CenterCrop,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
)
from zoo_jax.data.interlace import Interlace
from zoo_jax.data.pair_augment import PairAugment

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
class ToRgb:
    """Grey image [h, w, 1] -> [h, w, 3] with three equal channels; one of three stays as it is."""

    elementwise: ClassVar[bool] = True
    key: str = "image"

    def __call__(self, example: dict[str, Any], rng: Any) -> dict[str, Any]:
        """Repeats the channel of `key`."""
        del rng
        image = np.asarray(example[self.key])
        channels = image.shape[-1] if image.ndim else 0
        if channels not in (1, 3):
            raise DataError(
                f"to_rgb: takes images with 1 or 3 channels in the last axis, {self.key!r} is"
                f" {list(image.shape)}"
            )
        rgb = image if channels == 3 else np.repeat(image, 3, axis=-1)
        return {**example, self.key: rgb}


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
class Together:
    """Applies one step to several entries of an example with the same draws.

    For an image and its mask: ``dict(name="together", keys=["image", "segmentation"],
    step=dict(name="random_crop", size=48))``. Values are left as the step leaves them, so a mask
    takes crops and flips, not smooth resizing.

    Args:
      keys: Entries of equal height and width.
      step: A section of another transform, without its `key`.
    """

    keys: Sequence[str]
    step: Mapping[str, Any]

    def __post_init__(self) -> None:
        if len(self.keys) < 2 or "key" in self.step:
            raise ConfigError(
                "together: needs two keys or more and a step without a key, got "
                f"keys={list(self.keys)}, step={dict(self.step)}"
            )
        steps = tuple(_make_step({**self.step, "key": key}) for key in self.keys)
        object.__setattr__(self, "_steps", steps)

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Transforms all `keys`."""
        sizes = {key: np.shape(example[key])[:2] for key in self.keys}
        if len(set(sizes.values())) > 1:
            raise DataError(f"together: entries of one example differ in size: {sizes}")
        start = rng.bit_generator.state
        for step in self._steps:
            rng.bit_generator.state = start
            example = step(example, rng)
        return example


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
    "audio_noise": AudioNoise,
    "center_crop": CenterCrop,
    "clip_center_crop": ClipCenterCrop,
    "clip_flip": ClipFlip,
    "clip_random_crop": ClipRandomCrop,
    "clip_resized_crop": ClipResizedCrop,
    "clip_views": ClipViews,
    "corrupt": Corrupt,
    "degrade": Degrade,
    "horizontal_flip": HorizontalFlip,
    "interlace": Interlace,
    "normalize": Normalize,
    "pair_augment": PairAugment,
    "random_crop": RandomCrop,
    "random_resized_crop": RandomResizedCrop,
    "resize": Resize,
    "to_float": ToFloat,
    "to_rgb": ToRgb,
    "together": Together,
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
