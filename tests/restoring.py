"""Small restoring networks and pictures for tests, made without compiling anything."""

import jax.numpy as jnp
import numpy as np

from zoo_jax import models
from zoo_jax.core.tree import map_named

PYRAMID = "deblurgan_v2/fpn_mobilenet", dict(pyramid=8, head=4, width=0.25)
# Instance norms too, and quick to compile.
RESNET = "deblurgan_v2/resnet9", dict(width=4, blocks=1)
DNCNN = "u_said/dncnn", dict(depth=4, features=8)


def random_model(name, *, seed=0, gain=1.0, dtype="float32", **overrides):
    """A model whose kernels are about `gain` / sqrt(inputs), with norms that do something.

    The last kernel of a generator is a tenth of that: the change of a picture is moderate.
    """
    module = models.build_module(name, dtype=dtype, **overrides)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path.endswith("kernel"):
            inputs = np.prod(leaf.shape[:-1]) * (100 if "final" in path else 1)
            return jnp.asarray(
                rng.normal(0, gain / inputs**0.5, leaf.shape), leaf.dtype
            )
        near = 1.0 if path.endswith(("scale", "var")) else 0.0
        return jnp.asarray(near + rng.uniform(-0.1, 0.1, leaf.shape), leaf.dtype)

    shapes = models.abstract_variables(name, module)
    return models.Model(name, module, map_named(draw, shapes))


def noise(h, w, *, b=1, seed=0):
    """Pictures of independent bytes [b, h, w, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (b, h, w, 3), np.uint8)


def smooth(h, w, *, seed=0):
    """A blurred texture [1, h, w, 3] in [0, 1]: much the same everywhere, as a photo is not."""
    x = np.random.default_rng(seed).uniform(size=(1, h + 8, w + 8, 3))
    for axis in (1, 2):
        x = sum(np.roll(x, i, axis) for i in range(9)) / 9
    x = x[:, 8:, 8:]
    return ((x - x.min()) / (x.max() - x.min())).astype(np.float32)
