"""Statistics of batch norms anew, after weights have changed without training."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.core.types import Batch, Key, Variables
from zoo_jax.task import Task, TrainState

if TYPE_CHECKING:
    import flax.linen as nn

Estimate = Callable[[Variables, Iterable[Batch]], Variables]


def norm_estimator(module: "nn.Module", network: str) -> Estimate:
    """Makes a function that replaces running statistics by means over batches of images.

    The network runs as in evaluation otherwise: no dropout, and weights stay.

    Args:
      module: Takes ``batch["image"]`` and ``train``. If it has norms, it has the field
        ``bn_momentum``: with 0 the statistics after a batch are those of the batch.
      network: Its name in the variables.

    Returns:
      ``estimate(variables, batches)``: the variables with statistics in which all batches
      weigh the same; unchanged for a network without norms, whose batches are not read.
      Raises `ConfigError` for norms without ``bn_momentum``.
    """
    fields = {"bn_momentum": 0.0, "dropout": 0.0}
    module = module.clone(**{k: v for k, v in fields.items() if hasattr(module, k)})

    def statistics(variables: Variables, batch: Batch, key: Key) -> Mapping[str, Any]:
        del key
        if not hasattr(module, "bn_momentum"):
            raise ConfigError(
                f"{type(module).__name__} has batch norms but no field bn_momentum: their "
                "statistics cannot be estimated anew"
            )
        _, state = module.apply(
            {
                "params": variables["params"][network],
                **variables["model_state"][network],
            },
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        return dict(state)

    return _averaging(statistics, network)


def task_norm_estimator(task: Task, network: str) -> Estimate:
    """The same for a network of any task, which sees what it sees in training.

    That need not be ``batch["image"]``: a denoiser sees it with noise. Dropout is on.

    Args:
      task: One of its players moves the network, and its loss updates the statistics as
        running means do: ``momentum * old + (1 - momentum) * those of the batch``.
      network: Its name in the variables.

    Returns:
      As `norm_estimator`.
    """
    player = next(player for player in task.players if network in player.owns)

    def statistics(variables: Variables, batch: Batch, key: Key) -> Mapping[str, Any]:
        def after(old: float) -> Mapping[str, Any]:
            states = dict(variables["model_state"])
            states[network] = jax.tree.map(
                lambda x: jnp.full_like(x, old), states[network]
            )
            zero = jnp.zeros((), jnp.int32)
            state = TrainState(
                step=zero,
                params=variables["params"],
                model_state=states,
                opt_state={},
                ema={},
                key=key,
                skipped=zero,
                streak=zero,
            )
            owned = {name: variables["params"][name] for name in player.owns}
            _, aux = player.loss(owned, state, batch, key)
            return aux.model_state[network]

        # The forward pass is one: in training it does not depend on running statistics.
        return jax.tree.map(_without_old, after(0.0), after(1.0))

    return _averaging(statistics, network)


def _without_old(zero: jax.Array, one: jax.Array) -> jax.Array:
    """Statistics of the batch from running ones that started at 0 and at 1."""
    # The difference is the momentum everywhere; it is most exact where the numbers are small.
    smallest = jnp.argmin(jnp.abs(zero).ravel())
    momentum = (one - zero).ravel()[smallest]
    return zero / (1 - momentum)


def _averaging(
    statistics: Callable[[Variables, Batch, Key], Mapping[str, Any]], network: str
) -> Estimate:
    statistics = jax.jit(statistics)

    def estimate(variables: Variables, batches: Iterable[Batch]) -> Variables:
        old = variables["model_state"].get(network)
        if not old:
            return variables
        mean, key = None, make_key(0)
        for count, batch in enumerate(batches, 1):
            new = statistics(variables, batch, jax.random.fold_in(key, count))
            before = new if mean is None else mean
            mean = jax.tree.map(lambda m, x, n=count: m + (x - m) / n, before, new)
        state = {**variables["model_state"], network: {**old, **mean}}
        return {**variables, "model_state": state}

    return estimate
