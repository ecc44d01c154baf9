"""Key tables: published weights -> the networks of this method, their backbones, and VGG-19."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zoo_jax.convert import (
    CONV_TRANSPOSE_2D,
    DEPTHWISE_2D,
    VECTOR,
    Entry,
    Table,
    apply,
    batch_norm_entries,
    conv_entries,
    open_weights,
)
from zoo_jax.convert.vgg import vgg19_features_table
from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.files import PathLike
from zoo_jax.core.types import Params
from zoo_jax.nn.inception_resnet_v2 import BLOCKS, BRANCH_LENGTHS
from zoo_jax.nn.mobilenet_v2 import GROUPS, TAPS
from zoo_jax.nn.vgg import Vgg19Features

_COUNTERS = "*.num_batches_tracked"
# Data-parallel training, in a file that keeps the name of its outer dictionary in each key.
_STRIP = ("model.", "module.")
_MOBILENET_BLOCKS = (
    18  # the last of them ends in features.17; features.18 is a convolution
)


def fpn_mobilenet_table(decoder: str = "dense") -> Table:
    """The layout of the published MobileNet generator: 622 keys, 270 of them copies.

    The blocks behind the last map, ``features.16`` to ``18``, are in the file and never run.

    Raises:
      WeightsError: for the separable decoder, of which nothing is published.
    """
    if decoder != "dense":
        raise WeightsError(
            f"fpn_mobilenet with decoder={decoder!r} has no published layout; give a folder "
            "that zoo-jax wrote"
        )
    parts, first = [], 0
    for i, last in enumerate(TAPS):
        numbers = range(first, last + 1)
        parts += [
            (f"fpn.enc{i}.{j}.", f"fpn.features.{k}.") for j, k in enumerate(numbers)
        ]
        first = last + 1
    unused = [f"fpn.features.{k}.*" for k in range(first, _MOBILENET_BLOCKS + 1)]
    return Table(
        (*mobilenet_v2_entries("fpn.", "backbone/"), *_decoder_entries(True)),
        ignore=(_COUNTERS, *unused),
        strip=_STRIP,
        copies=tuple(parts),
    )


def mobilenet_v2_entries(
    source: str, target: str, *, nested: bool = False
) -> tuple[Entry, ...]:
    """Blocks 1 to 15 of MobileNet-v2 as in the published networks.

    With `nested` as in torchvision, where each convolution but the last of a block is a module
    with its norm and ReLU6.
    """
    entries = [*_conv(f"{source}features.0.0", f"{target}stem")]
    entries += batch_norm_entries(f"{source}features.0.1", f"{target}stem_bn")
    number = 0
    for expansion, _, repeats, _ in GROUPS:
        for _ in range(repeats):
            number += 1
            if number > TAPS[-1]:
                return tuple(entries)
            names = ("expand", "depthwise", "project")[expansion == 1 :]
            for i, name in enumerate(names):
                # Convolution, norm and ReLU6 take one number each.
                numbers = (f"{3 * i}", f"{3 * i + 1}")
                if nested:
                    last = name == "project"
                    numbers = (f"{i}", f"{i + 1}") if last else (f"{i}.0", f"{i}.1")
                published = [f"{source}features.{number}.conv.{n}" for n in numbers]
                ours = f"{target}block{number}/{name}"
                layout = {"layout": DEPTHWISE_2D} if name == "depthwise" else {}
                entries += _conv(published[0], ours, **layout)
                entries += batch_norm_entries(published[1], f"{ours}_bn")
    return tuple(entries)


def fpn_inception_table(
    blocks: Sequence[int] = BLOCKS, top_down_convs: bool = True
) -> Table:
    """The layout of the published Inception generators, 2,384 keys, 1,038 of them copies.

    ``repeat_2``, ``block8``, ``conv2d_7b`` and ``last_linear`` are in the file and never run.
    """
    shared = {
        "enc0": "conv2d_1a",
        "enc1.0": "conv2d_2a",
        "enc1.1": "conv2d_2b",
        "enc2.0": "conv2d_3b",
        "enc2.1": "conv2d_4a",
        "enc3.0": "mixed_5b",
        "enc3.1": "repeat",
        "enc3.2": "mixed_6a",
        "enc4.0": "repeat_1",
        "enc4.1": "mixed_7a",
    }
    unused = ("repeat_2", "block8", "conv2d_7b", "last_linear")
    source = "fpn.inception."
    return Table(
        (
            *inception_resnet_v2_entries(source, "backbone/", blocks),
            *_decoder_entries(top_down_convs),
        ),
        ignore=(_COUNTERS, *(f"{source}{name}.*" for name in unused)),
        strip=_STRIP,
        copies=tuple((f"fpn.{a}.", f"{source}{b}.") for a, b in shared.items()),
    )


def inception_resnet_v2_entries(
    source: str, target: str, blocks: Sequence[int] = BLOCKS
) -> tuple[Entry, ...]:
    """Inception-ResNet-v2 up to ``mixed_7a`` as in the package pretrainedmodels."""
    entries: list[Entry] = []

    def single(published: str, ours: str) -> None:
        entries.extend(_conv(f"{source}{published}.conv", f"{target}{ours}/conv"))
        norm = f"{source}{published}.bn", f"{target}{ours}/bn"
        entries.extend(batch_norm_entries(*norm))

    def mixed(published: str, ours: str, kind: str) -> None:
        for i, length in enumerate(BRANCH_LENGTHS[kind]):
            for j in range(length):
                number = f".{j}" if length > 1 else ""
                single(f"{published}.branch{i}{number}", f"{ours}/branch{i}_{j}")

    def residual(published: str, ours: str, kind: str) -> None:
        mixed(published, f"{ours}/mixed", kind)
        entries.extend(
            conv_entries(f"{source}{published}.conv2d", f"{target}{ours}/conv")
        )

    for name in ("1a", "2a", "2b", "3b", "4a"):
        single(f"conv2d_{name}", f"conv2d_{name}")
    mixed("mixed_5b", "mixed_5b", "mixed_5b")
    single("mixed_5b.branch3.1", "mixed_5b/pool_conv")
    for i in range(blocks[0]):
        residual(f"repeat.{i}", f"block35_{i}", "block35")
    mixed("mixed_6a", "mixed_6a", "mixed_6a")
    for i in range(blocks[1]):
        residual(f"repeat_1.{i}", f"block17_{i}", "block17")
    mixed("mixed_7a", "mixed_7a", "mixed_7a")
    return tuple(entries)


def _decoder_entries(top_down_convs: bool) -> tuple[Entry, ...]:
    """What stands behind the backbone; the same in all published generators."""
    entries: list[Entry] = []
    if top_down_convs:
        for i in (1, 2, 3):  # published from the coarsest on, ours by the level
            entries += _norm_block(f"fpn.td{i}", f"decoder/top_down{4 - i}")
    for i in range(5):
        entries += _conv(f"fpn.lateral{i}", f"decoder/lateral{i}")
    for i in (1, 2, 3, 4):
        for j in (0, 1):
            entries += _conv(f"head{i}.block{j}", f"decoder/head{i}/conv{j}")
    for name in ("smooth", "smooth2"):
        entries += _norm_block(name, f"decoder/{name}")
    return (*entries, *conv_entries("final", "decoder/final"))


def _conv(source: str, target: str, **layout) -> tuple[Entry, ...]:
    return conv_entries(source, target, bias=False, **layout)


def _norm_block(source: str, target: str) -> tuple[Entry, ...]:
    """Convolution with bias, then instance norm."""
    return (
        *conv_entries(f"{source}.0", f"{target}/conv"),
        *_instance_norm(f"{source}.1", f"{target}/norm"),
    )


def _instance_norm(source: str, target: str) -> tuple[Entry, ...]:
    """The running statistics of an instance norm; it has no other arrays."""
    return (
        Entry(f"{source}.running_mean", f"batch_stats/{target}/mean", VECTOR),
        Entry(f"{source}.running_var", f"batch_stats/{target}/var", VECTOR),
    )


def resnet9_table(blocks: int = 9, dropout: float = 0.5) -> Table:
    """The layout of the generator of DeblurGAN in the published code: one stack, ``model.0``, ...

    A network without dropout has no place for it in its blocks.
    """
    # Border, convolution, norm and ReLU take one number each.
    entries = [
        *conv_entries("model.1", "stem"),
        *_instance_norm("model.2", "stem_norm"),
    ]
    for i, number in ((1, 4), (2, 7)):
        entries += conv_entries(f"model.{number}", f"down{i}")
        entries += _instance_norm(f"model.{number + 1}", f"down{i}_norm")
    second = 6 if dropout else 5
    for i in range(blocks):
        for j, number in enumerate((1, second)):
            published = f"model.{10 + i}.conv_block"
            entries += conv_entries(f"{published}.{number}", f"block{i}/conv{j}")
            entries += _instance_norm(f"{published}.{number + 1}", f"block{i}/norm{j}")
    number = 10 + blocks
    for i in (1, 2):
        entries += conv_entries(f"model.{number}", f"up{i}", layout=CONV_TRANSPOSE_2D)
        entries += _instance_norm(f"model.{number + 1}", f"up{i}_norm")
        number += 3
    return Table((*entries, *conv_entries(f"model.{number + 1}", "final")))


def discriminator_table(layers: int = 3) -> Table:
    """The layout of the discriminators in the published code; none of their weights are."""
    entries = [*conv_entries("model.0", "conv0")]
    for i in range(1, layers + 1):
        # Convolution, norm and LeakyReLU take one number each; the first has no norm.
        entries += conv_entries(f"model.{3 * i - 1}", f"conv{i}")
        entries += _instance_norm(f"model.{3 * i}", f"norm{i}")
    return Table((*entries, *conv_entries(f"model.{3 * layers + 2}", "score")))


def load_vgg19(path: PathLike, *, upto: str = "conv3_3") -> Params:
    """Reads torchvision's VGG-19 for `zoo_jax.nn.vgg.Vgg19Features`.

    Args:
      path: A ``.safetensors``, ``.npz`` or torch file with the keys of torchvision, with or
        without the layers behind `upto`.
      upto: The last convolution that is needed.

    Returns:
      The parameters: ``Vgg19Features(upto).apply({"params": params}, x)``.

    Raises:
      WeightsError: if the file is absent, damaged, unsafe, or does not fit.
    """
    module = Vgg19Features(upto)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    template = dict(jax.eval_shape(module.init, jax.random.key(0), x))
    arrays = open_weights(path).arrays
    return apply(vgg19_features_table(upto), arrays, template, where=str(path))[
        "params"
    ]


def load_backbone(path: PathLike, generator: Any) -> dict[str, Params]:
    """Reads the backbone of a generator from a network that was trained on ImageNet.

    Args:
      path: A ``.safetensors``, ``.npz`` or torch file. For `FPNMobileNet` a MobileNet-v2 of
        torchvision or with the flat keys ``features.1.conv.0.weight`` of the published
        generator; for `FPNInception` an Inception-ResNet-v2 of the package pretrainedmodels. What
        stands behind the last map, and the classifier, may be in the file or not.
      generator: From `make_generator`.

    Returns:
      The ``params`` and the ``batch_stats`` of the backbone.

    Raises:
      ConfigError: for a generator without a backbone.
      WeightsError: if the file is absent, damaged, unsafe, or does not fit.
    """
    kind = type(generator).__name__
    if kind not in ("FPNMobileNet", "FPNInception"):
        raise ConfigError(f"backbone={str(path)!r}: {kind} has none, leave it empty")
    arrays = open_weights(path).arrays
    unused = ["classifier.*", "last_linear.*", _COUNTERS]
    if kind == "FPNMobileNet":
        nested = any(".features.1.conv.0.0." in f".{key}" for key in arrays)
        entries = mobilenet_v2_entries("", "", nested=nested)
        unused += [
            f"features.{k}.*" for k in range(TAPS[-1] + 1, _MOBILENET_BLOCKS + 1)
        ]
    else:
        entries = inception_resnet_v2_entries("", "", generator.blocks)
        unused += ["repeat_2.*", "block8.*", "conv2d_7b.*"]
    side = generator.minimum
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    whole = jax.eval_shape(
        functools.partial(generator.init, train=False), jax.random.key(0), x
    )
    template = {kind: whole[kind]["backbone"] for kind in ("params", "batch_stats")}
    table = Table(entries, ignore=tuple(unused), strip=_STRIP)
    return apply(table, arrays, template, where=str(path))
