"""Key tables: published weights -> the networks of this method."""

from collections.abc import Sequence

from zoo_jax.convert import (
    CONV_TRANSPOSE_2D,
    VECTOR,
    Entry,
    Table,
    batch_norm_entries,
    conv_entries,
)
from zoo_jax.convert.resnet import resnet_entries
from zoo_jax.nn.resnet import RESNET_101


def dncnn_table(depth: int = 20) -> Table:
    """The layout of the published denoisers: one numbered stack, ``dncnn.0.weight``, ..."""
    entries: list[Entry] = [*conv_entries("dncnn.0", "conv1", bias=False)]
    for i in range(1, depth - 1):
        # Conv, norm and ReLU take one number each.
        entries += conv_entries(f"dncnn.{3 * i - 1}", f"conv{i + 1}", bias=False)
        entries += batch_norm_entries(f"dncnn.{3 * i}", f"bn{i + 1}")
    last = conv_entries(f"dncnn.{3 * depth - 4}", f"conv{depth}", bias=False)
    return Table((*entries, *last))


def fpn_segmentation_table(blocks: Sequence[int] = RESNET_101) -> Table:
    """The layout of the published segmentation code; no weights of it are published.

    The part below ``resnet.`` has the names of torchvision.
    """
    entries = [*resnet_entries(blocks, source="resnet.", target="resnet/")]
    names = ["toplayer", *(f"latlayer{i}" for i in (1, 2, 3))]
    names += [f"smooth{i}_{j}" for i in (1, 2, 3, 4) for j in (1, 2)]
    for name in (*names, "classify"):
        entries += conv_entries(f"fpn.{name}", name)
    return Table(tuple(entries))


def multiscale_denoiser_table() -> Table:
    """The layers of the Caffe file by their names; a norm is two layers there."""
    entries: list[Entry] = [*conv_entries("conv0", "conv0")]

    def norm(statistics: str, affine: str, ours: str) -> None:
        entries.extend(
            (
                Entry(f"{statistics}.running_mean", f"batch_stats/{ours}/mean", VECTOR),
                Entry(f"{statistics}.running_var", f"batch_stats/{ours}/var", VECTOR),
                Entry(f"{affine}.weight", f"params/{ours}/scale", VECTOR),
                Entry(f"{affine}.bias", f"params/{ours}/bias", VECTOR),
            )
        )

    for i in (1, 2, 3):
        entries += conv_entries(f"conv{i}", f"conv{i}")
        norm(f"conv{i}_bn", f"conv{i}_Scale", f"conv{i}_bn")
        for branch in ("branch2a", "branch2b", "branch2c"):
            theirs, ours = f"residual_{i}", f"residual_{i}/"
            entries += conv_entries(f"{theirs}_{branch}", f"{ours}{branch}", bias=False)
            norm(
                f"{theirs}_bn_{branch}",
                f"{theirs}_scale_{branch}",
                f"{ours}bn_{branch}",
            )
    for name in ("upsample_r2", "upsample"):
        entries += conv_entries(name, name, layout=CONV_TRANSPOSE_2D)
    return Table((*entries, *conv_entries("concat_reduction", "concat_reduction")))
