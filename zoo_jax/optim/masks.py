"""Parts of a parameter tree, named by path patterns."""

from collections.abc import Iterable
from functools import partial

import optax

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
