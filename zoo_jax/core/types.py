"""The shapes that functions of this project pass to each other."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array
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
