"""The networks of DeblurGAN-v2: pyramid generators, their baselines, and discriminators.

Generators take and return RGB in [-1, 1], NHWC. They add a learned change to the blurred image and
clip. Height and width must be multiples of ``module.multiple`` and at least ``module.minimum``.
Inner outputs can be had with ``module.apply(variables, x, train=False,
capture_intermediates=True, mutable="intermediates")``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.nn.conv import conv, symmetric_uniform
from zoo_jax.nn.depthwise import DepthwiseConv
from zoo_jax.nn.inception_resnet_v2 import BLOCKS, TAP_PADS, InceptionResNetV2Trunk
from zoo_jax.nn.mobilenet_v2 import MobileNetV2Trunk
from zoo_jax.nn.norm import NORM_MODES, USED_STATISTICS, InstanceNorm, NormMode
from zoo_jax.nn.resize import Pad, reflect_pad
from zoo_jax.nn.upsample_conv import (
    Conv3,
    ConvTranspose3,
    LateralKernel,
    Merged,
    Plain,
    Pyramid,
    Seen,
    Upsampled,
)

Decoder = Literal["dense", "separable"]
DECODERS: tuple[Decoder, ...] = ("dense", "separable")
NO_PADS = (Pad(),) * 5


class SeparableConv(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution in place of a dense 3x3; both have the bias."""

    features: int
    bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Applies both."""
        default = symmetric_uniform(1 / 3)  # nine inputs per output
        x = DepthwiseConv(
            3,
            kernel_init=default,
            bias_init=default if self.bias else None,
            dtype=self.dtype,
            name="depthwise",
        )(x)
        return conv(
            x, self.features, 1, bias=self.bias, dtype=self.dtype, name="pointwise"
        )


def _conv3(seen: Seen, features: int, decoder: Decoder, *, bias: bool, dtype, name):
    """A 3x3 convolution of the decoder, of either kind."""
    if decoder == "separable":
        return SeparableConv(features, bias, dtype, name=name)(seen.whole())
    return Conv3(features, bias, dtype, name=name)(seen)


class ConvNormRelu(nn.Module):
    """3x3 convolution, instance norm, ReLU."""

    features: int
    decoder: Decoder
    norm_mode: NormMode
    dtype: DTypeLike

    @nn.compact
    def __call__(self, seen: Seen, *, train: bool) -> Float[Array, "b h w d"]:
        """Applies the three."""
        x = _conv3(
            seen, self.features, self.decoder, bias=True, dtype=self.dtype, name="conv"
        )
        norm = InstanceNorm(mode=self.norm_mode, dtype=self.dtype, name="norm")
        return nn.relu(norm(x, train=train))


class Head(nn.Module):
    """Two 3x3 convolutions with ReLUs, without bias and norm."""

    features: int
    decoder: Decoder
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Applies both."""
        for name in ("conv0", "conv1"):
            y = _conv3(
                Plain(x),
                self.features,
                self.decoder,
                bias=False,
                dtype=self.dtype,
                name=name,
            )
            x = nn.relu(y)
        return x


class PyramidDecoder(nn.Module):
    """From five maps to the change of the image, before its tanh.

    Attributes:
      pyramid: Channels of the pyramid; half as many at stride 2.
      head: Channels of each head.
      decoder: ``"dense"`` or ``"separable"`` 3x3 convolutions.
      top_down_convs: Convolutions on the way down; the ``simple`` variant has none.
      pads: Mirrored borders that bring each map to its size, behind its 1x1 convolution.
      norm_mode: Of the instance norms.
      dtype: Compute dtype.
    """

    pyramid: int
    head: int
    decoder: Decoder
    top_down_convs: bool
    pads: tuple[Pad, ...]
    norm_mode: NormMode
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, taps: tuple[Float[Array, "b _ _ _"], ...], *, train: bool
    ) -> Float[Array, "b h w 3"]:
        """Merges the maps from the coarsest to the finest."""

        def conv_norm_relu(seen: Seen, features: int, name: str):
            layer = ConvNormRelu(
                features, self.decoder, self.norm_mode, self.dtype, name=name
            )
            return layer(seen, train=train)

        def merged(i: int, coarse: Array) -> Merged:
            features = self.pyramid if i else self.pyramid // 2
            layer = LateralKernel(taps[i].shape[-1], features, name=f"lateral{i}")
            fine = taps[i].astype(self.dtype)
            return Merged(fine, layer().astype(self.dtype), coarse, self.pads[i])

        x = conv(
            taps[4], self.pyramid, 1, bias=False, dtype=self.dtype, name="lateral4"
        )
        x = reflect_pad(x, self.pads[4]) if any(self.pads[4]) else x
        levels = {4: x}
        for i in (3, 2, 1):
            seen = merged(i, levels[i + 1])
            levels[i] = (
                conv_norm_relu(seen, self.pyramid, f"top_down{i}")
                if self.top_down_convs
                else seen.whole()
            )
        heads = [
            Head(self.head, self.decoder, self.dtype, name=f"head{i}")(levels[i])
            for i in (4, 3, 2, 1)
        ]
        x = conv_norm_relu(Pyramid(heads), self.head, "smooth")
        x = conv_norm_relu(merged(0, x), self.head // 2, "smooth2")
        return _conv3(
            Upsampled(x), 3, self.decoder, bias=True, dtype=self.dtype, name="final"
        )


def _add_change(
    x: Float[Array, "b h w 3"], change: Float[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    """The restored image. The clip stops gradients where it acts."""
    return jnp.clip(x + jnp.tanh(change.astype(jnp.float32)), -1.0, 1.0)


def _require_image(module: nn.Module, x: Array) -> None:
    """Raises `ConfigError` for a shape that the network cannot take."""
    if x.ndim != 4 or x.shape[-1] != 3:
        raise ConfigError(
            f"{type(module).__name__} takes RGB images [b, h, w, 3], got shape {x.shape}"
        )
    height, width = x.shape[1:3]
    if height % module.multiple or width % module.multiple:
        raise ConfigError(
            f"{type(module).__name__} takes heights and widths that are multiples of "
            f"{module.multiple}, got {height}x{width}: pad or crop the image"
        )
    if height < module.minimum or width < module.minimum:
        raise ConfigError(
            f"{type(module).__name__} takes images of at least {module.minimum}x"
            f"{module.minimum} pixels, got {height}x{width}: pad the image"
        )


class FPNMobileNet(nn.Module):
    """A feature pyramid on MobileNet-v2 that restores images. See `build_fpn_mobilenet`."""

    pyramid: int = 128
    head: int = 64
    width: float = 1.0
    decoder: Decoder = "dense"
    norm_mode: NormMode = "per_image"
    dtype: DTypeLike = jnp.float32

    multiple = 32
    minimum = 64  # at 32 the last map has one pixel and no variance

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> Float[Array, "b h w 3"]:
        """Returns the restored image. Raises `ConfigError` for sizes it cannot take."""
        _require_image(self, x)
        trunk = MobileNetV2Trunk(
            self.width, self.norm_mode, self.dtype, name="backbone"
        )
        decode = PyramidDecoder(
            pyramid=self.pyramid,
            head=self.head,
            decoder=self.decoder,
            top_down_convs=True,
            pads=NO_PADS,
            norm_mode=self.norm_mode,
            dtype=self.dtype,
            name="decoder",
        )
        return _add_change(x, decode(trunk(x, train=train), train=train))


class FPNInception(nn.Module):
    """A feature pyramid on Inception-ResNet-v2. See `build_fpn_inception`."""

    pyramid: int = 256
    head: int = 128
    blocks: tuple[int, int] = BLOCKS
    top_down_convs: bool = True
    norm_mode: NormMode = "per_image"
    dtype: DTypeLike = jnp.float32

    multiple = 32
    minimum = 128  # at 96 the last map has one pixel and cannot be mirrored

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> Float[Array, "b h w 3"]:
        """Returns the restored image. Raises `ConfigError` for sizes it cannot take."""
        _require_image(self, x)
        trunk = InceptionResNetV2Trunk(
            self.blocks, self.norm_mode, self.dtype, name="backbone"
        )
        decode = PyramidDecoder(
            pyramid=self.pyramid,
            head=self.head,
            decoder="dense",
            top_down_convs=self.top_down_convs,
            pads=TAP_PADS,
            norm_mode=self.norm_mode,
            dtype=self.dtype,
            name="decoder",
        )
        return _add_change(x, decode(trunk(x, train=train), train=train))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with mirrored borders and instance norms around the identity."""

    dropout: float
    norm_mode: NormMode
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Applies the block."""
        y = x
        for i in (0, 1):
            y = reflect_pad(y, Pad(1, 1, 1, 1))
            y = conv(y, x.shape[-1], 3, dtype=self.dtype, name=f"conv{i}")
            norm = InstanceNorm(mode=self.norm_mode, dtype=self.dtype, name=f"norm{i}")
            y = norm(y, train=train)
            if i == 0:
                y = nn.relu(y)
                y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return x + y


class ResNetGenerator(nn.Module):
    """The generator of the first DeblurGAN. See `build_resnet9`."""

    width: int = 64
    blocks: int = 9
    dropout: float = 0.5
    norm_mode: NormMode = "per_image"
    dtype: DTypeLike = jnp.float32

    multiple = 4
    minimum = 8  # two pixels at stride 4: fewer cannot be mirrored

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> Float[Array, "b h w 3"]:
        """Returns the restored image. Training draws dropout from the stream "dropout"."""
        _require_image(self, x)

        def norm_relu(x, name: str):
            norm = InstanceNorm(mode=self.norm_mode, dtype=self.dtype, name=name)
            return nn.relu(norm(x, train=train))

        y = reflect_pad(x, Pad(3, 3, 3, 3))
        y = conv(y, self.width, 7, dtype=self.dtype, name="stem")
        y = norm_relu(y, "stem_norm")
        for i in (1, 2):
            y = conv(
                y,
                self.width * 2**i,
                3,
                stride=2,
                padding=1,
                dtype=self.dtype,
                name=f"down{i}",
            )
            y = norm_relu(y, f"down{i}_norm")
        for i in range(self.blocks):
            block = ResidualBlock(
                self.dropout, self.norm_mode, self.dtype, name=f"block{i}"
            )
            y = block(y, train=train)
        for i in (1, 2):
            features = self.width * 2 ** (2 - i)
            y = ConvTranspose3(features, self.dtype, name=f"up{i}")(y)
            y = norm_relu(y, f"up{i}_norm")
        y = conv(reflect_pad(y, Pad(3, 3, 3, 3)), 3, 7, dtype=self.dtype, name="final")
        return _add_change(x, y)


class PlainResidual(nn.Module):
    """Residual blocks at full resolution, without norms. See `build_plain_residual`."""

    width: int = 32
    blocks: int = 2
    dtype: DTypeLike = jnp.float32

    multiple = 1
    minimum = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> Float[Array, "b h w 3"]:
        """Returns the restored image; `train` changes nothing."""
        del train
        _require_image(self, x)

        def conv3(x, features: int, name: str):
            return conv(x, features, 3, padding=1, dtype=self.dtype, name=name)

        y = nn.relu(conv3(x, self.width, "stem"))
        for i in range(self.blocks):
            z = nn.relu(conv3(y, self.width, f"block{i}_conv0"))
            y = y + conv3(z, self.width, f"block{i}_conv1")
        return _add_change(x, conv3(y, 3, "final"))


class Discriminator(nn.Module):
    """Scores overlapping patches of an image. See `build_discriminator`."""

    layers: int = 3
    width: int = 64
    norm_mode: NormMode = "per_image"
    dtype: DTypeLike = jnp.float32

    multiple = 1
    minimum = 2

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> Float[Array, "b i j 1"]:
        """Returns scores, any real numbers in float32; the higher, the more real."""
        _require_image(self, x)
        for i in range(self.layers + 1):
            x = conv(
                x,
                self.width * min(2**i, 8),
                4,
                stride=2 if i < self.layers else 1,
                padding=2,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            if i > 0:
                norm = InstanceNorm(
                    mode=self.norm_mode, dtype=self.dtype, name=f"norm{i}"
                )
                x = norm(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        x = conv(x, 1, 4, padding=2, dtype=self.dtype, name="score")
        return x.astype(jnp.float32)


def build_fpn_mobilenet(
    *,
    pyramid: int = 128,
    head: int = 64,
    width: float = 1.0,
    decoder: Decoder = "dense",
    norm_mode: NormMode = "per_image",
    dtype: DTypeLike = jnp.float32,
) -> FPNMobileNet:
    """Builds the fast generator, 2,106,627 parameters.

    Sides must be multiples of 32 and at least 64.

    Args:
      pyramid: Channels of the pyramid.
      head: Channels of each head: half of `pyramid`.
      width: Multiplies the channels of the backbone, which are rounded to multiples of 8.
      decoder: ``"separable"`` puts a depthwise and a 1x1 convolution in place of every 3x3 one of
        the decoder.
      norm_mode: Statistics that evaluation normalises by. ``"per_image"`` is what the
        published results were made with: also the batch norms see one image. Training uses
        them too; with ``"batch"`` and ``"running"`` its batch norms see the batch. Instance
        norms see one image except when ``"running"`` evaluates.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a value out of range.

    Source: arXiv 1908.03826, section 3.1, released code (``models/fpn_mobilenet.py``).
    """
    _require_pyramid(pyramid, head)
    _require_choices(norm_mode=(norm_mode, NORM_MODES), decoder=(decoder, DECODERS))
    if not width > 0:
        raise ConfigError(f"width must be above 0, got width={width}")
    return FPNMobileNet(pyramid, head, float(width), decoder, norm_mode, dtype)


def build_fpn_mobilenet_dsc(
    *,
    pyramid: int = 128,
    head: int = 64,
    width: float = 1.0,
    norm_mode: NormMode = "per_image",
    dtype: DTypeLike = jnp.float32,
) -> FPNMobileNet:
    """Builds the fastest generator: `build_fpn_mobilenet` with a depthwise-separable decoder.

    1,186,243 parameters. The paper names "MobileNet-DSC" and no code of it was released.
    This is our reading: all 3x3 convolutions of the decoder, the last one included, become a 3x3
    depthwise and a 1x1 convolution, both with a bias where the dense one has it. It takes
    9.6 billion multiply-adds at 736x1280; the paper's table says 14.8, so its variant differs.

    Arguments and errors as `build_fpn_mobilenet`.

    Source: arXiv 1908.03826, table 1.
    """
    return build_fpn_mobilenet(
        pyramid=pyramid,
        head=head,
        width=width,
        decoder="separable",
        norm_mode=norm_mode,
        dtype=dtype,
    )


def build_fpn_inception(
    *,
    pyramid: int = 256,
    head: int = 128,
    blocks: tuple[int, int] = BLOCKS,
    norm_mode: NormMode = "per_image",
    dtype: DTypeLike = jnp.float32,
) -> FPNInception:
    """Builds the generator of the best quality, 35,840,099 parameters.

    Sides must be multiples of 32 and at least 128.

    Args:
      pyramid: Channels of the pyramid.
      head: Channels of each head: half of `pyramid`.
      blocks: Residual blocks of the backbone at stride 8 and at stride 16; fewer than
        (10, 20) make a smaller network of the same kind.
      norm_mode: As of `build_fpn_mobilenet`.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a value out of range.

    Source: arXiv 1908.03826, section 3.1, released code (``models/fpn_inception.py``).
    """
    return _build_inception(pyramid, head, blocks, True, norm_mode, dtype)


def build_fpn_inception_simple(
    *,
    pyramid: int = 256,
    head: int = 128,
    blocks: tuple[int, int] = BLOCKS,
    norm_mode: NormMode = "per_image",
    dtype: DTypeLike = jnp.float32,
) -> FPNInception:
    """Builds `build_fpn_inception` without convolutions on the way down the pyramid.

    34,069,859 parameters. Arguments and errors as there.

    Source: released code of arXiv 1908.03826 (``models/fpn_inception_simple.py``).
    """
    return _build_inception(pyramid, head, blocks, False, norm_mode, dtype)


def _build_inception(
    pyramid, head, blocks, top_down_convs, norm_mode, dtype
) -> FPNInception:
    _require_pyramid(pyramid, head)
    _require_choices(norm_mode=(norm_mode, NORM_MODES))
    blocks = tuple(blocks)
    if len(blocks) != 2 or min(blocks) < 0:
        raise ConfigError(
            f"blocks must be two numbers of 0 or more, got blocks={blocks}"
        )
    return FPNInception(pyramid, head, blocks, top_down_convs, norm_mode, dtype)


def build_resnet9(
    *,
    width: int = 64,
    blocks: int = 9,
    dropout: float = 0.5,
    norm_mode: NormMode = "per_image",
    dtype: DTypeLike = jnp.float32,
) -> ResNetGenerator:
    """Builds the generator of the first DeblurGAN, the baseline: 11,378,179 parameters.

    Sides must be multiples of 4 and at least 8. Training needs ``rngs={"dropout": key}``.

    Args:
      width: Channels at full resolution; four times as many in the blocks.
      blocks: Residual blocks at a quarter of the resolution.
      dropout: Rate between the convolutions of each block; 0 trains without.
      norm_mode: As of `build_fpn_mobilenet`.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a value out of range.

    Source: arXiv 1711.07064, in the released code of arXiv 1908.03826.
    """
    _require_positive(width=width, blocks=blocks)
    _require_choices(norm_mode=(norm_mode, NORM_MODES))
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got dropout={dropout}")
    return ResNetGenerator(width, blocks, float(dropout), norm_mode, dtype)


def build_plain_residual(
    *, width: int = 32, blocks: int = 2, dtype: DTypeLike = jnp.float32
) -> PlainResidual:
    """Builds a plain residual network at full resolution, to compare pyramids with.

    It takes 18 blocks width^2 + 54 width multiply-adds per pixel: with the defaults 2.53
    billion at 256x256, where FPN-MobileNet takes 2.71. Any image size.

    Args:
      width: Channels.
      blocks: Of two 3x3 convolutions each.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a number below 1.
    """
    _require_positive(width=width, blocks=blocks)
    return PlainResidual(width, blocks, dtype)


def build_discriminator(
    *,
    layers: int = 3,
    width: int = 64,
    norm_mode: NormMode = "per_image",
    dtype: DTypeLike = jnp.float32,
) -> Discriminator:
    """Builds a discriminator: the patch one, 2,764,737 parameters.

    A score of it sees 70x70 pixels. It sees the image alone, without the blurred one.

    Args:
      layers: Convolutions of stride 2; with 5 (`build_full_discriminator`) a score sees
        almost all of a 256x256 image.
      width: Channels of the first convolution; they double up to eight times as many.
      norm_mode: ``"running"`` evaluates by running statistics; the others, and training,
        by those of each image.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a value out of range.

    Source: arXiv 1908.03826, section 3.2, released code (``models/networks.py``).
    """
    _require_positive(layers=layers, width=width)
    _require_choices(norm_mode=(norm_mode, NORM_MODES))
    return Discriminator(layers, width, norm_mode, dtype)


def build_full_discriminator(
    *,
    layers: int = 5,
    width: int = 64,
    norm_mode: NormMode = "per_image",
    dtype: DTypeLike = jnp.float32,
) -> Discriminator:
    """Builds the discriminator of nearly the full image, 11,154,369 parameters.

    Arguments, errors and source as `build_discriminator`.
    """
    return build_discriminator(
        layers=layers, width=width, norm_mode=norm_mode, dtype=dtype
    )


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {name}={value}")


def _require_choices(**values: tuple[Any, tuple[str, ...]]) -> None:
    for name, (value, choices) in values.items():
        if value not in choices:
            raise ConfigError(f"unknown {name} {value!r}: {closest(value, choices)}")


def _require_pyramid(pyramid: int, head: int) -> None:
    _require_positive(pyramid=pyramid, head=head)
    if pyramid != 2 * head or head % 2:
        raise ConfigError(
            "head must be even and half of pyramid, since both are added at stride 2, got "
            f"pyramid={pyramid}, head={head}"
        )


GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "fpn_mobilenet": build_fpn_mobilenet,
    "fpn_mobilenet_dsc": build_fpn_mobilenet_dsc,
    "fpn_inception": build_fpn_inception,
    "fpn_inception_simple": build_fpn_inception_simple,
    "resnet9": build_resnet9,
    "plain_residual": build_plain_residual,
}
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "patch_discriminator": build_discriminator,
    "full_discriminator": build_full_discriminator,
}


def make_generator(section: Mapping[str, Any]) -> nn.Module:
    """Builds the network of a config section ``dict(name="fpn_mobilenet", **arguments)``.

    Raises:
      ConfigError: for an unknown name, argument or dtype, or a value out of range.
    """
    return _make(GENERATORS, section, "model")


def make_discriminator(section: Mapping[str, Any]) -> nn.Module:
    """Builds a discriminator of ``dict(name="patch_discriminator", **arguments)``.

    Errors as `make_generator`.
    """
    return _make(DISCRIMINATORS, section, "discriminators")


def _make(
    builders: Mapping[str, Callable[..., nn.Module]],
    section: Mapping[str, Any],
    where: str,
) -> nn.Module:
    options = to_dict(section)
    name = options.pop("name", None)
    if name not in builders:
        raise ConfigError(f"unknown {where}.name {name!r}: {closest(name, builders)}")
    require_keys(options, inspect.signature(builders[name]).parameters, where)
    dtype = options.get("dtype", "float32")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"{where}.dtype must be float32 or bfloat16, got {dtype!r}")
    return builders[name](**options | {"dtype": jnp.dtype(dtype)})


def image_statistics(
    module: nn.Module, variables: Mapping[str, Any], x: Float[Array, "1 h w 3"]
) -> dict[str, Any]:
    """The statistics by which every norm normalises one image when it sees it alone.

    Put in place of ``variables["batch_stats"]`` and applied with ``norm_mode="running"``, they
    give the same output, also for parts of the image: tiles then agree at their seams.

    Args:
      module: A generator or a discriminator; its own `norm_mode` does not matter.
      variables: Its variables.
      x: One image in [-1, 1].

    Returns:
      The tree of ``variables["batch_stats"]``; empty for a network without norms.

    Raises:
      ConfigError: for more than one image, or a size that the network cannot take.
    """
    if x.shape[0] != 1:
        raise ConfigError(
            f"image_statistics takes one image, got a batch of {x.shape[0]}"
        )
    if not variables.get("batch_stats"):
        return {}
    alone = module.clone(norm_mode="per_image")
    _, state = alone.apply(variables, x, train=False, mutable=USED_STATISTICS)
    return jax.tree.map(lambda leaf: leaf[0], state[USED_STATISTICS])
