"""VGG-19 as a measure of likeness: the output of one of its convolutions."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.nn.conv import conv

# Channels and number of convolutions between poolings. Source: arXiv 1409.1556, table 1, column E.
STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
VGG19_LAYERS = tuple(
    f"conv{stage}_{i}"
    for stage, (_, count) in enumerate(STAGES, 1)
    for i in range(1, count + 1)
)


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
            stage, index = int(name[4]), int(name[6])
            if index == 1 and stage > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            features = STAGES[stage - 1][0]
            x = conv(x, features, 3, padding=1, dtype=self.dtype, name=name)
            if name == self.upto:
                break
            x = nn.relu(x)
        return x.astype(jnp.float32)
