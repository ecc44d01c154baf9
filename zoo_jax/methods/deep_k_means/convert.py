"""Key tables: published (or PyTorch-trained) weights -> the networks of this method.

The published files hold ``{"state_dict": ...}`` and date from a PyTorch without
``num_batches_tracked``; files with it are read as well.
"""

from collections.abc import Sequence

from zoo_jax.convert import (
    Entry,
    Table,
    batch_norm_entries,
    conv_entries,
    flattened_linear,
    linear_entries,
)
from zoo_jax.nn.googlenet import INCEPTIONS, inception_names


def wide_resnet_table(depth: int = 16) -> Table:
    """The layout of the published Wide ResNet: ``layer2.0.conv1.weight``, ..."""
    entries: list[Entry] = [*conv_entries("conv1", "conv1")]
    for group in (1, 2, 3):
        for index in range((depth - 4) // 6):
            theirs, ours = f"layer{group}.{index}", f"layer{group}_{index}"
            for i in (1, 2):
                entries += batch_norm_entries(f"{theirs}.bn{i}", f"{ours}/bn{i}")
                entries += conv_entries(f"{theirs}.conv{i}", f"{ours}/conv{i}")
            if index == 0:
                entries += conv_entries(f"{theirs}.shortcut.0", f"{ours}/shortcut")
    entries += batch_norm_entries("bn1", "bn1")
    entries += linear_entries("linear", "linear")
    return Table(tuple(entries))


def cifar_resnet_table(depth: int = 20) -> Table:
    """The layout of akamaster/pytorch_resnet_cifar10; keys may start with ``module.``."""
    entries: list[Entry] = [*conv_entries("conv1", "conv1", bias=False)]
    entries += batch_norm_entries("bn1", "bn1")
    for group in (1, 2, 3):
        for index in range((depth - 2) // 6):
            theirs, ours = f"layer{group}.{index}", f"layer{group}_{index}"
            for i in (1, 2):
                entries += conv_entries(
                    f"{theirs}.conv{i}", f"{ours}/conv{i}", bias=False
                )
                entries += batch_norm_entries(f"{theirs}.bn{i}", f"{ours}/bn{i}")
    return Table((*entries, *linear_entries("linear", "linear")))


def googlenet_table(aux: bool = False, num_blocks: int = len(INCEPTIONS)) -> Table:
    """The layout of torchvision's GoogLeNet.

    Args:
      aux: Whether the network has the auxiliary heads; if not, theirs are ignored.
      num_blocks: As in `build_googlenet`.
    """
    entries: list[Entry] = []

    def block(theirs: str, ours: str) -> None:
        entries.extend(conv_entries(f"{theirs}.conv", f"{ours}/conv", bias=False))
        entries.extend(batch_norm_entries(f"{theirs}.bn", f"{ours}/bn"))

    for i in (1, 2, 3):
        block(f"conv{i}", f"conv{i}")
    for name in inception_names(num_blocks):
        block(f"{name}.branch1", f"{name}/branch1")
        for branch in (2, 3):
            for i in (0, 1):
                block(f"{name}.branch{branch}.{i}", f"{name}/branch{branch}_{i}")
        # Place 0 is the pooling.
        block(f"{name}.branch4.1", f"{name}/branch4")
    for head in ("aux1", "aux2") if aux else ():
        block(f"{head}.conv", f"{head}/conv")
        entries += linear_entries(
            f"{head}.fc1", f"{head}/fc1", layout=flattened_linear(128, 4, 4)
        )
        entries += linear_entries(f"{head}.fc2", f"{head}/fc2")
    entries += linear_entries("fc", "fc")
    ignored = () if aux else ("aux1.*", "aux2.*")
    return Table(tuple(entries), ignore=("*.num_batches_tracked", *ignored))


def lenet_caffe_5_table() -> Table:
    """LeNet with the layer names of Caffe. There is no published file."""
    return Table(
        (
            *conv_entries("conv1", "conv1"),
            *conv_entries("conv2", "conv2"),
            # 28x28 images leave 4x4 maps of 50 channels.
            *linear_entries("ip1", "ip1", layout=flattened_linear(50, 4, 4)),
            *linear_entries("ip2", "ip2"),
        )
    )


def digits_cnn_table(widths: Sequence[int] = (16, 32, 64, 128)) -> Table:
    """The digits network; `widths` as in `build_digits_cnn`. There is no published file."""
    entries: list[Entry] = []
    for i in range(1, len(widths) + 1):
        entries += conv_entries(f"conv{i}", f"conv{i}", bias=False)
        entries += batch_norm_entries(f"bn{i}", f"bn{i}")
    return Table((*entries, *linear_entries("linear", "linear")))
