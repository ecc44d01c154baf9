"""The ways to pad an image for a generator that published numbers rest on, and ours."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, UInt8

from zoo_jax.methods.deblurgan_v2.restorer import reference_side


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an image of any size goes through a network, and becomes 8 bits again.

    Networks that normalise by the statistics of their input see the padding too, so it
    changes the whole image.
    """

    grows: bool  # an exact multiple grows too, by `reference_side`
    centred: bool  # half on each side; or all at the bottom and on the right
    mirrored: bool  # or mid-grey, which is 0 for the network
    truncated: bool  # or rounded


# Source: released code of arXiv 1908.03826: predict.py, and test_metrics.py, which pads 720x1280
# to 736x1280 and is read here as a rule for other sizes. "reflect" is ours.
PROTOCOLS: dict[str, Protocol] = {
    "predict": Protocol(grows=True, centred=False, mirrored=False, truncated=True),
    "test_metrics": Protocol(grows=False, centred=True, mirrored=True, truncated=True),
    "reflect": Protocol(grows=False, centred=False, mirrored=True, truncated=False),
}


def padding(
    protocol: str, height: int, width: int, *, multiple: int = 32, minimum: int = 1
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels added (above, below) and (left, right) of an image under a protocol.

    >>> padding("predict", 720, 1280), padding("test_metrics", 720, 1280)
    (((0, 16), (0, 32)), ((8, 8), (0, 0)))
    """
    rule, sides = PROTOCOLS[protocol], []
    # The reference's 32 also for networks that take finer sizes; ours is what they need.
    step = multiple if protocol == "reflect" else max(multiple, 32)
    for size in (height, width):
        target = reference_side(size) if rule.grows else _next(size, step)
        extra = max(target, _next(minimum, step)) - size
        before = extra // 2 if rule.centred else 0
        sides.append((before, extra - before))
    return sides[0], sides[1]


def padded_size(module: Any, protocol: str, height: int, width: int) -> tuple[int, int]:
    """Height and width that a network runs at for an image under a protocol."""
    rows, columns = padding(
        protocol, height, width, multiple=module.multiple, minimum=module.minimum
    )
    return height + sum(rows), width + sum(columns)


def restore(
    module: Any,
    protocol: str,
    variables: Mapping[str, Any],
    image: UInt8[Array, "1 h w 3"],
) -> UInt8[Array, "1 h w 3"]:
    """Restores one image under one of `PROTOCOLS`.

    Args:
      module: A generator.
      protocol: A name.
      variables: The generator's.
      image: RGB.
    """
    rule = PROTOCOLS[protocol]
    h, w = image.shape[1:3]
    rows, columns = padding(
        protocol, h, w, multiple=module.multiple, minimum=module.minimum
    )
    x = image.astype(jnp.float32) / 127.5 - 1
    mode = "reflect" if rule.mirrored else "constant"
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode=mode)
    y = module.apply(variables, x, train=False).astype(jnp.float32)
    y = y[:, rows[0] : rows[0] + h, columns[0] : columns[0] + w]
    y = (y + 1) / 2 * 255
    return (y if rule.truncated else jnp.round(y)).astype(jnp.uint8)


def _next(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple
