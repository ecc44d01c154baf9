"""What a generator costs, whatever form a backend computes its convolutions in."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zoo_jax.metrics.cost import count_macs


def generator_macs(
    module: Any, variables: Mapping[str, Any], height: int, width: int
) -> int:
    """Multiply-adds of all convolutions for one image, as papers count them.

    Every entry of a kernel counts once per output pixel (of a transposed convolution, per
    input pixel).

    Args:
      module: A generator.
      variables: Its variables, or their shapes; nothing is computed.
      height: Of the image; a size that the network takes.
      width: Of the image.

    >>> from zoo_jax.methods.deblurgan_v2.model import build_plain_residual
    >>> module = build_plain_residual(width=4, blocks=1)
    >>> x = jnp.zeros((1, 8, 8, 3))
    >>> variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    >>> generator_macs(module, variables, 8, 8) == 8 * 8 * 9 * (3 * 4 + 2 * 4 * 4 + 4 * 3)
    True
    """
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return count_macs(
        lambda variables, x: module.apply(variables, x, train=False), variables, image
    )
