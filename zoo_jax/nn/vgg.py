"""VGG networks: the classifiers, and one of their convolutions as a measure of likeness."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.conv import conv
from zoo_jax.nn.pool import adaptive_mean_pool

# Convolutions of the five stages. Source: arXiv 1409.1556, table 1, columns D and E.
VGG16, VGG19 = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
POOLED = 7  # side of the map that the linear layers see


def vgg_layers(counts: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the convolutions: ``conv1_1``, ..."""
    return tuple(
        f"conv{stage}_{i}"
        for stage, count in enumerate(counts, 1)
        for i in range(1, count + 1)
    )


VGG19_LAYERS = vgg_layers(VGG19)


def _convolve(
    x: Array, name: str, width: int, dtype: DTypeLike
) -> Float[Array, "b i j c"]:
    """The convolution `name`, behind a pooling if it is the first of a later stage."""
    stage, index = map(int, name.removeprefix("conv").split("_"))
    if index == 1 and stage > 1:
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
    features = width * 2 ** min(stage - 1, 3)
    return conv(x, features, 3, padding=1, dtype=dtype, name=name)


class Vgg19Features(nn.Module):
    """VGG-19 up to and with one convolution, before its ReLU.

    Attributes:
      upto: One of `VGG19_LAYERS`; ``"conv3_3"`` is torchvision's ``features[0..14]``.
      dtype: Compute dtype; parameters and the output are float32.
    """

    upto: str = "conv3_3"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b i j c"]:
        """Returns features of RGB images normalised by ImageNet's mean and deviation."""
        if self.upto not in VGG19_LAYERS:
            raise ValueError(f"upto must be one of VGG19_LAYERS, got {self.upto!r}")
        for name in VGG19_LAYERS:
            x = _convolve(x, name, 64, self.dtype)
            if name == self.upto:
                break
            x = nn.relu(x)
        return x.astype(jnp.float32)


class VGG(nn.Module):
    """A VGG classifier.

    Images of other than 224x224 pixels are pooled to the 7x7 map that the linear layers
    take, as in torchvision.

    Attributes:
      counts: Convolutions of the five stages: `VGG16`, `VGG19`.
      width: Channels of the first stage; 64 in the published networks.
      hidden: Width of the two linear layers; 4096 in the published networks.
      num_classes: Number of logits.
      dropout: Rate behind each of the two.
      variant: Whose names the published file has; the network is the same.
      dtype: Compute dtype; parameters and logits are float32.

    Source: arXiv 1409.1556, table 1.
    """

    counts: tuple[int, ...] = VGG16
    width: int = 64
    hidden: int = 4096
    num_classes: int = 1000
    dropout: float = 0.5
    variant: Literal["torchvision", "keras"] = "torchvision"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits; `train` switches dropout on (rng ``"dropout"``)."""
        for name in vgg_layers(self.counts):
            x = nn.relu(_convolve(x, name, self.width, self.dtype))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        if x.shape[1:3] != (POOLED, POOLED):
            x = adaptive_mean_pool(x, POOLED)
        x = x.reshape(len(x), -1)  # b (h w c)
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="predictions")(x)
        return x.astype(jnp.float32)
