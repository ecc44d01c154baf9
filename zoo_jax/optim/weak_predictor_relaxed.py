"""The gradient of a weak predictor in place of the loss's: for continuous relaxations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key, step_key
from zoo_jax.core.types import Key, Params
from zoo_jax.optim.predictors.protocol import Predictor
from zoo_jax.optim.weak_predictor_state import (
    Buffer,
    Normalise,
    check_normalise,
    empty_buffer,
    fit_buffer,
    record,
)


class RelaxedState(NamedTuple):
    """State of `scale_by_weak_predictor`; fixed shapes, arrays only."""

    count: Int[Array, ""]  # values told, int32
    key: Key  # of the run, never changed
    buffer: Buffer  # the last `capacity` encoded points float32 [capacity, d]
    predictor_params: Params  # of the last fit


def scale_by_weak_predictor(
    predictor: Predictor,
    *,
    capacity: int = 100,
    first: int = 10,
    refit_every: int = 1,
    encode: Callable[[Any], Any] | None = None,
    warm_start: bool = False,
    normalise: Normalise = "buffer",
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the updates by minus the gradient of a predictor of ``value``.

    Each update is told how good its params are (``value``, higher is better), refits the
    predictor to the last `capacity` points, and points where it expects more. Chain it before
    an optimiser that descends::

        tx = optax.chain(scale_by_weak_predictor(gp_predictor()), optax.adam(0.1))
        updates, state = tx.update(grads, state, params, value=accuracy)

    The first updates pass the incoming gradient; add noise to it, or give none and vary the
    params otherwise: a predictor learns nothing from points that are all the same.

    Args:
      predictor: On vectors.
      capacity: Points remembered; the oldest leave.
      first: Values to be told before the predictor takes over.
      refit_every: Updates per fit.
      encode: Maps params to the vector that the predictor sees, such as the softmax of
        logits; by default all leaves, end to end.
      warm_start: Start a fit from the weights of the last one.
      normalise: As in `weak_predictor_search`.
      seed: Of the fits.

    Raises:
      ConfigError: for numbers out of range.

    Source: derived from arXiv 2102.10490, which searches discrete spaces only.

    >>> from zoo_jax.optim.predictors import gp_predictor
    >>> tx = optax.chain(scale_by_weak_predictor(gp_predictor(), first=3), optax.sgd(0.1))
    >>> params, state = {"x": jnp.zeros(2)}, None
    >>> state = tx.init(params)
    >>> for push in ([1.0, 0.0], [0.0, 1.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 0.0]):
    ...     value = params["x"][0]                     # better to the right
    ...     grads = {"x": jnp.array(push)}
    ...     updates, state = tx.update(grads, state, params, value=value)
    ...     params = optax.apply_updates(params, updates)
    >>> bool(updates["x"][0] > 0)
    True
    """
    if min(capacity, first, refit_every) < 1 or first > capacity:
        raise ConfigError(
            "scale_by_weak_predictor needs refit_every >= 1 and 1 <= first <= capacity, "
            f"got refit_every={refit_every}, first={first}, capacity={capacity}"
        )
    check_normalise(normalise)

    def vector(params):
        tree = params if encode is None else encode(params)
        leaves = [jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(tree)]
        return jnp.concatenate(leaves)

    def init_fn(params):
        point = jax.eval_shape(vector, params)
        buffer = empty_buffer(capacity, point)
        template = predictor.init(make_key(seed), buffer.items)
        zero = jnp.zeros((), jnp.int32)
        return RelaxedState(zero, make_key(seed), buffer, template)

    def update_fn(updates, state, params=None, *, value=None, **extra):
        del extra
        if params is None or value is None:
            raise ValueError(
                "scale_by_weak_predictor needs params and value: "
                "tx.update(grads, state, params, value=accuracy)"
            )
        value = jnp.asarray(value, jnp.float32)
        if value.ndim:
            raise ValueError(f"value must be one number, got shape {value.shape}")
        point, one = vector(params), jnp.ones(1, bool)
        buffer = record(
            state.buffer, point[None], value[None], one, state.count % capacity
        )
        count = optax.safe_increment(state.count)

        def fit(old):
            return fit_buffer(
                predictor,
                step_key(state.key, count),
                buffer,
                lambda points: points,
                old,
                count=count,
                sizes=(capacity,),
                normalise=normalise,
                warm_start=warm_start,
            )

        ready = count >= first
        due = ready & ((count - first) % refit_every == 0)
        fitted = lax.cond(due, fit, lambda old: old, state.predictor_params)

        def predicted(params):
            return predictor.predict(fitted, vector(params)[None])[0]

        uphill = jax.grad(predicted)(params)
        updates = jax.tree.map(
            lambda up, g: jnp.where(ready, -up.astype(g.dtype), g), uphill, updates
        )
        return updates, RelaxedState(count, state.key, buffer, fitted)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
