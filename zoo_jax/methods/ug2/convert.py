"""Key tables: published weights -> the networks of this method."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo_jax.convert import (
    DEPTHWISE_2D,
    Entry,
    Table,
    batch_norm_entries,
    conv_entries,
    linear_entries,
)
from zoo_jax.convert.keras import keras_entries, keras_norm_entries
from zoo_jax.convert.resnet import keras_resnet_entries, resnet_entries
from zoo_jax.convert.vgg import vgg_table
from zoo_jax.core.errors import WeightsError
from zoo_jax.nn.efficientnet import LITE0, Group
from zoo_jax.nn.inception_v3 import BLOCKS, STEM
from zoo_jax.nn.resnet import RESNET_50
from zoo_jax.nn.squeezenet import FIRES

__all__ = [
    "efficientnet_lite_table",
    "inception_v3_table",
    "resnet_table",
    "squeezenet_table",
    "vgg_table",
]


def resnet_table(
    blocks: Sequence[int] = RESNET_50, variant: str = "torchvision"
) -> Table:
    """The layout of torchvision (``layer1.0.conv1.weight``) or Keras (``res2a_branch2a/kernel``)."""
    if variant == "keras":
        entries = keras_resnet_entries(blocks, target="trunk/")
        return Table((*entries, *keras_entries("fc1000", "fc")), ignore=(), strip=())
    return Table(
        (*resnet_entries(blocks, target="trunk/"), *linear_entries("fc", "fc"))
    )


def inception_v3_table(
    blocks: Sequence[str] = tuple(BLOCKS),
    aux: bool = False,
    variant: str = "torchvision",
) -> Table:
    """The layout of torchvision (``Mixed_5b.branch1x1.conv.weight``) or Keras (``conv2d_1/kernel``).

    Keras numbers its layers in the order in which they were made, and goes on counting from
    network to network: the smallest number is taken as the first layer. Its norms have no
    factors, which then are ones.

    Args:
      blocks: Names of the blocks that the network has.
      aux: Whether it has the auxiliary head; if not, that of the file is ignored.
      variant: ``"torchvision"`` or ``"keras"``.
    """
    places = [name for name, *_ in STEM]
    places += [f"{b}/{layer.name}" for b in blocks for layer in BLOCKS[b].layers()]
    entries: list[Entry] = []
    if variant == "keras":
        for number, place in enumerate(places, 1):
            entries += keras_entries(f"conv2d_{number}", f"{place}/conv", bias=False)
            entries += keras_norm_entries(
                f"batch_normalization_{number}", f"{place}/bn"
            )
        entries += keras_entries("predictions", "fc")
        return Table(tuple(entries), ignore=(), strip=(), prepare=_renumbered)
    places += ["AuxLogits/conv0", "AuxLogits/conv1"] if aux else []
    for place in places:
        source = place.replace("/", ".")
        entries += conv_entries(f"{source}.conv", f"{place}/conv", bias=False)
        entries += batch_norm_entries(f"{source}.bn", f"{place}/bn")
    entries += linear_entries("AuxLogits.fc", "AuxLogits/fc") if aux else ()
    entries += linear_entries("fc", "fc")
    ignored = () if aux else ("AuxLogits.*",)
    return Table(tuple(entries), ignore=("*.num_batches_tracked", *ignored))


def _renumbered(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Keras's ``conv2d_95/kernel``, ... counted from 1, and norms with factors."""
    counted = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?/(.+)")
    found = {key: m for key in arrays if (m := counted.fullmatch(key))}
    first: dict[str, int] = {}
    for kind, number, _ in (m.groups() for m in found.values()):
        first[kind] = min(first.get(kind, int(number or 0)), int(number or 0))
    out = {}
    for key, array in arrays.items():
        if key in found:
            kind, number, name = found[key].groups()
            key = f"{kind}_{int(number or 0) - first[kind] + 1}/{name}"
        out[key] = array
    for key in [k for k in out if re.fullmatch(r"batch_normalization_\d+/beta", k)]:
        gamma = key.removesuffix("beta") + "gamma"
        out.setdefault(gamma, np.ones_like(np.asarray(out[key])))
    return out


def efficientnet_lite_table(groups: Sequence[Group] = LITE0) -> Table:
    """The layout of the package efficientnet-lite-pytorch: ``_blocks.0._bn1.weight``, ..."""
    entries: list[Entry] = []

    def layer(conv: str, norm: str, ours: str, **options: Any) -> None:
        entries.extend(conv_entries(conv, ours, bias=False, **options))
        entries.extend(batch_norm_entries(norm, f"{ours}_bn"))

    layer("_conv_stem", "_bn0", "stem")
    expansions = [group.expansion for group in groups for _ in range(group.repeats)]
    for number, expansion in enumerate(expansions):
        theirs, ours = f"_blocks.{number}", f"block{number}"
        if expansion != 1:
            layer(f"{theirs}._expand_conv", f"{theirs}._bn0", f"{ours}/expand")
        layer(
            f"{theirs}._depthwise_conv",
            f"{theirs}._bn1",
            f"{ours}/depthwise",
            layout=DEPTHWISE_2D,
        )
        layer(f"{theirs}._project_conv", f"{theirs}._bn2", f"{ours}/project")
    layer("_conv_head", "_bn1", "head")
    return Table((*entries, *linear_entries("_fc", "fc")))


def squeezenet_table(fires: Sequence[tuple[int, int]] = FIRES) -> Table:
    """The layer names of the Caffe file: ``fire2/conv1x1_1/weight``, ``.../bias``.

    A file of Deep Compression (arXiv 1510.00149) holds a weight as ``codebook`` and ``codes``:
    ``weight = codebook[codes]``.
    """
    layers = ["conv1"]
    layers += [
        f"fire{number}/{name}"
        for number in range(2, 2 + len(fires))
        for name in ("conv1x1_1", "conv1x1_2", "conv3x3_2")
    ]
    entries: list[Entry] = []
    for name in (*layers, "conv_final"):
        weight, bias = conv_entries(name, name.replace("/", "_"))
        entries += [
            weight._replace(source=f"{name}/weight"),
            bias._replace(source=f"{name}/bias"),
        ]
    return Table(tuple(entries), prepare=_decoded)


def _decoded(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays, with each pair of codebook and codes as the weight that it stands for."""
    out = dict(arrays)
    for key in arrays:
        name = key.removesuffix("/codes")
        if name == key or f"{name}/codebook" not in arrays:
            continue
        codes = np.asarray(out.pop(key))
        codebook = np.asarray(out.pop(f"{name}/codebook"))
        if codes.dtype.kind != "u" or codebook.ndim != 1:
            raise WeightsError(
                f"{key}: {codes.dtype} codes into a codebook of shape {codebook.shape}:"
                " needed are unsigned integers and one axis"
            )
        if codes.size and codes.max() >= len(codebook):
            raise WeightsError(
                f"{key}: code {codes.max()} in a codebook of {len(codebook)} entries"
            )
        out[f"{name}/weight"] = codebook[codes]
    return out
