"""Parts of a parameter tree, named by path patterns."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.tree import first_match, map_named, named_leaves
from zoo_jax.core.types import Params


def mask(params: Params, patterns: str | Iterable[str]) -> Params:
    """Marks the leaves whose path matches a pattern.

    Args:
      params: Nested dicts of arrays.
      patterns: Shell style, one or several; ``*`` also crosses ``/``.

    Returns:
      A tree like `params` that holds Python booleans, as `optax.masked` takes it.

    Raises:
      ConfigError: if a pattern matches no leaf.

    >>> mask({"conv": {"kernel": 1.0, "bias": 0.0}}, "*/kernel")
    {'conv': {'bias': False, 'kernel': True}}
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    leaves = named_leaves(params)
    for pattern in patterns:
        if not any(first_match(name, [pattern]) for name in leaves):
            hint = closest(pattern, leaves)
            raise ConfigError(f"pattern {pattern!r} matches no parameter: {hint}")
    return map_named(lambda name, _: first_match(name, patterns) is not None, params)


def freeze(patterns: str | Iterable[str]) -> optax.GradientTransformationExtraArgs:
    """Sets the updates of matching leaves to zero. Must be the last link of a chain.

    Args:
      patterns: As in `mask`.

    Raises:
      ConfigError: at `init`, if a pattern matches no parameter.

    >>> import jax.numpy as jnp
    >>> tx = optax.chain(optax.sgd(1.0), freeze("stem/*"))
    >>> params = {"stem": {"w": jnp.ones(1)}, "head": {"w": jnp.ones(1)}}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> float(updates["stem"]["w"][0]), float(updates["head"]["w"][0])
    (0.0, -1.0)
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    tx = optax.masked(optax.set_to_zero(), partial(mask, patterns=patterns))
    return optax.with_extra_args_support(tx)


class ThawState(NamedTuple):
    """What `thaw` carries."""

    count: Int[Array, ""]  # updates so far
    inner: Any  # state of the optimiser


def thaw(
    inner: optax.GradientTransformation, patterns: str | Iterable[str], *, at: int
) -> optax.GradientTransformationExtraArgs:
    """Holds matching leaves still for a while, then moves all of them with fresh moments.

    For the first `at` updates the optimiser sees zero gradients for the matching leaves, so that
    they take no part in a norm either, and they stay bit for bit what they are. With the next
    update its whole state starts again: moments, and the count that its schedules go by. It is as
    if a second run with all leaves went on from the weights of a first one with few.

    The gradients of the held leaves are computed all the same.

    Args:
      inner: The optimiser.
      patterns: As in `mask`.
      at: How many updates the matching leaves are held.

    Raises:
      ValueError: if `at` is below 1.
      ConfigError: at `init`, if a pattern matches no parameter.

    >>> import jax.numpy as jnp
    >>> tx = thaw(optax.sgd(1.0), "stem/*", at=1)
    >>> params = {"stem": {"w": jnp.ones(1)}, "head": {"w": jnp.ones(1)}}
    >>> first, state = tx.update(params, tx.init(params), params)
    >>> second, _ = tx.update(params, state, params)
    >>> [[float(u[name]["w"][0]) for name in ("stem", "head")] for u in (first, second)]
    [[0.0, -1.0], [-1.0, -1.0]]
    """
    if at < 1:
        raise ValueError(f"thaw holds for at least 1 update, got at={at}")
    inner = optax.with_extra_args_support(inner)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)

    def init(params: Params) -> ThawState:
        mask(params, patterns)
        return ThawState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state: ThawState, params: Params = None, **extra):
        if params is None:
            raise ValueError(
                "thaw needs the parameters: tx.update(grads, state, params)"
            )
        held, marked = state.count < at, mask(params, patterns)

        def hold(tree):
            return jax.tree.map(
                lambda leaf, still: jnp.where(held, 0, leaf) if still else leaf,
                tree,
                marked,
            )

        # Not `where`: a fresh state may be costly, and all but one step keep the old one.
        before = jax.lax.cond(
            state.count == at, lambda: inner.init(params), lambda: state.inner
        )
        updates, after = inner.update(hold(updates), before, params, **extra)
        # Also afterwards, since weight decay does not come from the gradients.
        return hold(updates), ThawState(optax.safe_increment(state.count), after)

    return optax.GradientTransformationExtraArgs(init, update)
