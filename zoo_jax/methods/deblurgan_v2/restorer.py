"""How the generators are used on pictures: see `zoo_jax.restorer`."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from zoo_jax.core.types import Restoring
from zoo_jax.methods.deblurgan_v2.model import PlainResidual, image_statistics


def deblur(
    module: Any, variables: Mapping[str, Any], x: Float[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    """Sharp pictures from blurred ones, both in [0, 1]."""
    return 0.5 * module.apply(variables, 2.0 * x - 1.0, train=False) + 0.5


def picture_statistics(
    module: Any, variables: Mapping[str, Any], x: Float[Array, "1 h w 3"]
) -> Any:
    """What the norms of a generator normalise a picture in [0, 1] by."""
    return image_statistics(module, variables, 2.0 * x - 1.0)


def with_running_norms(module: Any) -> Any:
    """The same network that normalises by the statistics it is given."""
    return module.clone(norm_mode="running")


def reference_side(side: int) -> int:
    """Height or width that the released code pads to: multiples of 32 grow, too.

    >>> [reference_side(side) for side in (255, 256, 720, 1280)]
    [256, 288, 736, 1312]

    Source: released code of arXiv 1908.03826 (``predict.py``).
    """
    return (side // 32 + 1) * 32


def generator_restoring(module: Any) -> Restoring:
    """Sizes as the network has them; the released code pads with mid-grey."""
    restoring = Restoring(
        deblur,
        multiple=module.multiple,
        minimum=module.minimum,
        reference_side=reference_side,
        reference_fill=0.5,
    )
    if isinstance(module, PlainResidual):
        return restoring._replace(reach=2 * module.blocks + 2)
    if module.norm_mode == "running":
        return restoring
    return restoring._replace(statistics=picture_statistics, fixed=with_running_norms)
