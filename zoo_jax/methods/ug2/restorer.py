"""How the enhancing networks are used on pictures: see `zoo_jax.restorer`."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.core.types import Restoring
from zoo_jax.methods.ug2.enhancers.histogram import match_histograms
from zoo_jax.methods.ug2.enhancers.resampling import enlarge, shrink
from zoo_jax.metrics.image import luma

# A step of the limited range of luma, 16..235, is so many steps of the full one.
_LUMA_TO_RGB = 255 / 219


def run_network(
    module: Any,
    variables: Mapping[str, Any],
    x: Float[Array, "b h w 3"],
    **options: Any,
) -> Any:
    """What a network makes of pictures in colour, of any real values, not clipped.

    A network of one channel sees the luma and changes nothing else.

    Args:
      module: Of `model.NETWORKS`.
      variables: Its own.
      x: RGB in [0, 1].
      **options: Of ``module.apply``; with ``mutable`` the new state is returned as well.
    """
    if getattr(module, "channels", 3) == 3:
        return module.apply(variables, x, **options)
    y = luma(x)
    out = module.apply(variables, y, **options)
    found, *state = out if "mutable" in options else (out,)
    image = x + _LUMA_TO_RGB * (found - y)
    return (image, *state) if state else image


def restore_matched(
    module: Any, variables: Mapping[str, Any], x: Float[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    """SRNet as published: its output with the histograms of its input."""
    return match_histograms(run_network(module, variables, x, train=False), x)


def restore_plain(
    module: Any, variables: Mapping[str, Any], x: Float[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    """The network's output, clipped to [0, 1]."""
    return jnp.clip(run_network(module, variables, x, train=False), 0.0, 1.0)


def restore_enlarged(
    module: Any, variables: Mapping[str, Any], x: Float[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    """Super-resolution: enlarged by two, sharpened by the network, and back.

    `restore_plain` is for a network that was trained on degraded pictures at their own size.
    """
    large = run_network(module, variables, enlarge(x, "bicubic"), train=False)
    return jnp.clip(shrink(large, "bicubic"), 0.0, 1.0)


def srnet_restoring(module: Any) -> Restoring:
    """Takes any size. Every pixel depends on the histograms of the whole picture."""
    del module
    return Restoring(restore_matched)


def super_resolution_restoring(module: Any) -> Restoring:
    """SRCNN and VDSR take any size."""
    del module
    return Restoring(restore_enlarged)


def arcnn_restoring(module: Any) -> Restoring:
    """Takes any size. The normal form sees 4 + 3 + 0 + 2 pixels to each side."""
    return Restoring(restore_plain, reach=9 if module.form == "normal" else None)
