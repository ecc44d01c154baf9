"""SqueezeNet 1.0, as its Caffe file describes it."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.conv import conv
from zoo_jax.nn.pool import ceil_max_pool

# (squeeze, each half of the expansion) of fire2 to fire9. Source: arXiv 1602.07360, table 1.
FIRES = (
    (16, 64),
    (16, 64),
    (32, 128),
    (32, 128),
    (48, 192),
    (48, 192),
    (64, 256),
    (64, 256),
)
_POOLED = (4, 8)  # the fires behind which a pooling stands


class SqueezeNet(nn.Module):
    """A classifier of 1x1 and 3x3 convolutions without a linear layer.

    The input is BGR in [0, 255] minus (104, 117, 123), of about 227x227 pixels. Poolings round up;
    the last convolution pads by one, so that its border is ReLU(bias) and counts in the mean.

    Attributes:
      stem: Channels of the first convolution.
      fires: Channels of the fire modules, from ``fire2`` on.
      num_classes: Number of scores.
      dropout: Rate before the last convolution.
      dtype: Compute dtype; parameters and scores are float32.

    Source: arXiv 1602.07360, released prototxt.
    """

    stem: int = 96
    fires: tuple[tuple[int, int], ...] = FIRES
    num_classes: int = 1000
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns scores, never negative; `train` switches dropout on (rng ``"dropout"``)."""

        def relu_conv(x, features: int, size: int, name: str, **options):
            return nn.relu(
                conv(x, features, size, dtype=self.dtype, name=name, **options)
            )

        x = relu_conv(x, self.stem, 7, "conv1", stride=2)
        x = ceil_max_pool(x, 3, 2)
        for number, (squeeze, expand) in enumerate(self.fires, 2):
            name = f"fire{number}"
            x = relu_conv(x, squeeze, 1, f"{name}_conv1x1_1")
            halves = (
                relu_conv(x, expand, 1, f"{name}_conv1x1_2"),
                relu_conv(x, expand, 3, f"{name}_conv3x3_2", padding=1),
            )
            x = jnp.concatenate(halves, axis=-1)
            if number in _POOLED:
                x = ceil_max_pool(x, 3, 2)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = relu_conv(x, self.num_classes, 1, "conv_final", padding=1)
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
