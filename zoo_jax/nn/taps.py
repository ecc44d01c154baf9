"""Reads what goes into the dense layers of a Flax network, and adds to what comes out.

Both together give the gradient of a kernel without forming it: with input a [t, d] and cotangent
b [t, e] of the output it is a^T b, and inner products of such gradients need only a and b
(`zoo_jax.optim.harmonized`). Networks need no change: calls of `nn.Dense` and `nn.Embed` are
intercepted, also inside `nn.remat`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array

from zoo_jax.core.tree import nest
from zoo_jax.core.types import Batch, Key, Params

TAPS, PROBES = "taps", "probes"
_LAYERS = (nn.Dense, nn.Embed)


class Tap(NamedTuple):
    """One call of one layer."""

    inputs: Array  # [..., d] of a Dense; integers [...] of an Embed
    outputs: Array  # [..., e]


@dataclasses.dataclass(frozen=True)
class ModuleTower:
    """A feature of one example by a Flax module; what `harmonized_gradient` calls a tower.

    Attributes:
      module: The network.
      call: ``(apply, example, key) -> feature``. It calls `apply` exactly once, as one calls
        ``module.apply`` but without the variables. An example is a batch without its leading axis.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> tower = ModuleTower(nn.Dense(2), lambda apply, x, key: apply(x["pixels"]))
    >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    >>> tower(params, {"pixels": jnp.ones(3)}, jax.random.key(0)).tolist()
    [3.0, 3.0]
    """

    module: nn.Module
    call: Callable[[Callable[..., Any], Batch, Key], Array]

    def __call__(self, params: Params, example: Batch, key: Key) -> Array:
        """The feature of one example."""
        return self.call(partial(self.module.apply, {"params": params}), example, key)

    def tapped(
        self, params: Params, example: Batch, key: Key, probes: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Tap]]:
        """The feature, and what went through the dense layers.

        Args:
          params: Of the module.
          example: One example.
          key: For dropout.
          probes: Added to the outputs of the calls that they name; shaped like these.

        Returns:
          The feature, and one `Tap` per call, named ``"encoder/layer_0/q/call_1"``: the path of
          the layer and the number of its call.
        """
        taps: dict[str, Tap] = {}

        def apply(*args: Any, **kwargs: Any) -> Any:
            variables = {"params": params, PROBES: nest(dict(probes))}
            with nn.intercept_methods(_record):
                out, new = self.module.apply(variables, *args, mutable=[TAPS], **kwargs)
            taps.update(_flat(new.get(TAPS, {})))
            return out

        return self.call(apply, example, key), taps


def _record(
    function: Callable, args: tuple, kwargs: dict[str, Any], context: Any
) -> Any:
    layer = context.module
    if context.method_name != "__call__" or type(layer) not in _LAYERS:
        return function(*args, **kwargs)
    outputs = function(*args, **kwargs)
    # Through variables, not through a list of ours: `nn.remat` hands these on as arrays.
    number = len(layer.get_variable(TAPS, "inputs", ()))
    if layer.has_variable(PROBES, f"call_{number}"):
        outputs = outputs + layer.get_variable(PROBES, f"call_{number}")
    layer.sow(TAPS, "inputs", args[0])
    layer.sow(TAPS, "outputs", outputs)
    return outputs


def _flat(taps: Mapping[str, Any], path: str = "") -> dict[str, Tap]:
    if "inputs" in taps and isinstance(taps["inputs"], tuple):
        pairs = zip(taps["inputs"], taps["outputs"], strict=True)
        return {f"{path}/call_{n}": Tap(*pair) for n, pair in enumerate(pairs)}
    return {
        name: tap
        for key, value in taps.items()
        for name, tap in _flat(value, f"{path}/{key}" if path else key).items()
    }
