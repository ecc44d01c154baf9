"""Entries of a bottleneck ResNet in the layout of torchvision, for the tables of methods."""

from collections.abc import Sequence

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
