"""What a generator costs, whatever form a backend computes its convolutions in."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zoo_jax.core.tree import named_leaves


def generator_macs(
    module: Any, variables: Mapping[str, Any], height: int, width: int
) -> int:
    """Multiply-adds of all convolutions for one image, as papers count them.

    Every entry of a kernel counts once per output pixel (of a transposed convolution, per
    input pixel). Counting products in the traced program would miss depthwise convolutions,
    which a CPU computes as sums of shifted products.

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
    inserted: dict[str, int] = {}  # output pixels per input pixel, by layer

    def keep(layer: Any, method: str) -> bool:
        if method == "__call__" and type(layer).__name__ == "ConvTranspose":
            inserted["/".join(layer.path)] = math.prod(layer.strides)
        return method == "__call__"

    def outputs(variables: Any, x: Any) -> Any:
        _, state = module.apply(
            variables,
            x,
            train=False,
            capture_intermediates=keep,
            mutable=["intermediates"],
        )
        return state["intermediates"]

    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    shapes = named_leaves(jax.eval_shape(outputs, variables, image))
    total = 0
    for name, leaf in named_leaves(variables["params"]).items():
        layer, _, last = name.rpartition("/")
        if last != "kernel":
            continue
        output = shapes[f"{layer}/__call__/0"].shape
        total += (
            math.prod(leaf.shape[:-1]) * math.prod(output) // inserted.get(layer, 1)
        )
    return total
