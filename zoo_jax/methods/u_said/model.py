"""The networks of U-SAID: a blind denoiser, a segmentation pyramid, and the ancestor denoiser.

All take RGB images in [0, 1], NHWC, of any size unless they say otherwise. Inner outputs can
be had without code in the modules: ``module.apply(variables, x, capture_intermediates=True,
mutable="intermediates")``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.nn.norm import BatchNorm
from zoo_jax.nn.resnet import RESNET_101, ResNetTrunk

# Untruncated, as in PyTorch.
_HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_XAVIER = nn.initializers.xavier_uniform()

# Of RGB photographs in [0, 1]; taken off what the segmentation network sees.
RGB_MEAN = (0.48109378172, 0.4575245789, 0.4078705409)


def _clipped_normal(key, shape, dtype=jnp.float32):
    """Factors of the norms as published: most of them end at the clip, half are negative."""
    draw = (2 / (9 * 64)) ** 0.5 * jax.random.normal(key, shape, dtype)
    return jnp.clip(draw, -0.025, 0.025)


class DnCNN(nn.Module):
    """A stack of 3x3 convolutions that estimates the noise of an image.

    Attributes:
      depth: Convolutions; all but the first and the last have a batch norm.
      features: Their channels.
      channels: Of the image.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      dtype: Compute dtype; parameters, statistics and the output are float32.
    """

    depth: int = 20
    features: int = 64
    channels: int = 3
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns the noise estimate: the restored image is ``clip(x - estimate, 0, 1)``."""
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        for index in range(1, self.depth + 1):
            last = index == self.depth
            x = nn.Conv(
                self.channels if last else self.features,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=_HE,
                dtype=self.dtype,
                name=f"conv{index}",
            )(x)
            if 1 < index < self.depth:
                x = BatchNorm(
                    momentum=momentum,
                    dtype=self.dtype,
                    scale_init=_clipped_normal,
                    name=f"bn{index}",
                )(x, train=train)
            if not last:
                x = nn.relu(x)
        return x.astype(jnp.float32)


class FPNSegmentation(nn.Module):
    """Per-pixel class scores at a quarter of the resolution, from a ResNet's pyramid.

    The input is RGB in [0, 1] minus `RGB_MEAN`; it is not divided by a deviation. Every level
    of the pyramid is formed before smoothing. The head has no norm and no nonlinearity.

    Attributes:
      num_classes: Channels of the output.
      blocks: Blocks per group of the ResNet.
      width: Channels of its first convolution.
      pyramid: Channels of the pyramid.
      smooth: Channels of each smoothed level.
      head_std: Deviation of the fresh kernels behind the ResNet.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      dtype: Compute dtype; parameters, statistics and logits are float32.
    """

    num_classes: int = 21
    blocks: tuple[int, ...] = RESNET_101
    width: int = 64
    pyramid: int = 256
    smooth: int = 128
    head_std: float = 0.01
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b i j k"]:
        """Returns logits; `train` uses batch statistics."""

        def conv(x, features: int, size: int, name: str):
            return nn.Conv(
                features,
                (size, size),
                padding=size // 2,
                kernel_init=nn.initializers.normal(self.head_std),
                dtype=self.dtype,
                name=name,
            )(x)

        trunk = ResNetTrunk(
            blocks=self.blocks,
            width=self.width,
            bn_momentum=self.bn_momentum,
            dtype=self.dtype,
            name="resnet",
        )
        c2, c3, c4, c5 = trunk(x, train=train)
        levels = [conv(c5, self.pyramid, 1, "toplayer")]  # p5, p4, p3, p2
        for index, c in enumerate((c4, c3, c2), 1):
            lateral = conv(c, self.pyramid, 1, f"latlayer{index}")
            levels.append(_resize_to(levels[-1], lateral) + lateral)
        smoothed = []
        for index, level in enumerate(levels, 1):
            level = conv(level, self.pyramid, 3, f"smooth{index}_1")
            smoothed.append(conv(level, self.smooth, 3, f"smooth{index}_2"))
        joined = jnp.concatenate([_resize_to(s, smoothed[-1]) for s in smoothed], -1)
        return conv(joined, self.num_classes, 3, "classify").astype(jnp.float32)


def without_mean(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """What `FPNSegmentation` takes: RGB in [0, 1] minus `RGB_MEAN`."""
    return image - jnp.array(RGB_MEAN).reshape(1, 1, 1, 3)


def _resize_to(x: Array, like: Array) -> Array:
    """Bilinear, half-pixel centres (PyTorch's ``align_corners=False``), to the size of `like`."""
    shape = (x.shape[0], *like.shape[1:3], x.shape[3])
    return jax.image.resize(x, shape, "bilinear")


class Residual(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with a batch norm, around the identity."""

    features: int  # of the first two
    bn_momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Applies the block."""
        y = x
        sizes = {
            "a": (self.features, 1),
            "b": (self.features, 3),
            "c": (x.shape[-1], 1),
        }
        for letter, (features, size) in sizes.items():
            y = nn.Conv(
                features,
                (size, size),
                padding=size // 2,
                use_bias=False,
                kernel_init=_XAVIER,
                dtype=self.dtype,
                name=f"branch2{letter}",
            )(y)
            norm = BatchNorm(
                momentum=self.bn_momentum, dtype=self.dtype, name=f"bn_branch2{letter}"
            )
            y = norm(y, train=train)
            y = nn.relu(y) if letter != "c" else y
        return nn.relu(x + y)


class MultiscaleDenoiser(nn.Module):
    """The cascaded two-scale denoiser that U-SAID grew out of.

    It works on BGR in [0, 255] minus (104, 117, 123) and returns the restored image itself, 6
    pixels smaller than its input in both directions, in the same units. Height and width
    minus 4 must be multiples of 4.

    Source: arXiv 1706.04284, released code.
    """

    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b i j 3"]:
        """Returns the restored centre of `x`.

        Raises:
          ValueError: if height or width minus 4 is no multiple of 4.
        """
        height, width = x.shape[1:3]
        if (height - 4) % 4 or (width - 4) % 4 or min(height, width) < 8:
            raise ValueError(
                "multiscale_denoiser takes heights and widths of 8, 12, 16, ... pixels, got "
                f"{height}x{width}: pad or crop the image"
            )
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        bias = nn.initializers.constant(0.2)

        def conv(x, features: int, size: int, name: str, stride: int = 1, pad: int = 1):
            return nn.Conv(
                features,
                (size, size),
                strides=stride,
                padding=pad,
                kernel_init=_XAVIER,
                bias_init=bias,
                dtype=self.dtype,
                name=name,
            )(x)

        def norm_relu(x, name: str):
            norm = BatchNorm(momentum=momentum, dtype=self.dtype, name=name)
            return nn.relu(norm(x, train=train))

        def up(x, features: int, name: str):
            return nn.ConvTranspose(
                features,
                (4, 4),
                strides=(2, 2),
                padding=((2, 2), (2, 2)),  # of the spread-out input: Caffe's pad 1
                kernel_init=_XAVIER,
                bias_init=bias,
                dtype=self.dtype,
                name=name,
            )(x)

        def residual(x, features: int, name: str):
            block = Residual(features, momentum, self.dtype, name=name)
            return block(x, train=train)

        full = conv(x, 64, 5, "conv0", pad=0)
        half = norm_relu(conv(full, 128, 3, "conv1", stride=2), "conv1_bn")
        half = residual(half, 32, "residual_1")
        quarter = norm_relu(conv(half, 128, 3, "conv2", stride=2), "conv2_bn")
        quarter = residual(quarter, 32, "residual_2")
        half = jnp.concatenate([half, up(quarter, 32, "upsample_r2")], axis=-1)
        half = norm_relu(conv(half, 256, 3, "conv3"), "conv3_bn")
        half = residual(half, 64, "residual_3")
        full = jnp.concatenate([full, up(half, 64, "upsample")], axis=-1)
        change = conv(full, 3, 3, "concat_reduction", pad=0).astype(jnp.float32)
        return x[:, 3:-3, 3:-3] + change


def build_dncnn(
    *,
    depth: int = 20,
    features: int = 64,
    channels: int = 3,
    dtype: DTypeLike = jnp.float32,
) -> DnCNN:
    """Builds the blind colour denoiser: 20 convolutions without bias, 669,312 parameters.

    Input in [0, 1] with noise that may leave it; output: the noise. It sees 41x41 pixels.

    Raises:
      ConfigError: for fewer than 3 convolutions or a number below 1.

    Source: arXiv 1905.08965, released code (``CDnCNN-B``).
    """
    if depth < 3:
        raise ConfigError(f"depth must be 3 or more, got depth={depth}")
    _require_positive(features=features, channels=channels)
    return DnCNN(depth=depth, features=features, channels=channels, dtype=dtype)


def build_fpn_segmentation(
    *,
    num_classes: int = 21,
    blocks: tuple[int, ...] = RESNET_101,
    width: int = 64,
    pyramid: int = 256,
    smooth: int = 128,
    head_std: float = 0.01,
    dtype: DTypeLike = jnp.float32,
) -> FPNSegmentation:
    """Builds the segmentation network behind the uncertainty loss, 47,121,493 parameters.

    Input: RGB in [0, 1] minus `RGB_MEAN`. Output: logits at a quarter of the resolution.

    Args:
      num_classes: 2 or more; with one class there is nothing to be uncertain about.
      blocks: Four numbers, blocks per group; smaller than ResNet-101's make a small network
        of the same kind.
      width: Channels of the first convolution.
      pyramid: Channels of the pyramid.
      smooth: Channels of each smoothed level.
      head_std: Deviation of the fresh kernels behind the ResNet. With the published 0.01 a random
        head of few channels answers the same everywhere, and its uncertainty has hardly a
        gradient.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a number out of range.

    Source: arXiv 1905.08965, released code (``FPN/models/fpn.py``).
    """
    blocks = tuple(blocks)
    if num_classes < 2:
        raise ConfigError(
            f"num_classes must be 2 or more, got num_classes={num_classes}: one class is "
            "always certain"
        )
    if len(blocks) != 4:
        raise ConfigError(f"blocks must be four numbers, got blocks={blocks}")
    _require_positive(
        width=width,
        pyramid=pyramid,
        smooth=smooth,
        **{f"blocks[{i}]": count for i, count in enumerate(blocks)},
    )
    if not head_std > 0:
        raise ConfigError(f"head_std must be above 0, got head_std={head_std}")
    return FPNSegmentation(
        num_classes=num_classes,
        blocks=blocks,
        width=width,
        pyramid=pyramid,
        smooth=smooth,
        head_std=head_std,
        dtype=dtype,
    )


def build_multiscale_denoiser(*, dtype: DTypeLike = jnp.float32) -> MultiscaleDenoiser:
    """Builds the ancestor of the denoiser, 1,033,443 parameters.

    Source: arXiv 1706.04284, released code.
    """
    return MultiscaleDenoiser(dtype=dtype)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {name}={value}")


DENOISERS: dict[str, Callable[..., nn.Module]] = {"dncnn": build_dncnn}


def make_denoiser(model: Mapping[str, Any]) -> nn.Module:
    """Builds the network of a config section ``dict(name="dncnn", **arguments)``.

    Raises:
      ConfigError: for an unknown name, argument or dtype.
    """
    options = to_dict(model)
    name = options.pop("name", None)
    if name not in DENOISERS:
        raise ConfigError(f"unknown model.name {name!r}: {closest(name, DENOISERS)}")
    return _build(DENOISERS[name], options, "model")


def make_segmentation(section: Mapping[str, Any]) -> nn.Module:
    """Builds the segmentation network of a config section; errors as `make_denoiser`."""
    return _build(build_fpn_segmentation, to_dict(section), "segmentation")


def _build(
    build: Callable[..., nn.Module], options: dict[str, Any], where: str
) -> nn.Module:
    require_keys(options, inspect.signature(build).parameters, where)
    dtype = options.get("dtype", "float32")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"{where}.dtype must be float32 or bfloat16, got {dtype!r}")
    return build(**options | {"dtype": jnp.dtype(dtype)})
