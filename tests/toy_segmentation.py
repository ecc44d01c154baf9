"""A segmentation network of two layers that compiles at once: a trunk with a norm, and a head."""

import flax.linen as nn

from zoo_jax.nn.norm import BatchNorm


class Trunk(nn.Module):
    """One convolution to a quarter of the size, with a batch norm."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(6, (4, 4), strides=4, padding="SAME", name="conv1")(x)
        return nn.relu(BatchNorm(momentum=0.9, name="bn1")(x, train=train))


class ToySegmentation(nn.Module):
    """In the place of the pyramid: the same names at the top, the same shapes."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train=False):
        x = Trunk(name="resnet")(x, train=train)
        return nn.Conv(self.num_classes, (1, 1), name="classify")(x)


def make_toy(section):
    """What `make_segmentation` is replaced by."""
    return ToySegmentation(num_classes=section["num_classes"])
