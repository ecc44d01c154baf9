"""What every predictor offers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from zoo_jax.core.types import Params


class Predictor(NamedTuple):
    """A regressor as pure functions that can be jitted, vmapped and scanned.

    ``inputs`` is a pytree whose leaves share their leading axis: features [b, d], or
    ``(adjacency [b, n, n], ops [b, n, k])`` for graphs.

    Params depend on the inputs by shape alone. Where a fit on fewer rows gives smaller
    leaves (a Gaussian process keeps its rows), zeros behind them up to the shapes of a fit
    on more rows change no prediction; so one state holds the fits of all rounds.
    """

    # init(key, inputs) -> params
    init: Callable[[Any, Any], Params]
    # fit(key, inputs, values [b], mask [b], params) -> params; rows with mask 0 may hold
    # NaN, and never matter
    fit: Callable[[Any, Any, Any, Any, Params], Params]
    # predict(params, inputs) -> [m]
    predict: Callable[[Params, Any], Any]
    # predict_moments(params, inputs) -> (mean [m], deviation [m]); None: it knows no doubt
    predict_moments: Callable[[Params, Any], tuple[Any, Any]] | None = None
    # predict_members(params, inputs) -> [e, m]; None: it is no ensemble
    predict_members: Callable[[Params, Any], Any] | None = None


def num_rows(inputs: Any) -> int:
    """Length of the leading axis that the leaves share."""
    return jax.tree.leaves(inputs)[0].shape[0]


def hide_masked(inputs: Any, mask: Any) -> Any:
    """Inputs with zeros in the rows of mask 0, so that NaN there cannot spread."""
    keep = mask > 0

    def hide(leaf):
        rows = keep.reshape(keep.shape + (1,) * (leaf.ndim - 1))
        return jnp.where(rows, leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(hide, inputs)


def on_cpu() -> bool:
    """Whether programs traced now run on a CPU."""
    return jax.default_backend() == "cpu"


def map_leading(f: Callable[[Any], Any], xs: Any) -> Any:
    """`f` over the leading axis of `xs`: one after the other on a CPU, else `jax.vmap`.

    XLA's CPU backend turns a batch of small matrix products into a loop of slow ones, and a
    batched early stop waits for the last member; a loop over whole fits has neither cost.
    """
    return lax.map(f, xs) if on_cpu() else jax.vmap(f)(xs)
