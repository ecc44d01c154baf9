"""Statistics of batch norms anew, after weights have changed without training."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Batch, Variables

if TYPE_CHECKING:
    import flax.linen as nn


def norm_estimator(
    module: "nn.Module", network: str
) -> Callable[[Variables, Iterable[Batch]], Variables]:
    """Makes a function that replaces running statistics by means over batches.

    The network runs as in evaluation otherwise: no dropout, and weights stay.

    Args:
      module: Takes images and ``train``. If it has norms, it has the field ``bn_momentum``:
        with 0 the statistics after a batch are those of the batch.
      network: Its name in the variables.

    Returns:
      ``estimate(variables, batches)``: the variables with statistics in which all batches
      weigh the same; unchanged for a network without norms, whose batches are not read.
      Raises `ConfigError` for norms without ``bn_momentum``.
    """
    fields = {"bn_momentum": 0.0, "dropout": 0.0}
    module = module.clone(**{k: v for k, v in fields.items() if hasattr(module, k)})

    @jax.jit
    def statistics(variables: Variables, image: jax.Array) -> Mapping[str, Any]:
        _, state = module.apply(
            {
                "params": variables["params"][network],
                **variables["model_state"][network],
            },
            image,
            train=True,
            mutable=["batch_stats"],
        )
        return dict(state)

    def estimate(variables: Variables, batches: Iterable[Batch]) -> Variables:
        old = variables["model_state"].get(network)
        if not old:
            return variables
        if not hasattr(module, "bn_momentum"):
            raise ConfigError(
                f"{type(module).__name__} has batch norms but no field bn_momentum: their "
                "statistics cannot be estimated anew"
            )
        mean = None
        for count, batch in enumerate(batches, 1):
            new = statistics(variables, batch["image"])
            before = new if mean is None else mean
            mean = jax.tree.map(lambda m, x, n=count: m + (x - m) / n, before, new)
        state = {**variables["model_state"], network: {**old, **mean}}
        return {**variables, "model_state": state}

    return estimate
