"""The enhancing networks of UG^2: SRNet, SRCNN, VDSR, AR-CNN, and two small helpers.

Enhancers take and return images of one size, NHWC, in [0, 1] before and about [0, 1] behind.
What makes pictures of their outputs (colour, clipping, histogram) is in `restorer`. Inner
outputs can be had with ``module.apply(variables, x, capture_intermediates=True,
mutable="intermediates")``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.nn.conv import conv
from zoo_jax.nn.norm import BatchNorm

Start = Literal["uniform", "dirac"]
Form = Literal["normal", "fast"]
STARTS: tuple[Start, ...] = ("uniform", "dirac")
FORMS: tuple[Form, ...] = ("normal", "fast")

_HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_THOUSANDTH = nn.initializers.normal(1e-3)


def dirac(key: Any, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """A kernel [h, w, c, d] that hands channel i to channel i, for i below c and d.

    Source: PyTorch's ``nn.init.dirac_``.
    """
    del key
    height, width, inputs, outputs = shape
    kernel = jnp.zeros(shape, dtype)
    return kernel.at[height // 2, width // 2].set(jnp.eye(inputs, outputs, dtype=dtype))


class ConvNorm(nn.Module):
    """A 3x3 convolution without bias, then batch norm."""

    features: int
    start: Start
    momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w d"]:
        """Applies both."""
        x = _conv(x, self.features, 3, "conv", self.start, self.dtype)
        norm = BatchNorm(momentum=self.momentum, dtype=self.dtype, name="bn")
        return norm(x, train=train)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norms and one ReLU between them, added to the input."""

    start: Start
    momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Applies the block; no ReLU behind the sum."""
        y = x
        for i in (1, 2):
            y = _conv(y, x.shape[-1], 3, f"conv{i}", self.start, self.dtype)
            norm = BatchNorm(momentum=self.momentum, dtype=self.dtype, name=f"bn{i}")
            y = norm(y, train=train)
            if i == 1:
                y = nn.relu(y)
        return x + y


class SRNet(nn.Module):
    """A residual restorer with batch norm on its output.

    That last norm shifts the colours of the output; the published pipeline undoes it by matching the
    output's histograms to those of the input.

    Attributes:
      features: Channels inside.
      blocks: Residual blocks.
      start: Fresh kernels: ``"uniform"`` as PyTorch draws them, or the identity, ``"dirac"``.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      dtype: Compute dtype; parameters, statistics and the output are float32.
    """

    features: int = 64
    blocks: int = 4
    start: Start = "uniform"
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b h w 3"]:
        """Returns restored images of any real values; `train` uses batch statistics."""
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        common = (self.start, momentum, self.dtype)

        def norm(x, name: str):
            layer = BatchNorm(momentum=momentum, dtype=self.dtype, name=name)
            return layer(x, train=train)

        x = _conv(x, self.features, 9, "conv1", self.start, self.dtype)
        x = nn.relu(norm(x, "bn1"))
        for i in range(1, self.blocks + 1):
            x = ResidualBlock(*common, name=f"res_block{i}")(x, train=train)
        x = nn.relu(ConvNorm(self.features, *common, name="conv3")(x, train=train))
        x = _conv(x, 3, 9, "conv4", self.start, self.dtype)
        return norm(x, "bn4").astype(jnp.float32)


class SRCNN(nn.Module):
    """Three convolutions, 9x9, 1x1 and 5x5, on an image that has been enlarged already.

    Attributes:
      channels: Of the image; 1 is luma.
      dtype: Compute dtype; parameters and the output are float32.
    """

    channels: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns the sharper image."""
        del train
        layers = ((64, 9), (32, 1), (self.channels, 5))
        for i, (features, size) in enumerate(layers, 1):
            x = _biased(x, features, size, f"conv{i}", self.dtype)
            if i < 3:
                x = nn.relu(x)
        return x.astype(jnp.float32)


class VDSR(nn.Module):
    """Twenty 3x3 convolutions that estimate what an enlarged image lacks.

    Attributes:
      depth: Convolutions.
      features: Channels inside.
      channels: Of the image; 1 is luma.
      dtype: Compute dtype; parameters and the output are float32.
    """

    depth: int = 20
    features: int = 64
    channels: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns the image with what it lacked."""
        del train
        y = x
        for i in range(self.depth):
            last = i == self.depth - 1
            features = self.channels if last else self.features
            y = conv(
                *(y, features, 3),
                padding=1,
                bias=False,
                kernel_init=_HE,
                dtype=self.dtype,
                name="input" if i == 0 else "output" if last else f"residual{i - 1}",
            )
            if not last:
                y = nn.relu(y)
        return x + y.astype(jnp.float32)


class ARCNN(nn.Module):
    """A network against the blocks and rings that JPEG leaves.

    ``"normal"``: convolutions 9-7-1-5. ``"fast"``: an hourglass at half the resolution, a 9x9
    convolution of stride 2, 1x1, 7x7, 1x1, and a 9x9 transposed convolution; images of an odd
    height or width gain a row or column that is cut off again.

    Attributes:
      channels: Of the image; 1 is luma.
      form: ``"normal"`` or ``"fast"``.
      dtype: Compute dtype; parameters and the output are float32.
    """

    channels: int = 1
    form: Form = "normal"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns the image without artefacts."""
        del train
        h, w = x.shape[1:3]
        layers = AR_CNN_LAYERS[self.form]
        fast = self.form == "fast"
        if fast:
            x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        for i, (features, size, stride) in enumerate(layers):
            x = _biased(x, features, size, f"conv{i + 1}", self.dtype, stride)
            start = nn.initializers.constant(0.25)
            slope = self.param(f"slope{i + 1}", start, (1,), jnp.float32)
            slope = slope.astype(x.dtype).reshape(1, 1, 1, 1)
            x = jnp.where(x > 0, x, slope * x)
        if not fast:
            return _biased(x, self.channels, 5, "last", self.dtype).astype(jnp.float32)
        x = nn.ConvTranspose(
            self.channels,
            (9, 9),
            strides=(2, 2),
            padding=((4, 5), (4, 5)),  # PyTorch's padding 4 and output padding 1
            kernel_init=_THOUSANDTH,
            dtype=self.dtype,
            name="last",
        )(x)
        return x[:, :h, :w].astype(jnp.float32)


# Per form: features, size and stride of the convolutions before the last.
AR_CNN_LAYERS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "normal": ((64, 9, 1), (32, 7, 1), (16, 1, 1)),
    "fast": ((64, 9, 2), (32, 1, 1), (32, 7, 1), (64, 1, 1)),
}


class SmallCnn(nn.Module):
    """A classifier of small pictures: the recogniser of the study, and a source of features.

    Four 3x3 convolutions with batch norm, two poolings, a mean over the image, one linear layer.

    Attributes:
      num_classes: Logits.
      width: Channels of the first convolution; the others have two and four times as many.
      dtype: Compute dtype; parameters, statistics and outputs are float32.
    """

    num_classes: int = 10
    width: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> tuple[Float[Array, "b k"], Float[Array, "b i j c"]]:
        """Returns logits of RGB in [0, 1], and the map behind the second convolution."""
        features = None
        for i, times in enumerate((1, 2, 2, 4), 1):
            x = conv(
                *(x, times * self.width, 3),
                padding=1,
                bias=False,
                kernel_init=_HE,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{i}")(x, train=train))
            if i in (2, 3):
                features = x if i == 2 else features
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        logits = nn.Dense(self.num_classes, name="classify")(x)
        return logits, features.astype(jnp.float32)


class Critic(nn.Module):
    """Scores patches: convolutions of stride 2 with leaky ReLUs, no norms.

    Attributes:
      width: Channels of the first convolution, doubled by each further one.
      layers: Convolutions before the one that scores.
      dtype: Compute dtype; parameters and scores are float32.
    """

    width: int = 32
    layers: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b i j"]:
        """Returns a map of logits; the higher, the more real."""
        del train
        for i in range(self.layers):
            x = conv(
                *(x, self.width * 2**i, 4),
                stride=2,
                padding=1,
                dtype=self.dtype,
                name=f"conv{i + 1}",
            )
            x = nn.leaky_relu(x, 0.2)
        x = conv(x, 1, 3, padding=1, dtype=self.dtype, name="score")
        return x[..., 0].astype(jnp.float32)


def _conv(x, features: int, size: int, name: str, start: Start, dtype: DTypeLike):
    return conv(
        *(x, features, size),
        padding=size // 2,
        bias=False,
        kernel_init=dirac if start == "dirac" else None,
        dtype=dtype,
        name=name,
    )


def _biased(x, features: int, size: int, name: str, dtype: DTypeLike, stride: int = 1):
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        kernel_init=_THOUSANDTH,
        dtype=dtype,
        name=name,
    )(x)


def build_srnet(
    *,
    features: int = 64,
    blocks: int = 4,
    start: Start = "uniform",
    dtype: DTypeLike = jnp.float32,
) -> SRNet:
    """Builds the recognition-driven restorer of the 2018 challenge, 364,166 parameters.

    Args:
      features: Channels inside.
      blocks: Residual blocks.
      start: ``"uniform"``, or ``"dirac"``, with which it begins near the identity.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a number below 1 or another start.

    Source: a participant's released code, attributed to Northwestern University by inference.
    """
    _require_positive(features=features, blocks=blocks)
    _require_choice(start, STARTS, "start")
    return SRNet(features=features, blocks=blocks, start=start, dtype=dtype)


def build_srcnn(*, channels: int = 1, dtype: DTypeLike = jnp.float32) -> SRCNN:
    """Builds SRCNN 9-1-5 with 64 and 32 channels, 8,129 parameters.

    Source: arXiv 1501.00092; zero padding keeps the size, where the paper loses 12 pixels.
    """
    _require_channels(channels)
    return SRCNN(channels=channels, dtype=dtype)


def build_vdsr(
    *,
    depth: int = 20,
    features: int = 64,
    channels: int = 1,
    dtype: DTypeLike = jnp.float32,
) -> VDSR:
    """Builds VDSR: 20 convolutions without bias, 664,704 parameters.

    Source: arXiv 1511.04587; without bias as in its best-known PyTorch port.

    Raises:
      ConfigError: for fewer than 2 convolutions or a number below 1.
    """
    if depth < 2:
        raise ConfigError(f"depth must be 2 or more, got depth={depth}")
    _require_positive(features=features)
    _require_channels(channels)
    return VDSR(depth=depth, features=features, channels=channels, dtype=dtype)


def build_arcnn(
    *, channels: int = 1, form: Form = "normal", dtype: DTypeLike = jnp.float32
) -> ARCNN:
    """Builds AR-CNN, 106,564 parameters, or its fast form, 64,837, both with biases.

    Source: arXiv 1608.02778 (slopes behind convolutions are learned there). The sizes of the
    fast form are those of its PyTorch port; the paper's own were not at hand.

    Raises:
      ConfigError: for another form or number of channels.
    """
    _require_channels(channels)
    _require_choice(form, FORMS, "form")
    return ARCNN(channels=channels, form=form, dtype=dtype)


def build_small_cnn(
    *, num_classes: int = 10, width: int = 32, dtype: DTypeLike = jnp.float32
) -> SmallCnn:
    """Builds the small recogniser; ours."""
    _require_positive(num_classes=num_classes, width=width)
    return SmallCnn(num_classes=num_classes, width=width, dtype=dtype)


def build_critic(
    *, width: int = 32, layers: int = 3, dtype: DTypeLike = jnp.float32
) -> Critic:
    """Builds the critic of the adversarial reconstruction; ours."""
    _require_positive(width=width, layers=layers)
    return Critic(width=width, layers=layers, dtype=dtype)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {name}={value}")


def _require_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ConfigError(f"channels must be 1 (luma) or 3, got channels={channels}")


def _require_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        raise ConfigError(f"unknown {name} {value!r}: {closest(value, choices)}")


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "arcnn": build_arcnn,
    "srcnn": build_srcnn,
    "srnet": build_srnet,
    "vdsr": build_vdsr,
}


def make_network(section: Mapping[str, Any], *, where: str = "model") -> nn.Module:
    """Builds an enhancer of a config section ``dict(name="srnet", **arguments)``.

    Raises:
      ConfigError: for an unknown name, argument or dtype.
    """
    options = to_dict(section)
    name = options.pop("name", None)
    if name not in NETWORKS:
        raise ConfigError(f"unknown {where}.name {name!r}: {closest(name, NETWORKS)}")
    return _build(NETWORKS[name], options, where)


def make_small_cnn(section: Mapping[str, Any]) -> SmallCnn:
    """Builds the small recogniser of a config section; errors as `make_network`."""
    return _build(build_small_cnn, to_dict(section), "recogniser")


def make_critic(section: Mapping[str, Any]) -> Critic:
    """Builds the critic of a config section; errors as `make_network`."""
    return _build(build_critic, to_dict(section), "critic")


def _build(build: Callable[..., Any], options: dict[str, Any], where: str) -> Any:
    require_keys(options, inspect.signature(build).parameters, where)
    dtype = options.get("dtype", "float32")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"{where}.dtype must be float32 or bfloat16, got {dtype!r}")
    return build(**options | {"dtype": jnp.dtype(dtype)})
