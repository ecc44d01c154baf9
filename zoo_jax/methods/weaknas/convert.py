"""Key table: the networks of the released code (and of once-for-all) -> `MobileNetV3OFA`."""

from collections.abc import Sequence

from zoo_jax.convert import (
    DEPTHWISE_2D,
    Entry,
    Table,
    batch_norm_entries,
    conv_entries,
    linear_entries,
)
from zoo_jax.convert.layout import CONV_2D, Layout
from zoo_jax.methods.weaknas.spaces.ofa_mobilenet_v3 import SubNet, Widths, blocks


def mobilenet_v3_ofa_table(
    kernels: Sequence[int],
    expansions: Sequence[int],
    depths: Sequence[int],
    width: float,
) -> Table:
    """The layout of the released ``ofa_mbv3``: ``blocks.3.conv.depth_conv.conv.weight``, ...

    Args:
      kernels: As in `MobileNetV3OFA`.
      expansions: Likewise.
      depths: Likewise.
      width: Width multiplier.
    """
    entries: list[Entry] = []

    def block(theirs: str, ours: str, layout: Layout = CONV_2D) -> None:
        entries.extend(
            conv_entries(f"{theirs}.conv", f"{ours}/conv", bias=False, layout=layout)
        )
        entries.extend(batch_norm_entries(f"{theirs}.bn", f"{ours}/bn"))

    block("first_conv", "first_conv")
    net = SubNet(tuple(kernels), tuple(expansions), tuple(depths))
    for i, inner in enumerate([None, *blocks(net, Widths.of(width))]):
        theirs, ours = f"blocks.{i}.conv", f"blocks_{i}"
        if inner is not None:  # the first block does not widen
            block(f"{theirs}.inverted_bottleneck", f"{ours}/inverted_bottleneck")
        block(f"{theirs}.depth_conv", f"{ours}/depth_conv", DEPTHWISE_2D)
        for layer in ("reduce", "expand") if inner and inner.squeeze else ():
            entries += conv_entries(
                f"{theirs}.depth_conv.se.fc.{layer}", f"{ours}/depth_conv/se/{layer}"
            )
        block(f"{theirs}.point_linear", f"{ours}/point_linear")
    block("final_expand_layer", "final_expand_layer")
    entries += conv_entries("feature_mix_layer.conv", "feature_mix_layer", bias=False)
    entries += linear_entries("classifier.linear", "classifier")
    return Table(tuple(entries))
