"""Entries of a bottleneck ResNet in the layouts of torchvision and Keras, for the tables of methods."""

from collections.abc import Sequence

from zoo_jax.convert.keras import keras_entries, keras_norm_entries
from zoo_jax.convert.table import Entry, batch_norm_entries, conv_entries


def resnet_entries(
    blocks: Sequence[int], *, source: str = "", target: str = ""
) -> tuple[Entry, ...]:
    """``layer2.0.conv1.weight`` -> ``layer2_0/conv1/kernel``, ...: all but the classifier.

    Args:
      blocks: Blocks per group, as in `ResNetTrunk`.
      source: Prefix of the published keys, e.g. ``"resnet."``.
      target: Prefix of ours, e.g. ``"resnet/"``.
    """
    entries: list[Entry] = []

    def convolution(theirs: tuple[str, str], ours: tuple[str, str]) -> None:
        entries.extend(
            conv_entries(f"{source}{theirs[0]}", f"{target}{ours[0]}", bias=False)
        )
        entries.extend(batch_norm_entries(f"{source}{theirs[1]}", f"{target}{ours[1]}"))

    convolution(("conv1", "bn1"), ("conv1", "bn1"))
    for group, count in enumerate(blocks, 1):
        for index in range(count):
            theirs, ours = f"layer{group}.{index}", f"layer{group}_{index}"
            for i in (1, 2, 3):
                convolution(
                    (f"{theirs}.conv{i}", f"{theirs}.bn{i}"),
                    (f"{ours}/conv{i}", f"{ours}/bn{i}"),
                )
            if index == 0:
                convolution(
                    (f"{theirs}.downsample.0", f"{theirs}.downsample.1"),
                    (f"{ours}/downsample_conv", f"{ours}/downsample_bn"),
                )
    return tuple(entries)


def keras_resnet_entries(
    blocks: Sequence[int], *, target: str = ""
) -> tuple[Entry, ...]:
    """``res3a_branch2a/kernel`` -> ``layer2_0/conv1/kernel``, ...: all but the classifier.

    The layer names are those of Keras before 2.2.5; arguments as `resnet_entries`.
    """
    entries = [
        *keras_entries("conv1", f"{target}conv1"),
        *keras_norm_entries("bn_conv1", f"{target}bn1"),
    ]
    for group, count in enumerate(blocks, 1):
        for index in range(count):
            theirs = f"{group + 1}{chr(ord('a') + index)}_branch"
            ours = f"{target}layer{group}_{index}"
            layers = [(f"2{'abc'[i - 1]}", f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
            if index == 0:
                layers.append(("1", "downsample_conv", "downsample_bn"))
            for name, conv, norm in layers:
                entries += keras_entries(f"res{theirs}{name}", f"{ours}/{conv}")
                entries += keras_norm_entries(f"bn{theirs}{name}", f"{ours}/{norm}")
    return tuple(entries)
