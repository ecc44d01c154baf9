"""Fits by Adam with an early stop, in scikit-learn's manner; shared by MLP and GCN."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import Key, Params
from zoo_jax.optim.predictors.protocol import hide_masked, num_rows

Loss = Literal["mse", "pairwise"]
_FIRST_DECAY, _SECOND_DECAY, _EPS = 0.9, 0.999, 1e-8


class TrainingOptions(NamedTuple):
    """Settings of `train`; the defaults are scikit-learn's, but for `max_epochs`."""

    max_epochs: int = 100
    batch_size: int = 200  # rows per step; all where there are fewer
    l2: float = 1e-4  # on kernels, divided by the rows of the batch
    tol: float = 1e-4  # what counts as an improvement of the epoch's loss
    patience: int = 10  # epochs without one after which the next such epoch is the last
    learning_rate: float = 1e-3
    loss: Loss = "mse"

    def check(self) -> "TrainingOptions":
        """Returns self, or raises ConfigError for numbers out of range."""
        for name in ("max_epochs", "batch_size", "patience", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("l2", "tol"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} must be 0 or more, got {getattr(self, name)}"
                )
        if self.loss not in get_args(Loss):
            hint = closest(self.loss, get_args(Loss))
            raise ConfigError(f"unknown loss {self.loss!r}: {hint}")
        return self


class Trained(NamedTuple):
    """Result of `train`."""

    params: Params
    losses: Float[Array, "max_epochs"]  # of each epoch; NaN behind the last
    epochs: Any  # how many ran, int32


def squared_loss(predicted: Any, values: Any, mask: Any) -> Any:
    """Half the mean squared error over the rows with mask 1.

    >>> float(squared_loss(jnp.array([1.0, 9.0]), jnp.array([3.0, 0.0]), jnp.array([1.0, 0.0])))
    2.0
    """
    errors = jnp.square(predicted - values) * mask
    return 0.5 * jnp.sum(errors) / jnp.maximum(jnp.sum(mask), 1)


def pairwise_loss(predicted: Any, values: Any, mask: Any) -> Any:
    """Mean of softplus(-(p_i - p_j)) over pairs with v_i > v_j: only the order counts.

    Predictions that differ by a constant cost the same.

    Source: RankNet (ICML 2005), eq. 3 with certain targets.

    >>> one = jnp.ones(2)
    >>> right = pairwise_loss(jnp.array([4.0, 0.0]), jnp.array([0.2, 0.1]), one)
    >>> wrong = pairwise_loss(jnp.array([0.0, 4.0]), jnp.array([0.2, 0.1]), one)
    >>> round(float(right), 4), round(float(wrong), 4)
    (0.0181, 4.0181)
    """
    both = mask[:, None] * mask[None]
    above = jnp.where(values[:, None] > values[None], both, 0)
    costs = jax.nn.softplus(predicted[None] - predicted[:, None])
    return jnp.sum(costs * above) / jnp.maximum(jnp.sum(above), 1)


_LOSSES = {"mse": squared_loss, "pairwise": pairwise_loss}


def train(
    apply: Callable[[Params, Any], Any],
    key: Key,
    inputs: Any,
    values: Float[Array, "b"],
    mask: Float[Array, "b"],
    params: Params,
    options: TrainingOptions,
) -> Trained:
    """Minimises loss + l2/(2n) |kernels|^2 with Adam from `params` on.

    Like scikit-learn's ``MLPRegressor``: mini-batches of min(batch_size, n) rows, reshuffled
    each epoch; an epoch's loss is the mean over its batches as they were met, weights moving;
    the fit ends after `max_epochs`, or once more than `patience` epochs in a row have not
    lowered the best loss by `tol`; Adam adds eps to sqrt(v) *before* the bias correction.

    Args:
      apply: Maps params and inputs to predictions [b]. Leaves named ``kernel`` are decayed.
      key: Of the shuffles.
      inputs: Pytree with leading axis b.
      values: Targets.
      mask: 1 for rows to fit, 0 for padding, which may hold NaN.
      params: Where to start.
      options: See `TrainingOptions`.
    """
    loss = _LOSSES[options.loss]
    mask = mask.astype(values.dtype)
    inputs, values = hide_masked(inputs, mask), jnp.where(mask > 0, values, 0)
    rows, size = num_rows(inputs), options.batch_size
    count = jnp.sum(mask)

    def objective(params, inputs, values, mask):
        n = jnp.maximum(jnp.sum(mask), 1)
        return loss(apply(params, inputs), values, mask) + (
            0.5 * options.l2 / n * _squared_kernels(params)
        )

    def step(state, batch):
        params, m, v, t = state
        value, grads = jax.value_and_grad(objective)(params, *batch)
        t = t + 1
        m = _decay(_FIRST_DECAY, m, grads)
        v = _decay(_SECOND_DECAY, v, jax.tree.map(jnp.square, grads))
        rate = options.learning_rate * (
            jnp.sqrt(1 - _SECOND_DECAY**t) / (1 - _FIRST_DECAY**t)
        )
        params = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + _EPS), params, m, v
        )
        return (params, m, v, t), value

    if rows <= size:  # one batch holds all rows, in whatever order

        def epoch(index, state):
            del index
            return step(state, (inputs, values, mask))

    else:
        full = -(-rows // size) * size
        inputs, values, mask = jax.tree.map(
            lambda x: jnp.pad(x, [(0, full - rows)] + [(0, 0)] * (x.ndim - 1)),
            (inputs, values, mask),
        )

        def epoch(index, state):
            # The rows to fit in a random order, in front of the padding.
            draws = jax.random.uniform(jax.random.fold_in(key, index), (full,))
            order = jnp.argsort(jnp.where(mask > 0, draws, 2.0))

            def one(carry):
                start, state, total = carry
                at = lax.dynamic_slice(order, (start,), (size,))
                batch = jax.tree.map(lambda x: x[at], (inputs, values, mask))
                state, value = step(state, batch)
                return start + size, state, total + value * jnp.sum(batch[2])

            start = (jnp.zeros((), jnp.int32), state, jnp.zeros((), values.dtype))
            _, state, total = lax.while_loop(lambda c: c[0] < count, one, start)
            return state, total / jnp.maximum(count, 1)

    def go_on(carry):
        _, _, index, _, stale = carry
        return (index < options.max_epochs) & (stale <= options.patience)

    def body(carry):
        state, losses, index, best, stale = carry
        state, value = epoch(index, state)
        stale = jnp.where(value > best - options.tol, stale + 1, 0)
        losses = losses.at[index].set(value)
        return state, losses, index + 1, jnp.minimum(best, value), stale

    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros, jnp.zeros((), values.dtype))
    losses = jnp.full(options.max_epochs, jnp.nan, values.dtype)
    zero = jnp.zeros((), jnp.int32)
    best = jnp.full((), jnp.inf, values.dtype)
    state, losses, epochs, _, _ = lax.while_loop(
        go_on, body, (state, losses, zero, best, zero)
    )
    return Trained(state[0], losses, epochs)


def _squared_kernels(params: Params) -> Any:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    return sum(jnp.sum(jnp.square(kernel)) for kernel in kernels)


def _decay(rate: float, old: Params, new: Params) -> Params:
    return jax.tree.map(lambda a, b: rate * a + (1 - rate) * b, old, new)


def glorot(key: Key, fan_in: int, fan_out: int) -> dict[str, Array]:
    """A dense layer, kernel *and* bias uniform in ±sqrt(6 / (fan_in + fan_out)).

    >>> {name: leaf.shape for name, leaf in glorot(jax.random.key(0), 3, 2).items()}
    {'bias': (2,), 'kernel': (3, 2)}
    """
    bound = (6 / (fan_in + fan_out)) ** 0.5
    one, other = jax.random.split(key)
    return {
        "bias": jax.random.uniform(other, (fan_out,), minval=-bound, maxval=bound),
        "kernel": jax.random.uniform(
            one, (fan_in, fan_out), minval=-bound, maxval=bound
        ),
    }
