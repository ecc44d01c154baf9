"""Builders of the networks that recognise: ImageNet classifiers with published weights."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.nn.efficientnet import EfficientNetLite
from zoo_jax.nn.inception_v3 import BLOCKS, InceptionV3
from zoo_jax.nn.resnet import RESNET_50, ResNet
from zoo_jax.nn.squeezenet import SqueezeNet
from zoo_jax.nn.vgg import VGG, VGG16, VGG19

VARIANTS = ("torchvision", "keras")


def build_vgg16(
    *,
    width: int = 64,
    hidden: int = 4096,
    num_classes: int = 1000,
    variant: str = "torchvision",
    dtype: DTypeLike = jnp.float32,
) -> VGG:
    """Builds VGG-16, 138,357,544 parameters.

    Input: RGB normalised by ImageNet's mean and deviation; in the Keras variant BGR in [0, 255]
    minus (103.939, 116.779, 123.68). 224x224 pixels.

    Args:
      width: Channels of the first stage.
      hidden: Width of the two linear layers.
      num_classes: Number of logits.
      variant: Whose weights are read: ``"torchvision"`` or ``"keras"``.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a number below 1 or an unknown variant.

    Source: arXiv 1409.1556, table 1, column D.
    """
    return _vgg(VGG16, width, hidden, num_classes, variant, dtype)


def build_vgg19(
    *,
    width: int = 64,
    hidden: int = 4096,
    num_classes: int = 1000,
    variant: str = "torchvision",
    dtype: DTypeLike = jnp.float32,
) -> VGG:
    """Builds VGG-19, 143,667,240 parameters; input, arguments and errors as `build_vgg16`.

    Source: arXiv 1409.1556, table 1, column E.
    """
    return _vgg(VGG19, width, hidden, num_classes, variant, dtype)


def _vgg(counts, width, hidden, num_classes, variant, dtype) -> VGG:
    _check(variant, width=width, hidden=hidden, num_classes=num_classes)
    return VGG(
        counts,
        width=width,
        hidden=hidden,
        num_classes=num_classes,
        variant=variant,
        dtype=dtype,
    )


def build_resnet50(
    *,
    blocks: tuple[int, ...] = RESNET_50,
    width: int = 64,
    num_classes: int = 1000,
    variant: str = "torchvision",
    dtype: DTypeLike = jnp.float32,
) -> ResNet:
    """Builds ResNet-50: 25,557,032 parameters, or 25,583,592 in the Keras variant.

    Input as `build_vgg16`. The variants differ in more than names: see `zoo_jax.nn.resnet`.

    Args:
      blocks: Blocks of the four groups.
      width: Channels of the first convolution.
      num_classes: Number of logits.
      variant: ``"torchvision"`` or ``"keras"``.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a number below 1, other than four groups, or an unknown variant.

    Source: arXiv 1512.03385, table 1.
    """
    blocks = tuple(blocks)
    if len(blocks) != 4:
        raise ConfigError(f"blocks must be four numbers, got blocks={blocks}")
    numbers = {f"blocks[{i}]": count for i, count in enumerate(blocks)}
    _check(variant, width=width, num_classes=num_classes, **numbers)
    return ResNet(
        blocks, width=width, num_classes=num_classes, variant=variant, dtype=dtype
    )


def build_inception_v3(
    *,
    aux: bool = False,
    blocks: tuple[str, ...] = tuple(BLOCKS),
    width: float = 1.0,
    num_classes: int = 1000,
    variant: str = "torchvision",
    dtype: DTypeLike = jnp.float32,
) -> InceptionV3:
    """Builds Inception-v3: 23,834,568 parameters, or 27,161,264 with the auxiliary head.

    Input: RGB in [-1, 1], 299x299 pixels, in both variants; see `zoo_jax.nn.inception_v3`.

    Args:
      aux: Adds the auxiliary head, which only training needs.
      blocks: Names of blocks, in the published order; fewer make a smaller network.
      width: Multiplies all channels.
      num_classes: Number of logits.
      variant: ``"torchvision"`` or ``"keras"``.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a number out of range, an unknown block or variant, or an auxiliary head
        in the Keras variant, which has none.

    Source: arXiv 1512.00567.
    """
    blocks = tuple(blocks)
    _check(variant, num_classes=num_classes)
    if not width > 0:
        raise ConfigError(f"width must be above 0, got width={width}")
    for name in blocks:
        if name not in BLOCKS:
            raise ConfigError(f"unknown block {name!r}: {closest(name, BLOCKS)}")
    if list(blocks) != [name for name in BLOCKS if name in blocks] or not blocks:
        raise ConfigError(f"blocks must be in the published order, got blocks={blocks}")
    if aux and variant == "keras":
        raise ConfigError("the Keras variant has no auxiliary head: aux=False")
    return InceptionV3(
        num_classes, blocks, width=width, aux=aux, variant=variant, dtype=dtype
    )


def build_efficientnet_lite0(
    *, num_classes: int = 1000, dtype: DTypeLike = jnp.float32
) -> EfficientNetLite:
    """Builds EfficientNet-Lite0, 4,652,008 parameters.

    Input: (RGB in [0, 255] - 127) / 128, 224x224 pixels.

    Raises:
      ConfigError: for fewer than one class.

    Source: arXiv 1905.11946, table 1, without squeeze-and-excitation and with ReLU6.
    """
    _check(num_classes=num_classes)
    return EfficientNetLite(num_classes=num_classes, dtype=dtype)


def build_squeezenet(
    *, num_classes: int = 1000, dtype: DTypeLike = jnp.float32
) -> SqueezeNet:
    """Builds SqueezeNet 1.0, 1,248,424 parameters.

    Input: BGR in [0, 255] minus (104, 117, 123), 227x227 pixels.

    Raises:
      ConfigError: for fewer than one class.

    Source: arXiv 1602.07360.
    """
    _check(num_classes=num_classes)
    return SqueezeNet(num_classes=num_classes, dtype=dtype)


def _check(variant: str = VARIANTS[0], **numbers: Any) -> None:
    if variant not in VARIANTS:
        raise ConfigError(f"unknown variant {variant!r}: {closest(variant, VARIANTS)}")
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {name}={value}")
