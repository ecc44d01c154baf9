"""The networks of Deep k-Means: Wide ResNet 16-4, LeNet-Caffe-5, and a small digits CNN.

CIFAR ResNets and GoogLeNet come from `zoo_jax.nn`.

All take NHWC images and return logits. Inner outputs can be had without code in the
modules: ``module.apply(variables, x, capture_intermediates=True, mutable="intermediates")``.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.nn.cifar_resnet import CifarResNet
from zoo_jax.nn.googlenet import INCEPTIONS, GoogLeNet
from zoo_jax.nn.matmul_conv import conv_by_matmul
from zoo_jax.nn.norm import BatchNorm

# Convolutions of the published network: Xavier-uniform with gain sqrt(2). Gain enters squared.
_XAVIER = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
_CONVOLUTIONS = ("direct", "matmul")
_HE = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def _torch_uniform(fan_in: int) -> Callable:
    """The default of PyTorch's linear layer: uniform within 1 / sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return nn.initializers.uniform(2 * bound)(key, shape, dtype) - bound

    return init


class WideBlock(nn.Module):
    """Pre-activation residual block with the stride on its second convolution."""

    features: int
    stride: int
    dropout: float
    bn_momentum: float
    project: bool  # a 1x1 convolution on the shortcut: first block of each group
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b i j d"]:
        """Applies the block."""

        def conv(size: int, stride: int, name: str) -> nn.Conv:
            pad = size // 2  # symmetric, as PyTorch; "SAME" pads (0, 1) at stride 2
            return nn.Conv(
                self.features,
                (size, size),
                strides=stride,
                padding=pad,
                kernel_init=_XAVIER,
                dtype=self.dtype,
                name=name,
            )

        def norm(name: str) -> BatchNorm:
            return BatchNorm(momentum=self.bn_momentum, dtype=self.dtype, name=name)

        y = conv(3, 1, "conv1")(nn.relu(norm("bn1")(x, train=train)))
        y = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(y)
        y = conv(3, self.stride, "conv2")(nn.relu(norm("bn2")(y, train=train)))
        # The shortcut sees the raw input, not relu(bn1(x)).
        return y + (conv(1, self.stride, "shortcut")(x) if self.project else x)


class WideResNet(nn.Module):
    """Wide ResNet for small images as the published Deep k-Means code builds it.

    Attributes:
      depth: 6 n + 4 layers with n blocks per group.
      widen: Width factor; the groups have 16, 32 and 64 times as many channels.
      dropout: Rate between the two convolutions of a block.
      num_classes: Number of logits.
      bn_momentum: Weight of the old running statistics in all norms; None takes the published
        values, 0.9 everywhere but in the last norm, which has 0.1.
      dtype: Compute dtype; parameters, statistics and logits are float32.
    """

    depth: int = 16
    widen: int = 4
    dropout: float = 0.3
    num_classes: int = 10
    bn_momentum: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics and dropout (rng ``"dropout"``)."""
        block_momentum, last_momentum = (
            (0.9, 0.1) if self.bn_momentum is None else (self.bn_momentum,) * 2
        )
        x = nn.Conv(
            16, (3, 3), padding=1, kernel_init=_XAVIER, dtype=self.dtype, name="conv1"
        )(x)
        for group, stride in enumerate((1, 2, 2)):
            for index in range((self.depth - 4) // 6):
                x = WideBlock(
                    features=16 * self.widen * 2**group,
                    stride=stride if index == 0 else 1,
                    dropout=self.dropout,
                    bn_momentum=block_momentum,
                    project=index == 0,
                    dtype=self.dtype,
                    name=f"layer{group + 1}_{index}",
                )(x, train=train)
        x = BatchNorm(momentum=last_momentum, dtype=self.dtype, name="bn1")(
            x, train=train
        )
        # The published 8x8 average pooling covers the whole map of a 32x32 image.
        x = jnp.mean(nn.relu(x).astype(jnp.float32), axis=(1, 2))  # b c
        init = _torch_uniform(x.shape[-1])
        return nn.Dense(
            self.num_classes, kernel_init=init, bias_init=init, name="linear"
        )(x)


class LeNetCaffe5(nn.Module):
    """LeNet as shipped with Caffe: 20 and 50 filters of 5x5, then 500 and 10 units.

    As there, the only ReLU stands behind the first dense layer; the convolutions are followed
    by max pooling alone. For 28x28x1 images.
    """

    num_classes: int = 10
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits. `train` changes nothing: there is no dropout and no norm."""
        del train
        init = nn.initializers.xavier_uniform()  # Caffe's "xavier" filler
        for index, features in enumerate((20, 50), 1):
            x = nn.Conv(
                features,
                (5, 5),
                padding="VALID",
                kernel_init=init,
                dtype=self.dtype,
                name=f"conv{index}",
            )(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)  # b (h w c)
        x = nn.Dense(500, kernel_init=init, dtype=self.dtype, name="ip1")(x)
        x = nn.Dense(self.num_classes, kernel_init=init, name="ip2")(nn.relu(x))
        return x.astype(jnp.float32)


class DigitsCNN(nn.Module):
    """All-convolutional digits classifier: 3x3 convolutions with batch norm, mean, linear.

    Ours, not the paper's: a network whose weights are nearly all in convolutions, so that
    compressing them compresses the file, and which a laptop trains in seconds.

    Attributes:
      widths: Channels of the convolutions.
      strides: Their strides, one each.
      num_classes: Number of logits.
      bn_momentum: Weight of the old running statistics; None means 0.9.
      convolution: "direct", or "matmul" (see `conv_by_matmul`) for many networks at once on
        CPUs.
      dtype: Compute dtype.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[int, ...] = (2, 2, 1, 2)
    num_classes: int = 10
    bn_momentum: float | None = None
    convolution: str = "direct"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` uses batch statistics."""
        momentum = 0.9 if self.bn_momentum is None else self.bn_momentum
        by_matmul = self.convolution == "matmul"
        for index, (features, stride) in enumerate(
            zip(self.widths, self.strides, strict=True), 1
        ):
            x = nn.Conv(
                features,
                (3, 3),
                strides=stride,
                padding=1,
                use_bias=False,  # the norm that follows has one
                kernel_init=_HE,
                dtype=self.dtype,
                conv_general_dilated=conv_by_matmul if by_matmul else None,
                name=f"conv{index}",
            )(x)
            x = BatchNorm(momentum=momentum, dtype=self.dtype, name=f"bn{index}")(
                x, train=train
            )
            x = nn.relu(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # b c
        return nn.Dense(self.num_classes, name="linear")(x)


def build_wide_resnet(
    *,
    depth: int = 16,
    widen: int = 4,
    dropout: float = 0.3,
    num_classes: int = 10,
    dtype: DTypeLike = jnp.float32,
) -> WideResNet:
    """Builds the Wide ResNet of the published code (16-4 for CIFAR-10 by default).

    It differs from the usual Wide ResNet: stride on the second convolution and on the
    shortcut, shortcut from the raw input, a bias in every convolution. Input: 32x32 RGB,
    normalised by the mean (.4914, .4822, .4465) and deviation (.2023, .1994, .2010).

    Args:
      depth: 6 n + 4.
      widen: Width factor.
      dropout: Rate in [0, 1).
      num_classes: Number of logits.
      dtype: Compute dtype.

    Raises:
      ConfigError: if `depth` is not 6 n + 4 or a number is out of range.

    Source: arXiv 1806.09228, released code. Initialisation: of the repository from which that
    code took the network (Xavier-uniform with gain sqrt 2); its own is not published.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ConfigError(
            f"depth must be 6 n + 4 (10, 16, 22, 28, ...), got depth={depth}"
        )
    _require_positive(widen=widen, num_classes=num_classes)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got dropout={dropout}")
    return WideResNet(
        depth=depth, widen=widen, dropout=dropout, num_classes=num_classes, dtype=dtype
    )


def build_lenet_caffe_5(
    *, num_classes: int = 10, dtype: DTypeLike = jnp.float32
) -> LeNetCaffe5:
    """Builds LeNet-Caffe-5 for 28x28x1 digits in [0, 1].

    Source: the paper's small network; layer sizes as in Caffe's MNIST example.
    """
    _require_positive(num_classes=num_classes)
    return LeNetCaffe5(num_classes=num_classes, dtype=dtype)


def build_digits_cnn(
    *,
    widths: tuple[int, ...] = (16, 32, 64, 128),
    strides: tuple[int, ...] = (2, 2, 1, 2),
    num_classes: int = 10,
    convolution: str = "direct",
    dtype: DTypeLike = jnp.float32,
) -> DigitsCNN:
    """Builds the small digits network for 28x28x1 (or 8x8x1, with smaller strides) images.

    Raises:
      ConfigError: if `widths` and `strides` differ in length, a number is not positive, or
        there is no such `convolution`.
    """
    if convolution not in _CONVOLUTIONS:
        hint = closest(convolution, _CONVOLUTIONS)
        raise ConfigError(f"unknown convolution {convolution!r}: {hint}")
    widths, strides = tuple(widths), tuple(strides)
    if not widths or len(widths) != len(strides):
        raise ConfigError(
            f"widths and strides need one entry per convolution, got widths={widths}, "
            f"strides={strides}"
        )
    _require_positive(
        num_classes=num_classes, **{f"widths[{i}]": w for i, w in enumerate(widths)}
    )
    _require_positive(**{f"strides[{i}]": s for i, s in enumerate(strides)})
    return DigitsCNN(
        widths=widths,
        strides=strides,
        num_classes=num_classes,
        convolution=convolution,
        dtype=dtype,
    )


def build_cifar_resnet(
    *, depth: int = 20, num_classes: int = 10, dtype: DTypeLike = jnp.float32
) -> CifarResNet:
    """Builds a residual network for CIFAR-10 with parameter-free shortcuts (option A).

    Input: 32x32 RGB, normalised by the mean (.485, .456, .406) and deviation (.229, .224,
    .225), as for the published weights of akamaster/pytorch_resnet_cifar10.

    Args:
      depth: 6 n + 2: 20, 32, 44, 56, 110.
      num_classes: Number of logits.
      dtype: Compute dtype.

    Raises:
      ConfigError: if `depth` is not 6 n + 2 or a number is out of range.

    Source: arXiv 1512.03385, section 4.2. The paper on Deep k-Means names ResNets in its
    abstract only; which ones is not known to us.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(
            f"depth must be 6 n + 2 (8, 14, 20, 32, 56, ...), got depth={depth}"
        )
    _require_positive(num_classes=num_classes)
    return CifarResNet(depth=depth, num_classes=num_classes, dtype=dtype)


build_cifar_resnet_56 = functools.partial(build_cifar_resnet, depth=56)


def build_googlenet(
    *,
    num_classes: int = 1000,
    num_blocks: int = len(INCEPTIONS),
    dropout: float = 0.2,
    aux: bool = False,
    transform_input: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> GoogLeNet:
    """Builds GoogLeNet for ImageNet in the layout of torchvision's published weights.

    Input: 224x224 RGB, normalised by the mean (.485, .456, .406) and deviation (.229, .224,
    .225). 6,624,904 parameters, 13,004,888 with the auxiliary heads.

    Args:
      num_classes: Number of logits.
      num_blocks: Inception blocks, 1 to 9; fewer than 9 make a small network for trials.
      dropout: Rate in [0, 1) before the last layer.
      aux: Adds the auxiliary heads; without them the published file's are ignored.
      transform_input: True for the published weights, which expect (x - 0.5) / 0.5. False
        takes the input as it comes.
      dtype: Compute dtype.

    Raises:
      ConfigError: for a number out of range.

    Source: arXiv 1409.4842; the network that the abstract of arXiv 1806.09228 names.
    """
    _require_positive(num_classes=num_classes)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got dropout={dropout}")
    needed = 6 if aux else 1  # the second head stands behind the sixth block
    if not needed <= num_blocks <= len(INCEPTIONS):
        raise ConfigError(
            f"num_blocks must be within {needed}..{len(INCEPTIONS)} with aux={aux}, got "
            f"num_blocks={num_blocks}"
        )
    return GoogLeNet(
        num_classes=num_classes,
        num_blocks=num_blocks,
        dropout=dropout,
        aux=aux,
        transform_input=transform_input,
        dtype=dtype,
    )


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {name}={value}")


MODELS: dict[str, Callable[..., nn.Module]] = {
    "wide_resnet_16_4": build_wide_resnet,
    "lenet_caffe_5": build_lenet_caffe_5,
    "digits_cnn": build_digits_cnn,
    "cifar_resnet_20": build_cifar_resnet,
    "cifar_resnet_56": build_cifar_resnet_56,
    "googlenet": build_googlenet,
}


def make_module(model: Mapping[str, Any]) -> nn.Module:
    """Builds the network of a config section ``dict(name=..., **arguments of its builder)``.

    Raises:
      ConfigError: for an unknown name, argument or dtype.
    """
    options = to_dict(model)
    name = options.pop("name", None)
    if name not in MODELS:
        raise ConfigError(f"unknown model.name {name!r}: {closest(name, MODELS)}")
    require_keys(options, inspect.signature(MODELS[name]).parameters, "model")
    dtype = options.get("dtype", "float32")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"model.dtype must be float32 or bfloat16, got {dtype!r}")
    return MODELS[name](**options | {"dtype": jnp.dtype(dtype)})
