"""Key tables of VGG networks in the layouts of torchvision and Keras."""

from collections.abc import Sequence
from typing import Literal

from zoo_jax.convert.keras import keras_entries
from zoo_jax.convert.layout import flattened_linear
from zoo_jax.convert.table import Entry, Table, conv_entries, linear_entries

VGG16, VGG19 = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)  # convolutions between poolings


def _numbers(counts: Sequence[int]) -> dict[str, int]:
    """Our name of each convolution -> its place in torchvision's stack.

    There a convolution, its ReLU and a pooling take one number each.
    """
    numbers, number = {}, 0
    for stage, count in enumerate(counts, 1):
        for i in range(1, count + 1):
            numbers[f"conv{stage}_{i}"] = number
            number += 2
        number += 1
    return numbers


def vgg19_features_table(upto: str = "conv3_3") -> Table:
    """The convolutions ``conv1_1`` to `upto` of torchvision; the file may hold the others."""
    entries: list[Entry] = []
    unused: list[str] = ["classifier.*"]
    numbers = _numbers(VGG19)
    for name, number in numbers.items():
        if number <= numbers[upto]:
            entries += conv_entries(f"features.{number}", name)
        else:
            unused.append(f"features.{number}.*")
    return Table(tuple(entries), ignore=tuple(unused))


def vgg_table(
    counts: Sequence[int] = VGG16,
    width: int = 64,
    variant: Literal["torchvision", "keras"] = "torchvision",
) -> Table:
    """The layout of a published VGG classifier.

    Args:
      counts: Convolutions of the five stages.
      width: Channels of the first.
      variant: ``"torchvision"`` (``features.0.weight``, ``classifier.6.bias``) or ``"keras"``
        (``block1_conv1/kernel``, ``predictions/bias``).
    """
    entries: list[Entry] = []
    linear = ("fc1", "fc2", "predictions")
    if variant == "keras":
        for name in _numbers(counts):
            entries += keras_entries(
                f"block{name.removeprefix('conv')[0]}_conv{name[-1]}", name
            )
        for name in linear:
            entries += keras_entries(name, name)
        return Table(tuple(entries), ignore=(), strip=())
    for name, number in _numbers(counts).items():
        entries += conv_entries(f"features.{number}", name)
    channels = width * 2 ** min(len(counts) - 1, 3)
    first = {"layout": flattened_linear(channels, 7, 7)}
    for number, name in zip((0, 3, 6), linear, strict=True):
        options = first if number == 0 else {}
        entries += linear_entries(f"classifier.{number}", name, **options)
    return Table(tuple(entries))
