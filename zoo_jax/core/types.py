"""The shapes that functions of this project pass to each other."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array, Float
from jaxtyping import Key as _Key

Key = _Key[Array, ""]  # a typed PRNG key
Params = Any  # nested dicts of arrays
Variables = Mapping[
    str, Any
]  # {"params": {network: Params}, "model_state": {network: PyTree}}
Batch = Mapping[
    str, Array
]  # leading axis b; evaluation batches carry "mask": Float[Array, "b"]
Terms = Mapping[str, Array]  # unweighted loss terms, each of shape "" or "b"
Metrics = Mapping[str, Array]
Ratios = Mapping[str, Any]  # name -> Ratio
RestoreFn = Callable[[Float[Array, "b h w 3"]], Float[Array, "b h w 3"]]
# RGB pictures in [0, 1] -> pictures of the same shape and range, restored or enhanced


class Restoring(NamedTuple):
    """How a network restores pictures: what `zoo_jax.restorer` needs to know of a method.

    The functions are those of a module, not closures, so that compiled programs are found again.
    """

    apply: Callable[[Any, Mapping[str, Any], Array], Array]
    # (linen module, its variables, pictures [b h w c] in [0, 1]) -> the same shape, in [0, 1]
    channels: int = 3
    multiple: int = 1  # of height and width
    minimum: int = 1  # of height and width
    reach: int | None = None
    # An output pixel depends on no input farther away, in rows or columns; None: it may.
    reference_side: Callable[[int], int] = (
        int  # height or width -> padded, in released code
    )
    reference_fill: float = 0.0  # of what released code pads with
    statistics: Callable[[Any, Mapping[str, Any], Array], Any] | None = None
    # (module, variables, one picture) -> "batch_stats" that it is normalised by; None: the
    # network takes none of the picture.
    fixed: Callable[[Any], Any] | None = None
    # The module that normalises by "batch_stats" instead; there where `statistics` is.
